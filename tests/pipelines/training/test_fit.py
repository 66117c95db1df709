"""One training from pairs in a ledger to a checkpoint, without Ray: what it leaves, and how a killed one goes on."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.records import Pair
from pipelines.training.batching import optimizer_steps
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.fit import fit
from pipelines.training.learner import LN2, has_reference, learning_rate_at
from pipelines.training.state import StateFolder
from pipelines.training.trainer import current_steps, training_summary
from tests.pipelines.training.jobs import CONFIG, TIMES, assert_equal, checkpoint, records, run, timeless
from tests.pipelines.training.tiny import make_learner, scored, tiny_lm, tiny_pairs

# ---- what a training leaves


def test_a_training_leaves_its_steps_and_a_checkpoint(make_job, scored_pairs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = make_job(scored_pairs)
    reported = run(job)
    start, *steps = job.ledger.read_metrics(0)
    assert start == {"event": "start", "steps": 8, "first_step": 0, "reference_check": pytest.approx(LN2, abs=1e-5),
                     "pairs": 10, "validation_pairs": 0, "workers": 1}
    assert steps == reported
    assert [step["step"] for step in steps] == list(range(8))
    assert [step["pairs"] for step in steps] == [3, 3, 3, 1] * 2
    rates = [step["learning_rate"] for step in steps]
    assert rates == [pytest.approx(3e-3 * (1 + math.cos(math.pi * i / 8)) / 2) for i in range(8)]
    assert steps[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
    assert sum(step["loss"] for step in steps[4:]) < sum(step["loss"] for step in steps[:4]) - 0.3
    assert all(step["tokens_per_s"] > 0 and step["mfu"] > 0 and step["peak_memory_gib"] > 0 for step in steps)
    folder = job.ledger.checkpoint_dir(0)
    trained: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 128
    after = make_learner(model=trained).evaluate(scored_pairs)
    assert after["loss"] < 0.5 < LN2 < make_learner().evaluate(scored_pairs)["loss"] + 1e-5
    assert not (Path(folder).parent / "training_state").exists()


def test_the_steps_are_those_of_the_plan(make_job, scored_pairs):
    """The pairs, in an order that seed, epoch and prompts decide, and a step for each batch of them."""
    job = make_job(scored_pairs, loss="dpo + nll")
    reported = run(job)
    stored = job.ledger.read_pairs(0).to_pylist()
    plan = optimizer_steps([tuple(p["prompt_ids"]) for p in stored], [1] * len(stored), job.config, 5)
    learner = make_learner(**job.config.model_dump())
    for number, (step, metrics) in enumerate(zip(plan, reported, strict=True)):
        found = learner.step([stored[i] for i in step], learning_rate_at(number, len(plan), job.config))
        assert metrics["loss"] == found["loss"]


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_numerics_of_accelerators(make_job, weights):
    """References made by the training itself, so that they are of its own numerics."""
    job = make_job(tiny_pairs(6), autocast="bfloat16", weights=weights, epochs=4)
    steps = run(job)
    assert steps[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-2)
    assert steps[-1]["dpo_loss"] < LN2 - 0.1
    assert {tensor.dtype for tensor in checkpoint(job).values()} == {torch.bfloat16}


# ---- a training that was killed goes on


@pytest.mark.parametrize("stop_at", [1, 4, 7])
@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "dpo + nll"}, {"loss": "kto", "batch_tokens": 80}, {"lora": {"rank": 2}, "weight_decay": 0.0},
        {"validation_pairs": 3, "validate_steps": 2, "patience": 9},
    ],
    ids=str,
)
def test_a_killed_training_goes_on_as_if_nothing_had_happened(make_job, scored_pairs, changes, stop_at):
    undisturbed, killed = make_job(scored_pairs, **changes), make_job(scored_pairs, **changes)
    expected = run(undisturbed)
    stop_at = min(stop_at, len(expected) - 1)
    run(killed, stop_at)
    assert not Path(killed.ledger.checkpoint_dir(0)).exists()
    again = run(killed)
    assert [record["first_step"] for record in records(killed, "start")] == [0, stop_at]
    assert [step["step"] for step in again] == list(range(stop_at, len(expected)))
    steps = current_steps(killed.ledger.read_metrics(0))
    assert timeless(steps) == timeless(expected)  # every number of every step, bit for bit
    assert_equal(checkpoint(killed), checkpoint(undisturbed))
    assert timeless(records(killed, "validation"))[-1:] == timeless(records(undisturbed, "validation"))[-1:]
    summary = training_summary(killed.ledger, 0)
    plain = training_summary(undisturbed.ledger, 0)
    assert {k: v for k, v in summary.items() if k not in TIMES} == {k: v for k, v in plain.items() if k not in TIMES}


def test_a_training_may_be_killed_many_times_and_while_it_saves(make_job, scored_pairs, monkeypatch):
    undisturbed, killed = make_job(scored_pairs), make_job(scored_pairs)
    expected = run(undisturbed)
    for stop_at in (0, 2, 3):
        run(killed, stop_at)
    save = StateFolder.save

    def die(self: StateFolder, tensors: Any, progress: dict[str, Any]) -> None:
        if progress["step"] == 6:
            raise KeyboardInterrupt
        save(self, tensors, progress)

    with monkeypatch.context() as patch:
        patch.setattr(StateFolder, "save", die)
        with pytest.raises(KeyboardInterrupt):
            fit(killed, "cpu", lambda metrics: None)
    run(killed)
    assert [record["first_step"] for record in records(killed, "start")] == [0, 0, 2, 3, 5]
    assert timeless(current_steps(killed.ledger.read_metrics(0))) == timeless(expected)
    assert_equal(checkpoint(killed), checkpoint(undisturbed))


def test_between_states_a_killed_training_goes_back_to_the_last(make_job, scored_pairs):
    undisturbed, killed = make_job(scored_pairs), make_job(scored_pairs, save_every_s=3600)
    run(undisturbed)
    run(killed, 6)
    run(killed)
    assert [record["first_step"] for record in records(killed, "start")] == [0, 0]
    assert_equal(checkpoint(killed), checkpoint(undisturbed))


@pytest.mark.parametrize(
    ("changes", "first_step"),
    [
        ({"seed": 6}, 0), ({"version": "v1", "reference_version": "v1"}, 0), ({"learning_rate": 1e-3}, 0),
        ({"loss": "dpo + nll"}, 0), ({"max_steps": 6}, 0), ({"lora": {"rank": 2}}, 0),
        ({"tokens_per_forward": 30}, 4), ({"shared_prompt": False}, 4), ({"save_every_s": 60}, 4),
        ({"num_workers": 2, "activation_checkpointing": True}, 4), ({}, 4),
    ],
    ids=str,
)
def test_only_the_same_steps_are_gone_on_from(make_job, scored_pairs, changes, first_step):
    """Another seed, model or setting of the steps starts anew; settings of their speed do not."""
    job = make_job(scored_pairs)
    run(job, 4)
    settings = {k: v for k, v in changes.items() if k in TrainingConfig.model_fields}
    changed = replace(job, config=TrainingConfig.model_validate(job.config.model_dump() | settings),
                      **{k: v for k, v in changes.items() if k not in settings})
    run(changed)
    assert records(changed, "start")[-1]["first_step"] == first_step


def test_other_pairs_are_begun_with_anew(make_job, scored_pairs):
    job = make_job(scored_pairs)
    run(job, 4)
    job.ledger.replace_pairs(0, [*scored_pairs[:9], {**scored_pairs[9], "pair_id": "pair-10"}])
    run(job)
    assert records(job, "start")[-1]["first_step"] == 0


def test_a_training_that_starts_anew_has_nothing_of_the_old_one(make_job, scored_pairs):
    clean = make_job(scored_pairs[:7])
    run(clean)
    job = make_job(scored_pairs, validation_pairs=2, validate_steps=1)
    run(job, 4)
    job.ledger.replace_pairs(0, scored_pairs[:7])
    changed = replace(job, config=CONFIG)
    run(changed)
    assert_equal(checkpoint(changed), checkpoint(clean))
    found, expected = (current_steps(each.ledger.read_metrics(0)) for each in (changed, clean))
    assert timeless(found) == timeless(expected)


# ---- the reference


def test_a_reference_that_is_missing_or_of_other_weights_is_made_here_and_kept(make_job, scored_pairs):
    """Other numbers than the model's own under an old version, none, and not one for each token."""
    stale: Pair = {**scored([scored_pairs[1]], tiny_lm(), noise=2.0)[0], "ref_version": "v8"}
    short: Pair = {**scored_pairs[3], "ref_logps_chosen": (scored_pairs[3]["ref_logps_chosen"] or [])[:-1]}
    job = make_job([scored_pairs[0], stale, tiny_pairs()[2], short, scored_pairs[4]])
    steps = run(job)
    assert steps[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
    (event,) = job.ledger.events()
    assert (event["kind"], event["pairs"], event["version"], event["iteration"]) == ("reference_computed", 3, "v0", 0)
    stored = job.ledger.read_pairs(0).to_pylist()
    for pair, expected in zip(stored, scored_pairs[:5], strict=True):
        assert has_reference(pair) and pair["ref_version"] == "v0"
        assert pair["ref_logps_chosen"] == pytest.approx(expected["ref_logps_chosen"], abs=1e-5)
        assert pair["ref_logps_rejected"] == pytest.approx(expected["ref_logps_rejected"], abs=1e-5)
        assert {k: v for k, v in pair.items() if "ref_" not in k} == {
            k: v for k, v in expected.items() if "ref_" not in k
        }
    (start,) = records(job, "start")
    assert start["reference_check"] == pytest.approx(LN2, abs=1e-5)  # of those that were there
    run(job)
    assert len(job.ledger.events()) == 1
    assert job.ledger.read_pairs(0).to_pylist() == stored


def test_without_any_reference_there_is_nothing_to_check(make_job):
    job = make_job(tiny_pairs())
    assert run(job)[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
    assert records(job, "start")[0]["reference_check"] is None


def test_more_references_than_one_block_are_made_in_their_order(make_job):
    job = make_job(tiny_pairs(70), max_steps=1)
    run(job)
    expected = {pair["pair_id"]: pair for pair in scored(tiny_pairs(70), tiny_lm())}
    for pair in job.ledger.read_pairs(0).to_pylist():
        assert pair["ref_logps_rejected"] == pytest.approx(expected[pair["pair_id"]]["ref_logps_rejected"], abs=1e-5)


def test_a_reference_that_is_not_the_start_weights_ends_the_training(make_job, scored_pairs):
    job = make_job([scored_pairs[0], *scored([scored_pairs[1]], tiny_lm(), noise=1.0), scored_pairs[2]])
    with pytest.raises(TrainingError, match=r"^pair pair-1: DPO loss .* \(version v0\) are not this model's"):
        run(job)
    assert not Path(job.ledger.checkpoint_dir(0)).exists()
    assert records(job, "start") == []


def test_a_frozen_reference_is_taken_as_it_is(make_job, scored_pairs):
    """It is another model, so the first loss is not ln 2, and nobody but the reference actor can make it."""
    frozen = [{**pair, "ref_version": "frozen"} for pair in scored(scored_pairs, tiny_lm(), noise=0.5)]
    job = replace(make_job(frozen), reference_version="frozen")
    steps = run(job)
    assert abs(steps[0]["dpo_loss"] - LN2) > 0.01
    assert records(job, "start")[0]["reference_check"] is None
    assert job.ledger.events() == []


@pytest.mark.parametrize(
    "change", [{"ref_version": "v0"}, {"ref_logps_chosen": None}, {"ref_logp_rejected": math.nan}], ids=str
)
def test_a_frozen_reference_that_is_missing_ends_the_training(make_job, scored_pairs, change):
    frozen: list[Any] = [{**pair, "ref_version": "frozen"} for pair in scored_pairs]
    frozen[2], frozen[6] = {**frozen[2], **change}, {**frozen[6], **change}
    job = replace(make_job(frozen), reference_version="frozen")
    says = r"^2 of 10 pairs lack the log-probabilities of the reference frozen \(pair-2, pair-6\), which is not the"
    with pytest.raises(TrainingError, match=says):
        run(job)


def test_a_loss_without_a_reference_asks_for_none(make_job):
    job = make_job(tiny_pairs(), loss="simpo + nll")
    steps = run(job)
    assert "dpo_loss" not in steps[0]
    assert job.ledger.events() == []
    assert training_summary(job.ledger, 0)["first_dpo_loss"] is None
