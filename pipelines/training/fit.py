"""One training from start weights to a checkpoint, on one worker of a group that torch.distributed connects.

The plan (which pairs in which step) follows from the pairs and the seed, and the state from which a killed training
goes on is the same for every strategy and number of workers: a restarted, larger or smaller group takes the same steps.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipelines.ledger import Ledger
from pipelines.records import Pair, digest, pairs_table
from pipelines.training.batching import step_plan
from pipelines.training.checkpoint import load_model, save_checkpoint
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.learner import Learner, has_reference, learning_rate_at
from pipelines.training.logprobs import check_packing
from pipelines.training.metrics import Throughput, gather_lists
from pipelines.training.pairs import PairSet
from pipelines.training.state import StateFolder
from pipelines.training.strategies import make_strategy

# Settings that change how fast the same steps are taken, not which steps.
_OPERATIONAL = {
    "strategy", "num_workers", "resize_every_s", "num_cpus", "num_gpus", "threads", "save_every_s", "max_failures",
    "start_timeout_s", "timeout_s", "tokens_per_forward", "logprob_chunk", "activation_checkpointing", "shared_prompt",
    "liger", "max_bad_steps",
}
CHECKED_PAIRS = 8


@dataclass
class Job:
    """What one training is: the iteration's pairs in the ledger, trained on from the weights in `model`."""

    config: TrainingConfig
    ledger: Ledger
    iteration: int
    model: str  # checkpoint folder
    version: str  # of the weights in `model`
    reference_version: str  # of the weights that the pairs' reference log-probabilities must come from
    seed: int


def fit(job: Job, device: str, report: Callable[[dict[str, Any]], None]) -> None:
    """Train and leave the checkpoint in the ledger; `report` gets every step's metrics on every worker.

    Raises TrainingError, on every worker at the same point.
    """
    config, ledger, iteration = job.config, job.ledger, job.iteration
    model = load_model(job.model, config, job.seed)
    check_packing(model)
    throughput = Throughput(model, device)  # while every worker has the whole model
    strategy = make_strategy(model, config, device)
    learner, first = Learner(strategy, config), strategy.rank == 0

    def note(record: dict[str, Any]) -> None:
        if first:
            ledger.append_metrics(iteration, record)

    pairs = _usable(job, PairSet(ledger.read_pairs(iteration)), note)
    pairs, checked = _referenced(job, learner, pairs, first)
    plan, validation = step_plan(pairs.keys(), pairs.sizes(), config, job.seed)
    settings = config.model_dump(mode="json", exclude=_OPERATIONAL)
    plan_id = digest(job.version, job.seed, settings, pairs.ids())
    states = StateFolder(f"{ledger.path}/iterations/{iteration:04d}/training_state")
    progress: dict[str, Any] = {"plan": plan_id, "step": 0, "skipped": 0, "best": None, "worse": 0, "bad_steps": 0}
    stored = states.progress(plan_id)
    if stored is not None:
        progress = stored
        strategy.load_state(states.tensors())
        learner.bad_steps = progress["bad_steps"]
    _barrier()  # nobody writes a state before everybody has read
    note({"event": "start", "steps": len(plan), "first_step": progress["step"], "reference_check": checked,
          "pairs": len(pairs) - len(validation), "validation_pairs": len(validation), "workers": strategy.world})
    saved = time.monotonic()
    metrics: dict[str, Any] = {}
    for number in range(progress["step"], len(plan)):
        metrics = learner.step(pairs.rows(plan[number]), learning_rate_at(number, len(plan), config))
        metrics |= throughput.of(metrics) | {"step": number}
        progress |= {"step": number + 1, "skipped": progress["skipped"] + int(metrics["skipped"])}
        progress["bad_steps"] = learner.bad_steps
        note(metrics)
        report(metrics)
        stop = False
        if validation and ((number + 1) % config.validate_steps == 0 or number + 1 == len(plan)):
            stop = _validate(learner, pairs.rows(validation), progress, states, note)
        if stop:
            break
        if number + 1 < len(plan) and _everyone(first and time.monotonic() - saved >= config.save_every_s):
            state = strategy.state()
            if state is not None:
                states.save(state, progress)
            _barrier()
            saved = time.monotonic()
    if progress["skipped"] == progress["step"]:
        raise TrainingError(f"none of the {progress['step']} steps was finite; pairs: {metrics.get('bad_pair_ids')}")
    weights = strategy.weights()
    problems: list[str] = []
    if weights is not None:
        if progress["best"] is not None:
            weights = states.best()
        try:
            save_checkpoint(job.model, config, weights, ledger.checkpoint_dir(iteration), job.seed + iteration)
        except TrainingError as error:
            problems.append(str(error))
        states.clear()
    for problem in gather_lists(problems):
        raise TrainingError(problem)


