"""One iteration after another: the only place that knows the order of things.

Every stage writes a mark when it is complete, so a run that was killed goes on where it was: committed groups are not
made again, a finished stage is not repeated. Weight version `v0` is the start model, `v1` what iteration 0 trained.
"""

import functools
from collections.abc import Callable
from typing import Any

import httpx

from cluster.session import Session, check_capacity, open_session
from pipelines.config import RunConfig, training_at
from pipelines.ledger import Kind, Ledger
from pipelines.plan import resource_plan
from pipelines.progress import RunProgress
from pipelines.recipes.base import Step
from pipelines.records import Group
from pipelines.run import Run, RunError, asking, prepare
from pipelines.steps.accounting import accounting
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.make_prompts import prompts_for_iteration, with_samples
from pipelines.steps.new_prompts import generation_report, kept_prompts, prompt_requests, read_replies
from pipelines.steps.pairs import policys_own
from pipelines.steps.parts import visible
from pipelines.steps.render import transcript

MAX_ASKED = 4  # requests for each new prompt that is wanted: a generator that repeats itself gives fewer


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
        url = session.start_judge(judge, sources[judge][1], run.ledger.path)
        where = f"at {url}/v1/judgements" if url else f"below {session.route} at this cluster's HTTP address"
        progress.say(f"live judge {where}" + (f", the run at {url}/run" if url else ""))
    run.ledger.event("models_ready", versions={name: source[0] for name, source in sources.items()}, url=session.url)


def run_iteration(run: Run, session: Session, iteration: int) -> None:
    """New prompts, groups, pairs, training, weight update; stages that are marked done are skipped."""
    ledger = run.ledger
    run.progress.version = f"v{iteration}"
    stages: list[tuple[str, Callable[[Run, Session, int], dict[str, Any]]]] = [
        ("groups", make_groups),
        ("pairs", make_pairs),
        ("train", train_policy),
        ("sync", update_weights),
    ]
    if run.generator(iteration):
        stages.insert(0, ("prompts", make_prompts))
    for name, stage in stages:
        ledger.complete(iteration, name, functools.partial(stage, run, session, iteration))


