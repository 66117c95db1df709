"""Which pairs a training takes, what it says of the others, and what held-out and bad pairs do to it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.records import Pair
from pipelines.training.batching import held_out
from pipelines.training.errors import TrainingError
from pipelines.training.learner import Learner
from pipelines.training.trainer import current_steps, training_summary
from tests.pipelines.training.jobs import assert_equal, checkpoint, records, run, timeless
from tests.pipelines.training.tiny import SELF_J, tiny_pairs, two_views, write_checkpoint

NAN = math.nan


def refused(job: Any, says: str) -> None:
    """The training ends with this error before its first step, and leaves nothing."""
    with pytest.raises(TrainingError, match=says):
        run(job)
    assert records(job, "start") == []
    assert not Path(job.ledger.checkpoint_dir(0)).exists()


# ---- pairs that cannot be trained on


def longer(pair: Pair, tokens: int) -> Pair:
    return {**pair, "chosen_ids": [5] * tokens}


def test_pairs_that_are_too_long_are_left_out_told_and_kept(make_job, scored_pairs):
    pairs = [*scored_pairs[:3], longer(scored_pairs[3], 60), *scored_pairs[4:9], longer(scored_pairs[9], 80)]
    clean = make_job([pairs[i] for i in (0, 1, 2, 4, 5, 6, 7, 8)], max_pair_tokens=80)
    job = make_job(pairs, max_pair_tokens=80)
    assert timeless(run(job)) == timeless(run(clean))
    (left_out,) = records(job, "left_out")
    assert left_out == {"event": "left_out", "reason": "longer than max_pair_tokens=80", "count": 2,
                        "pair_ids": ["pair-3", "pair-9"]}
    assert records(job, "start")[0]["pairs"] == 8
    assert training_summary(job.ledger, 0)["left_out_pairs"] == 2
    assert "left_out_pairs" not in training_summary(clean.ledger, 0)


def test_the_limit_is_the_prompt_once_and_both_sides(make_job):
    (pair,) = tiny_pairs(1)
    size = len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])
    assert len(run(make_job([pair], max_pair_tokens=size, epochs=1))) == 1
    refused(make_job([pair], max_pair_tokens=size - 1),
            rf"^none of 1 pairs fits into max_pair_tokens={size - 1}, the shortest has {size}$")


def test_making_references_keeps_the_pairs_that_are_left_out(make_job):
    pairs = tiny_pairs()
    pairs[2] = longer(pairs[2], 80)
    job = make_job(pairs, max_pair_tokens=80)
    run(job)
    stored = job.ledger.read_pairs(0).to_pylist()
    assert [pair["pair_id"] for pair in stored] == [f"pair-{i}" for i in range(6)]
    assert [pair["ref_version"] for pair in stored] == ["v0", "v0", None, "v0", "v0", "v0"]
    assert stored[2] == pairs[2]


def test_a_training_without_a_pair_is_refused(make_job):
    refused(make_job([]), r"^none of 0 pairs fits into max_pair_tokens=16384$")


@pytest.mark.parametrize("loss", ["dpo", "sft + 0.1 orpo"])
def test_rows_without_a_rejected_side_need_a_loss_of_the_chosen_side(make_job, scored_pairs, loss):
    rows = [{**row, "pair_id": f"row-{i}"} for i, row in enumerate(tiny_pairs(5, rejected=False))]
    refused(make_job([*scored_pairs, *rows], loss=loss),
            r"^5 of 15 pairs have no rejected side \(row-0, row-1, row-2\), which loss='.*' compares with; use a loss")


@pytest.mark.parametrize("loss", ["sft", "nll + 0.5 nll_pooled"])
def test_rows_without_a_rejected_side_are_trained_on(make_job, loss):
    job = make_job(tiny_pairs(6, rejected=False), loss=loss, epochs=4)
    steps = run(job)
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    assert records(job, "start")[0]["reference_check"] is None
    assert checkpoint(job)


@pytest.mark.parametrize("gone", ["student_ids", "digit_ids"])
def test_a_loss_of_two_views_needs_rows_that_have_them(make_job, gone):
    rows = [{**row, "pair_id": f"row-{i}"} for i, row in enumerate(two_views(4))]
    steps = run(make_job(rows, loss=SELF_J, epochs=4))
    assert steps[-1]["loss"] < steps[0]["loss"]
    refused(make_job([*rows[:2], *[{**row, gone: []} for row in rows[2:]]], loss=SELF_J),
            r"^2 of 4 pairs have no second view \(row-2, row-3\), which loss='nll .*' learns from")


def test_a_model_that_cannot_be_packed_ends_the_training_with_its_reason(make_job, tmp_path, scored_pairs):
    """Not as a failure of a worker, which would be tried again."""
    folder = write_checkpoint(tmp_path / "gemma2", "gemma2")
    refused(make_job(scored_pairs, model=folder), "Gemma2Attention asks for softcap")


# ---- pairs that are held out


def test_held_out_pairs_are_never_trained_on(make_job, scored_pairs, monkeypatch):
    trained: list[str] = []
    evaluated: list[str] = []
    for name, seen in (("step", trained), ("evaluate", evaluated)):
        plain = getattr(Learner, name)

        def spy(self: Learner, pairs: list[Pair], *more: Any, plain: Any = plain, seen: list[str] = seen) -> Any:
            seen.extend(pair["pair_id"] for pair in pairs)
            return plain(self, pairs, *more)

        monkeypatch.setattr(Learner, name, spy)
    job = make_job(scored_pairs, validation_pairs=3, validate_steps=2, epochs=3)
    run(job)
    stored = job.ledger.read_pairs(0).to_pylist()
    training, validation = held_out([tuple(pair["prompt_ids"]) for pair in stored], 3, 5)
    assert (len(training), len(validation)) == (7, 3)
    assert sorted(trained) == sorted([f"pair-{i}" for i in training] * 3)
    (start,) = records(job, "start")
    assert (start["pairs"], start["validation_pairs"]) == (7, 3)
    found = records(job, "validation")
    assert [record["steps"] for record in found] == [2, 4, 6, 8, 9]  # the last weights are always looked at
    assert evaluated == [f"pair-{i}" for i in validation] * 5
    assert all(record["pairs"] == 3 for record in found)
    assert training_summary(job.ledger, 0)["best_validation_loss"] == min(record["loss"] for record in found)


@pytest.fixture
def validated(monkeypatch):
    """`validated([losses])`: what the held-out pairs say, one validation after the other."""

    def script(losses: list[float]) -> None:
        left = iter(losses)
        monkeypatch.setattr(Learner, "evaluate", lambda self, pairs: {"loss": next(left)})

    return script


@pytest.mark.parametrize(
    ("losses", "patience", "best", "taken"),
    [
        ([0.5, 0.3, 0.4, 0.6, 0.2, 0.9], None, 5, 6),
        ([0.5, 0.3, 0.4, 0.6, 0.2, 0.9], 2, 2, 4),  # stopped before the fifth could be seen
        ([0.5, 0.3, 0.4, 0.2, 0.4, 0.9], 2, 4, 6),  # a better one starts the count again
        ([0.5, 0.5, 0.5], 1, 1, 2),  # as good is not better
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], None, 1, 6),
        ([NAN, 0.2, NAN, 0.1, NAN, 0.3], None, 4, 6),  # what cannot be told is not the best
        ([NAN, NAN, NAN], 3, 3, 3),
        ([NAN] * 6, None, 6, 6),  # nothing could be told: the last weights
    ],
)
def test_the_weights_that_did_best_are_kept(make_job, scored_pairs, validated, losses, patience, best, taken):
    options: dict[str, Any] = {"schedule": "constant", "validation_pairs": 3, "epochs": 9, "validate_steps": 1}
    validated(losses)
    job = make_job(scored_pairs, **options, patience=patience, max_steps=6)
    assert len(run(job)) == taken
    assert [record["steps"] for record in records(job, "validation")] == list(range(1, taken + 1))
    validated([0.5])
    short = make_job(scored_pairs, **(options | {"validate_steps": 99}), max_steps=best)  # the first steps of the same
    run(short)
    assert_equal(checkpoint(job), checkpoint(short))
    seen = [loss for loss in losses[:taken] if math.isfinite(loss)]
    assert training_summary(job.ledger, 0).get("best_validation_loss") == (min(seen) if seen else None)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_the_best_weights_and_the_patience_survive_a_kill(make_job, scored_pairs, validated, stop_at):
    """Each validation says the same whenever it is made, as the weights are the same."""
    options: dict[str, Any] = {"validation_pairs": 3, "validate_steps": 1, "patience": 3, "epochs": 4}
    losses = [0.5, 0.3, 0.4, 0.6, 0.7, 0.1]
    undisturbed, killed = make_job(scored_pairs, **options), make_job(scored_pairs, **options)
    validated(losses)
    assert len(run(undisturbed)) == 5
    validated(losses[:stop_at])
    run(killed, stop_at)
    validated(losses[stop_at:])
    assert len(run(killed)) == 5 - stop_at
    assert_equal(checkpoint(killed), checkpoint(undisturbed))


# ---- steps that are not finite


def test_a_bad_pair_costs_its_step_alone(make_job, scored_pairs):
    pairs: list[Pair] = [*scored_pairs[:4], {**scored_pairs[4], "weight": NAN}, *scored_pairs[5:]]
    job = make_job(pairs)
    steps = run(job)
    skipped = [step for step in steps if step["skipped"]]
    assert len(skipped) == 2  # one an epoch
    assert {step["bad_pair_ids"] for step in skipped} == {"pair-4"}
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint(job).values())
    summary = training_summary(job.ledger, 0)
    assert (summary["steps"], summary["skipped_steps"]) == (6, 2)
    taken = [step for step in steps if not step["skipped"]]
    assert (summary["first_loss"], summary["last_loss"]) == (taken[0]["loss"], taken[-1]["loss"])


@pytest.mark.parametrize("stop_at", [None, 1])
def test_a_training_of_bad_steps_alone_leaves_no_checkpoint(make_job, scored_pairs, stop_at):
    job = make_job([{**pair, "weight": NAN} for pair in scored_pairs[:5]], max_bad_steps=99)
    if stop_at is not None:
        run(job, stop_at)
    with pytest.raises(TrainingError, match=r"^none of the 4 steps was finite; pairs: pair-"):
        run(job)
    assert not Path(job.ledger.checkpoint_dir(0)).exists()
    assert training_summary(job.ledger, 0) == {"steps": 0, "skipped_steps": 4}


@pytest.mark.parametrize("stop_at", [None, 0, 1, 2])
def test_bad_steps_in_a_row_are_counted_over_a_restart(make_job, scored_pairs, stop_at):
    job = make_job([{**pair, "weight": NAN} for pair in scored_pairs[:3]], batch_pairs=1, max_bad_steps=4)
    if stop_at is not None:
        run(job, stop_at)
    with pytest.raises(TrainingError, match=r"^4 steps in a row were not finite; pairs: pair-\d$"):
        run(job)
    assert [step["step"] for step in current_steps(job.ledger.read_metrics(0))] == [0, 1, 2]  # the fourth ended it
    assert not Path(job.ledger.checkpoint_dir(0)).exists()