def _usable(job: Job, pairs: PairSet, note: Callable[[dict[str, Any]], None]) -> PairSet:
    """The pairs that can be trained on; raises TrainingError when none can."""
    config, ids = job.config, pairs.ids()
    if config.needs_pairs:
        single = [ids[i] for i, length in enumerate(pairs.lengths("rejected").tolist()) if not length]
        if single:
            raise TrainingError(
                f"{len(single)} of {len(pairs)} pairs have no rejected side ({', '.join(single[:3])}), which "
                f"loss={config.loss!r} compares with; use a loss of the chosen side alone: sft or nll"
            )
    if config.needs_views:
        viewed = (pairs.lengths("student") > 0) & (pairs.lengths("digit") == 10)
        blind = [ids[i] for i, both in enumerate(viewed.tolist()) if not both]
        if blind:
            raise TrainingError(
                f"{len(blind)} of {len(pairs)} pairs have no second view ({', '.join(blind[:3])}), which "
                f"loss={config.loss!r} learns from; self_j makes such pairs"
            )
    sizes = pairs.sizes()
    long = [ids[i] for i, size in enumerate(sizes) if size > config.max_pair_tokens]
    if long:
        note({"event": "left_out", "reason": f"longer than max_pair_tokens={config.max_pair_tokens}",
              "count": len(long), "pair_ids": long[:1000]})
    if len(long) == len(pairs):
        shortest = f", the shortest has {min(sizes)}" if sizes else ""
        raise TrainingError(f"none of {len(pairs)} pairs fits into max_pair_tokens={config.max_pair_tokens}{shortest}")
    return pairs.keep([i for i, size in enumerate(sizes) if size <= config.max_pair_tokens])


def _referenced(job: Job, learner: Learner, pairs: PairSet, first: bool) -> tuple[PairSet, float | None]:
    """The pairs with reference log-probabilities of the right weights, and the mean DPO loss that was checked.

    What is missing or of other weights is computed here from the start weights, when those are the reference.
    """
    if not job.config.needs_reference:
        return pairs, None
    rows = pairs.rows(range(len(pairs)))
    fresh = [i for i, row in enumerate(rows) if row["ref_version"] == job.reference_version and has_reference(row)]
    stale = sorted(set(range(len(rows))) - set(fresh))
    own = job.reference_version == job.version
    if stale and not own:
        raise TrainingError(
            f"{len(stale)} of {len(rows)} pairs lack the log-probabilities of the reference {job.reference_version} "
            f"({', '.join(rows[i]['pair_id'] for i in stale[:3])}), which is not the model that is trained"
        )
    # A frozen reference is not the model that starts here, and its loss is not ln 2.
    checked = learner.check_reference([rows[i] for i in fresh[:CHECKED_PAIRS]]) if own and fresh else None
    if not stale:
        return pairs, checked
    block = 64 * learner.strategy.world
    for start in range(0, len(stale), block):
        some = stale[start : start + block]
        for i, row in zip(some, learner.reference([rows[i] for i in some], job.version), strict=True):
            rows[i] = row
    made = PairSet(pairs_table(rows))
    if first:  # a restarted worker group finds them
        job.ledger.event("reference_computed", iteration=job.iteration, pairs=len(stale), version=job.version)
        filled = {row["pair_id"]: row for row in rows}  # without pairs that are left out, which stay as they are
        every: list[Pair] = job.ledger.read_pairs(job.iteration).to_pylist()
        job.ledger.replace_pairs(job.iteration, [filled.get(pair["pair_id"], pair) for pair in every])
    return made, checked


def _validate(
    learner: Learner, rows: list[Pair], progress: dict[str, Any], states: StateFolder,
    note: Callable[[dict[str, Any]], None],
) -> bool:
    """Loss on the held-out pairs; keeps the best weights. True when training should stop."""
    found = learner.evaluate(rows)
    note({"event": "validation", "steps": progress["step"], **found})
    if math.isfinite(found["loss"]) and (progress["best"] is None or found["loss"] < progress["best"]):
        progress |= {"best": found["loss"], "worse": 0}
        weights = learner.strategy.weights()
        if weights is not None:
            states.save_best(weights)
    else:
        progress["worse"] += 1
    patience = learner.config.patience
    return patience is not None and progress["worse"] >= patience


def _everyone(value: bool) -> bool:
    """Rank 0's answer, on every worker."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    answer = torch.tensor(int(value), device=device)
    dist.broadcast(answer, 0)
    return bool(answer)


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
