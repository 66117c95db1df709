"""Groups stream through the role stages, pairs through the reference: Ray Data over async actors.

Each stage is one Ray Data operator whose actor works on many groups at once and waits on the model pools, so stages
overlap and the engines stay full. The last stage commits, so what the driver sees is already on disk.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from actors.chat import ChatFormat, ChatFormatError
from actors.judge import Judge
from actors.meta_judge import MetaJudge
from actors.policy import Policy
from actors.pool import PoolClient
from actors.protocols import PROTOCOLS
from actors.reference import Reference
from actors.speaker import PromptTooLong, Speaker
from pipelines.config import RunConfig, dump, load_dump
from pipelines.ledger import Kind, Ledger
from pipelines.plan import STAGE_CPUS
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, SampleStep, Step
from pipelines.records import Group, Pair, Sample, digest, groups_table, pairs_table
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.meta import meta_judge_pairs

Sources = dict[str, tuple[str, str]]  # model -> weight version and checkpoint folder


def role_of(step: Step) -> str:
    """The role that a step asks."""
    return "meta_judge" if isinstance(step, MetaJudgeStep) else step.role


def _connect(
    run: str, config: dict[str, Any], sources: Sources, role: str
) -> tuple[PoolClient, ChatFormat, str, RunConfig]:
    """Client and chat format of the model that plays `role`, the version it must answer with, and the settings."""
    settings = load_dump(config)
    model, stream = settings.roles[role], settings.stream
    version, folder = sources[model]
    client = PoolClient(run, model, stream.request_timeout_s, stream.unavailable_timeout_s)
    return client, ChatFormat.load(folder), version, settings


class RoleStage:
    """A Ray Data callable: an Arrow batch of groups in, the same groups with one more kind of record out."""

    def __init__(self, run: str, config: dict[str, Any], sources: Sources, step: Step, context: Context):
        client, chat, self._version, settings = _connect(run, config, sources, role_of(step))
        speaker = Speaker(client, chat, settings.models[client.model].max_model_len)
        self._step, self._context = step, context
        self._speaker = speaker
        self._policy, self._judge, self._meta_judge = Policy(speaker), Judge(speaker), MetaJudge(speaker)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        groups: list[Group] = batch.to_pylist()
        return groups_table(list(await asyncio.gather(*(self._work(group) for group in groups))))

    async def _work(self, group: Group) -> Group:
        if group["dropped"]:
            return group
        if isinstance(self._step, JudgeStep):
            return {**group, "judgements": group["judgements"] + await self._judgements(group, self._step)}
        if isinstance(self._step, MetaJudgeStep):
            return {**group, "meta_judgements": await self._meta_judgements(group, self._step)}
        try:
            made = await self._samples(group, self._step)
        except PromptTooLong:
            return {**group, "dropped": "prompt_too_long"}
        except ChatFormatError:
            return {**group, "dropped": "unusable_text"}
        first = 1 + max((sample["index"] for sample in group["samples"]), default=-1)
        numbered = [Sample(**{**sample, "index": index}) for index, sample in enumerate(made, first)]
        return {**group, "samples": group["samples"] + numbered}

    async def _samples(self, group: Group, step: SampleStep) -> list[Sample]:
        if step.shown is None:
            return await self._policy.sample(group, step, self._context, self._version)
        replies = await asyncio.gather(
            *(
                _unless_unaskable(self._policy.sample(group, step, self._context, self._version, shown))
                for shown in step.shown(group, self._context)
            )
        )
        return [sample for reply in replies for sample in reply]

    async def _judgements(self, group: Group, step: JudgeStep) -> list[Any]:
        samples = distinct_samples(group, step.kinds) if step.only is None or step.only(group) else []
        if PROTOCOLS[step.protocol].responses == 1:
            calls = [([sample], 0) for sample in samples]
        else:
            calls = [([a, b], order) for i, a in enumerate(samples) for b in samples[i + 1 :] for order in (0, 1)]
        replies = await asyncio.gather(
            *(
                _unless_unaskable(self._judge.judge(group, some, step, self._context, self._version, order))
                for some, order in calls
            )
        )
        return [judgement for reply in replies for judgement in reply]

    async def _meta_judgements(self, group: Group, step: MetaJudgeStep) -> list[Any]:
        pairs = meta_judge_pairs(group, self._context)
        if step.by == "claims":
            from pipelines.evaluation.services.claims_meta_judge import compare_by_claims

            return await compare_by_claims(self._speaker, group, pairs, step, self._context, self._version)
        replies = await asyncio.gather(
            *(
                _unless_unaskable(self._meta_judge.compare(group, pair, order, step, self._context, self._version))
                for pair in pairs
                for order in (0, 1)
            )
        )
        return [verdict for reply in replies for verdict in reply]


async def _unless_unaskable(call: Awaitable[list[Any]]) -> list[Any]:
    """The call's records; none where its messages cannot be put to the model, which is no fault of the other calls."""
    try:
        return await call
    except (PromptTooLong, ChatFormatError):
        return []