def make_prompts(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Let the generator write until there are enough prompts; what it wrote is committed and not asked for again."""
    new = run.generator(iteration)
    assert new is not None
    ledger, context = run.ledger, run.context(iteration)
    earlier = [group for before in range(iteration) for group in kept_prompts(ledger.iter_groups(before, "prompts"))]
    replies: list[Group] = []
    kept: list[Group] = []
    while lacking := min(new.count - len(kept), MAX_ASKED * new.count - len(replies)):
        numbers = range(len(replies), len(replies) + lacking)
        requests = prompt_requests(new, run.prompts, earlier + kept, context, numbers)
        _stream(run, iteration, requests, asking(new), "prompts")
        asked = {request["prompt_id"] for request in requests}
        raw = (group for group in ledger.iter_groups(iteration, "prompts") if group["prompt_id"] in asked)
        known = (transcript(group["messages"]) for group in [*run.prompts, *earlier, *kept])
        replies += read_replies(raw, known, new)
        kept = kept_prompts(replies)
    if len(kept) < new.count:
        run.progress.say(f"iteration {iteration}: {len(kept)} of {new.count} new prompts can be used")
    ledger.replace_groups(iteration, replies, "prompts")
    return generation_report(replies)


def make_groups(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Stream the iteration's prompts through the role stages; committed groups are not made again."""
    prompts = iteration_prompts(run, iteration)
    steps = run.recipe.steps(run.config.method, iteration)
    return _stream(run, iteration, prompts, steps, "groups")


def iteration_prompts(run: Run, iteration: int) -> list[Group]:
    """What this iteration answers: a file's rows, or its share of the prompts and what was generated for it."""
    config, reuse = run.config, run.recipe.reuse_prompts
    source = run.recipe.rows(config.method, iteration)
    if source:
        return prompts_for_iteration(run.rows[source], iteration, None, True, config.seed)
    limit = config.prompts_limit
    if limit is None and not reuse:  # each iteration its own share
        limit = max(1, len(run.prompts) // config.iterations)
    new = run.generator(iteration)
    generated = kept_prompts(run.ledger.iter_groups(iteration, "prompts")) if new else []
    if new and not new.with_seeds:
        if not generated:
            raise RunError(f"iteration {iteration}: none of the generator's replies can be used as a prompt")
        return generated
    prompts = prompts_for_iteration(run.prompts, iteration, limit, reuse, config.seed)
    if run.recipe.keep_samples and iteration:
        prompts = with_samples(prompts, run.ledger.iter_groups(iteration - 1))
    return prompts + generated


def _stream(run: Run, iteration: int, groups: list[Group], steps: list[Step], kind: Kind) -> dict[str, Any]:
    """Run the steps over those of the groups that are not committed yet."""
    from pipelines.stream import stream_groups

    config, ledger, progress = run.config, run.ledger, run.progress
    committed = ledger.committed_prompt_ids(iteration, kind)
    missing = [group for group in groups if group["prompt_id"] not in committed]
    done, tokens, judged, parsed = len(groups) - len(missing), 0, 0, 0
    progress.stage(f"iteration {iteration}: {kind}", len(groups), done)
    if missing:
        stream = stream_groups(
            ledger.run_id, config, run.sources(iteration), missing, steps, run.context(iteration), ledger, kind
        )
        for part in stream:
            done, tokens = done + part["groups"], tokens + part["tokens"]
            judged, parsed = judged + part["judgements"], parsed + part["parsed"]
            progress.update(done, tokens, parsed / judged if judged else None)
    absent = {group["prompt_id"] for group in groups} - ledger.committed_prompt_ids(iteration, kind)
    if absent:
        raise RunError(f"iteration {iteration}: {len(absent)} {kind} were not committed; run `appellate resume`")
    return {"groups": len(groups), "already_there": len(groups) - len(missing), "tokens": tokens}


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
    if run.generator(iteration):
        report["new_prompts"] = ledger.done(iteration, "prompts")
    ledger.replace_groups(iteration, selected)
    version = run.sources(iteration)[config.roles["policy"]][0]
    pairs = policys_own(pairs, selected, version, recipe.teaches)
    if not pairs:
        progress.say(f"iteration {iteration} made no pair from {len(selected)} groups: {report['dropped']}")
        return {"pairs": 0, "accounting": report}
    progress.stage(f"iteration {iteration}: reference", len(pairs))
    config = config.model_copy(update={"training": training_at(config, iteration)})
    scored_pairs = stream_pairs(run.ledger.run_id, config, run.sources(iteration), pairs, progress.update)
    ledger.commit_pairs(iteration, scored_pairs, "all")
    return {"pairs": len(pairs), "accounting": report}


def train_policy(run: Run, session: Session, iteration: int) -> dict[str, Any]:
    """Train from the weights that made the pairs, or the start weights; the checkpoint is the next version.

    Without pairs nothing changes.
    """
    if not (run.ledger.done(iteration, "pairs") or {}).get("pairs"):
        return {"skipped": True, "steps": 0}
    from pipelines.training.trainer import train, watch

    judge_before = _ask_judge(run, session, iteration)
    with watch(run.ledger, iteration, run.progress):
        sources, roles = run.sources(iteration), run.config.roles
        settings = training_at(run.config, iteration)
        (version, folder), (reference_version, _) = sources[roles["policy"]], sources[roles["reference"]]
        if settings.start_from == "seed":
            version, folder = "v0", run.model_folder
        summary = train(settings, run.config.seed, run.ledger, iteration, version, folder, reference_version)
    compared = () if settings.needs_pairs else ("first_dpo_loss", "last_dpo_loss", "last_accuracy", "last_margin")
    summary = {key: value for key, value in summary.items() if key not in compared}
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
    answered = ((group, distinct_samples(group)) for group in run.ledger.iter_groups(iteration))
    group, samples = min((found for found in answered if found[1]), key=lambda f: f[0]["prompt_id"], default=(None, []))
    if group is None:
        return None
    structured = run.config.models[run.config.roles["judge"]].engine == "vllm"
    body = {"messages": group["messages"], "responses": [visible(samples[0])], "votes": 3, "seed": 0}
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
