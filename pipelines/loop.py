"""One iteration after another: the only place that knows the order of things.

Every stage writes a mark when it is complete, so a run that was killed goes on where it was: committed groups are not
made again, a finished stage is not repeated. Weight version `v0` is the start model, `v1` what iteration 0 trained.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from cluster.session import Session, check_capacity, open_session
from pipelines.config import RunConfig
from pipelines.ledger import Ledger
from pipelines.plan import resource_plan
from pipelines.progress import RunProgress, tell_bad_rows
from pipelines.recipes import get_recipe
from pipelines.recipes.base import Context, Recipe, SampleStep
from pipelines.records import Group
from pipelines.steps.accounting import accounting
from pipelines.steps.make_prompts import InputError, prompts_for_iteration, read_prompts
from pipelines.steps.render import prompt_messages


class RunError(RuntimeError):
    """The run cannot go on; the message says which stage, why, and what to do."""


@dataclass
class Run:
    """What the stages of one run share."""

    config: RunConfig
    ledger: Ledger
    model_folder: str
    prompts: list[Group]
    progress: RunProgress

    @property
    def recipe(self) -> Recipe:
        """The method."""
        return get_recipe(self.config.recipe)

    def folder(self, version: int) -> str:
        """Checkpoint of weight version `v{version}`; an iteration without pairs leaves the one before it."""
        for iteration in reversed(range(version)):
            if not (self.ledger.done(iteration, "train") or {}).get("skipped"):
                return self.ledger.checkpoint_dir(iteration)
        return self.model_folder

    def sources(self, version: int) -> dict[str, tuple[str, str]]:
        """Weight version and checkpoint of every model while the policy is at `v{version}`."""
        from actors.checkpoints import resolve_model

        return {
            name: (f"v{version}", self.folder(version)) if model.path is None else ("frozen", resolve_model(model.path))
            for name, model in self.config.models.items()
        }

    def context(self, iteration: int) -> Context:
        """Where pure functions stand in this iteration."""
        return Context(self.config.seed, self.config.recipe, iteration)

    def followers(self) -> list[str]:
        """The models that follow training: all that have no checkpoint of their own."""
        return [name for name, model in self.config.models.items() if model.path is None]


def prepare(config: RunConfig, ledger: Ledger, progress: RunProgress) -> Run:
    """Everything that can fail is tried before any actor starts: model, prompts, chat template, prompt lengths."""
    from actors.chat import ChatFormat, ChatFormatError
    from actors.checkpoints import as_trained, resolve_model

    if "://" in ledger.path:
        raise RunError(f"{ledger.path}: training needs a run folder that is mounted on every node; set runs_dir")
    folder = resolve_model(config.model)
    found = read_prompts(config.prompts, None, config.on_bad_rows)
    tell_bad_rows(found.bad_rows, ledger, progress)
    run = Run(config, ledger, as_trained(folder), found.groups, progress)
    chat = ChatFormat.load(run.model_folder)
    for name, (_, other) in run.sources(0).items():
        if other != run.model_folder:
            progress.say(f"{name} stays on {other}")
            ChatFormat.load(other)
    limit = config.models[config.roles["policy"]].max_model_len
    template = next(s.template for s in run.recipe.steps(config.method, 0) if isinstance(s, SampleStep))
    for row, group in enumerate(found.groups, 1):
        where = f"{config.prompts}: prompt {row} ({group['messages'][-1]['content'][:40]!r}...)"
        try:
            length = len(chat.render(prompt_messages(group, template)))
        except ChatFormatError as error:
            raise InputError(f"{where}: {error}") from error
        if length >= limit:
            raise InputError(
                f"{where} has {length} tokens, the model takes {limit} with the answer; "
                f"shorten it or raise models.{config.roles['policy']}.max_model_len"
            )
    return run


def execute(config: RunConfig, ledger: Ledger, progress: RunProgress) -> dict[str, Any]:
    """Run, or go on with, all iterations; returns the summary that finished.json holds."""
    done = ledger.finished()
    if done is not None:
        return done
    with ledger.lock():
        run = prepare(config, ledger, progress)
        first = next((t for t in range(config.iterations) if not ledger.done(t, "train")), config.iterations)
        progress.say(f"run folder {ledger.path}")
        with open_session(ledger.run_id, config.models, config.sync, config.serve, config.address) as session:
            total = resource_plan(config)["total"]
            check_capacity(total["cpus"], total["gpus"])
            _start_models(run, session, first)
            for iteration in range(config.iterations):
                if not ledger.done(iteration, "sync"):
                    run_iteration(run, session, iteration)
            summary = summarise(run)
            ledger.mark_finished(summary)
    return summary


def _start_models(run: Run, session: Session, version: int) -> None:
    progress, config = run.progress, run.config
    sources = run.sources(version)
    progress.version = f"v{version}"
    progress.stage("starting models", len(sources))
    session.start_models(sources, lambda waiting: progress.update(len(sources) - len(waiting), note=", ".join(waiting)))
    progress.update(len(sources))
    if config.serve.enabled:
        judge = config.roles["judge"]
        url = session.start_judge(judge, sources[judge][1])
        where = f"at {url}/v1/judgements" if url else f"below {session.route} at this cluster's HTTP address"
        progress.say(f"live judge {where}")
    run.ledger.event("models_ready", versions={name: source[0] for name, source in sources.items()}, url=session.url)


def run_iteration(run: Run, session: Session, iteration: int) -> None:
    """Groups, pairs, training, weight update; stages that are marked done are skipped."""
    ledger = run.ledger
    run.progress.version = f"v{iteration}"
    stages: list[tuple[str, Callable[[Run, Session, int], dict[str, Any]]]] = [
        ("groups", make_groups),
        ("pairs", make_pairs),
        ("train", train_policy),
        ("sync", update_weights),
    ]
    for name, stage in stages:
        ledger.complete(iteration, name, functools.partial(stage, run, session, iteration))


def make_groups(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Stream the iteration's prompts through the role stages; committed groups are not made again."""
    from pipelines.stream import stream_groups

    config, ledger, progress = run.config, run.ledger, run.progress
    limit = config.prompts_limit
    if limit is None and not run.recipe.reuse_prompts:  # each iteration its own share
        limit = max(1, len(run.prompts) // config.iterations)
    prompts = prompts_for_iteration(run.prompts, iteration, limit, run.recipe.reuse_prompts, config.seed)
    committed = ledger.committed_prompt_ids(iteration)
    missing = [group for group in prompts if group["prompt_id"] not in committed]
    progress.stage(f"iteration {iteration}: groups", len(prompts), len(prompts) - len(missing))
    done, tokens, judged, parsed = len(prompts) - len(missing), 0, 0, 0
    if missing:
        steps = run.recipe.steps(config.method, iteration)
        stream = stream_groups(
            run.ledger.run_id, config, run.sources(iteration), missing, steps, run.context(iteration), ledger
        )
        for part in stream:
            done, tokens = done + part["groups"], tokens + part["tokens"]
            judged, parsed = judged + part["judgements"], parsed + part["parsed"]
            progress.update(done, tokens, parsed / judged if judged else None)
    absent = {group["prompt_id"] for group in prompts} - ledger.committed_prompt_ids(iteration)
    if absent:
        raise RunError(f"iteration {iteration}: {len(absent)} groups were not committed; run `appellate resume`")
    return {"groups": len(prompts), "already_there": len(prompts) - len(missing), "tokens": tokens}


def make_pairs(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Select pairs from the committed groups and add the reference's log-probabilities."""
    from pipelines.stream import stream_pairs

    config, ledger, progress, recipe = run.config, run.ledger, run.progress, run.recipe
    context = run.context(iteration)

    def groups() -> Any:
        return (recipe.read(group, config.method, context) for group in ledger.iter_groups(iteration))

    statistics = recipe.statistics(groups(), config.method, context)
    selected, pairs = [], []
    for group in groups():
        scored, made = recipe.select(group, statistics, config.method, context)
        selected.append(scored)
        pairs += made
    report = accounting(selected, pairs)
    ledger.replace_groups(iteration, selected)
    if config.roles["judge"] != config.roles["policy"]:  # another model's judgements are not the policy's to learn from
        pairs = [pair for pair in pairs if pair["kind"] != "judge"]
    if not pairs:
        progress.say(f"iteration {iteration} made no pair from {len(selected)} groups: {report['dropped']}")
        return {"pairs": 0, "accounting": report}
    progress.stage(f"iteration {iteration}: reference", len(pairs))
    scored_pairs = stream_pairs(run.ledger.run_id, config, run.sources(iteration), pairs, progress.update)
    ledger.commit_pairs(iteration, scored_pairs, "all")
    return {"pairs": len(pairs), "accounting": report}


def train_policy(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """DPO from the weights that made the pairs; the checkpoint is the next version. Without pairs nothing changes."""
    if not (run.ledger.done(iteration, "pairs") or {}).get("pairs"):
        return {"skipped": True, "steps": 0}
    from pipelines.training.trainer import train, watch

    judge_before = _ask_judge(run, session, iteration)
    with watch(run.ledger, iteration, run.progress):
        sources, roles = run.sources(iteration), run.config.roles
        (version, folder), (reference_version, _) = sources[roles["policy"]], sources[roles["reference"]]
        summary = train(
            run.config.training, run.config.seed, run.ledger, iteration, version, folder, reference_version
        )
    return {**summary, "judge_before": judge_before}


def update_weights(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Bring every model that follows training to the new checkpoint, live."""
    version = f"v{iteration + 1}"
    followers = run.followers()
    run.progress.stage(f"iteration {iteration}: weights {version}", len(followers))
    reports = {}
    for count, model in enumerate(followers, 1):
        current = set(session.clients[model].versions())
        if current != {version}:  # a resumed run starts its models on the newest checkpoint
            report = session.sync(model, version, run.folder(iteration + 1))
            reports[model] = {"replicas": report.replicas, "prepare_s": report.prepare_s, "load_s": report.load_s}
        if count == len(followers):
            run.progress.version = version
        run.progress.update(count)
    return {"version": version, "models": reports, "judge_after": _ask_judge(run, session, iteration)}


def _ask_judge(run: Run, session: Session, iteration: int) -> dict[str, Any] | None:
    """One live judgement of the iteration's first group over HTTP, as any client would ask for it."""
    if not session.url:
        return None
    group = min(
        (group for group in run.ledger.iter_groups(iteration) if group["samples"]), key=lambda g: g["prompt_id"],
        default=None,
    )
    if group is None:
        return None
    sample = min(group["samples"], key=lambda s: s["index"])
    structured = run.config.models[run.config.roles["judge"]].engine == "vllm"
    body = {"messages": group["messages"], "responses": [sample["text"] or "(empty)"], "votes": 3, "seed": 0}
    body |= {"structured": structured, "max_tokens": 128}
    try:
        reply = httpx.post(f"{session.url}/v1/judgements", json=body, timeout=300)
    except httpx.HTTPError as error:
        return {"error": f"no answer: {error!r}"[:500]}  # only the report misses it
    if reply.status_code != 200:
        return {"error": reply.text[:500]}
    answer = reply.json()
    return {
        "weight_version": answer["weight_version"],
        "scores": answer["scores"],
        "readable": answer["usage"]["votes"] - answer["usage"]["unreadable_votes"],
        "votes": answer["usage"]["votes"],
        "text": answer["votes"][0]["text"][-300:],
    }


def summarise(run: Run) -> dict[str, Any]:
    """What the run did, from its marks."""
    iterations = []
    for iteration in range(run.config.iterations):
        pairs = run.ledger.done(iteration, "pairs") or {}
        iterations.append(
            {
                "iteration": iteration,
                "groups": (run.ledger.done(iteration, "groups") or {}).get("groups"),
                "pairs": pairs.get("accounting", {}).get("pairs"),
                "training": run.ledger.done(iteration, "train"),
                "sync": run.ledger.done(iteration, "sync"),
                "checkpoint": run.ledger.checkpoint_dir(iteration),
            }
        )
    return {"run": run.ledger.path, "recipe": run.config.recipe, "iterations": iterations}