class CommitGroups:
    """The last stage: groups become an atomic part file, and a small row tells the driver."""

    def __init__(self, ledger: Ledger, iteration: int, kind: Kind):
        self._ledger, self._iteration, self._kind = ledger, iteration, kind

    def __call__(self, batch: pa.Table) -> pa.Table:
        groups: list[Group] = batch.to_pylist()
        self._ledger.commit_groups(self._iteration, groups, self._kind)
        judgements = [j for g in groups for j in g["judgements"]]
        tokens = sum(s["n_tokens"] for g in groups for s in g["samples"])
        tokens += sum(len(j["token_ids"]) for j in judgements)
        row = {
            "groups": len(groups),
            "tokens": tokens,
            "judgements": len(judgements),
            "parsed": sum(j["status"] == "ok" for j in judgements),
        }
        return pa.Table.from_pylist([row])


class ReferenceStage:
    """A Ray Data callable: pairs in, pairs with prompt ids and, where the loss reads them, reference scores out."""

    def __init__(self, run: str, config: dict[str, Any], sources: Sources):
        client, _, self._version, settings = _connect(run, config, sources, "reference")
        # Prompts are rendered as the policy, which learns from them, sees them.
        self._reference = Reference(client, ChatFormat.load(sources[settings.roles["policy"]][1]))
        self._needed = settings.training.needs_reference

    async def __call__(self, batch: pa.Table) -> pa.Table:
        pairs: list[Pair] = batch.to_pylist()
        if not self._needed:
            return pairs_table([self._reference.tokenised(pair) for pair in pairs])
        return pairs_table(await self._reference.score(pairs, self._version))


def stream_groups(
    run: str, config: RunConfig, sources: Sources, groups: list[Group], steps: list[Step], context: Context,
    ledger: Ledger, kind: Kind = "groups",
) -> Iterator[dict[str, int]]:
    """Run `steps` over `groups` and commit them as `kind`.

    Yields {"groups", "tokens", "judgements", "parsed"} as parts land.
    """
    table = groups_table(groups)
    dataset = _dataset([table.slice(i, 1) for i in range(table.num_rows)])
    for step in steps:
        arguments = {"run": run, "config": dump(config), "sources": sources, "step": step, "context": context}
        dataset = _stage(dataset, RoleStage, arguments, config.stream.groups_in_flight)
    dataset = dataset.map_batches(
        CommitGroups,
        fn_constructor_kwargs={"ledger": ledger, "iteration": context.iteration, "kind": kind},
        batch_size=config.stream.groups_per_part,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        num_cpus=STAGE_CPUS,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def stream_pairs(
    run: str, config: RunConfig, sources: Sources, pairs: list[Pair], done: Callable[[int], None]
) -> list[Pair]:
    """The pairs with reference log-probabilities, in the order given; a prompt is computed once for up to 8 pairs."""
    prompts: dict[str, list[Pair]] = {}
    for pair in pairs:
        prompts.setdefault(digest(pair["messages"]), []).append(pair)
    blocks = [some[i : i + 8] for some in prompts.values() for i in range(0, len(some), 8)]
    arguments = {"run": run, "config": dump(config), "sources": sources}
    dataset = _stage(
        _dataset([pairs_table(block) for block in blocks]), ReferenceStage, arguments, config.stream.groups_in_flight
    )
    scored: list[Pair] = []
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        scored += batch.to_pylist()
        done(len(scored))
    place = {pair["pair_id"]: i for i, pair in enumerate(pairs)}
    return sorted(scored, key=lambda pair: place[pair["pair_id"]])


def _dataset(blocks: list[pa.Table]) -> Any:
    """A data set of these blocks, which are neither merged nor waited for."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []  # its memory advice is for tasks, not for a few long-lived actors
    return ray.data.from_arrow(blocks)


def _stage(dataset: Any, stage: type, arguments: dict[str, Any], in_flight: int) -> Any:
    return dataset.map_batches(
        stage,
        fn_constructor_kwargs=arguments,
        batch_size=None,  # a block
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=2 * in_flight, max_concurrent_calls_per_actor=in_flight
        ),
        num_cpus=STAGE_CPUS,
    )
