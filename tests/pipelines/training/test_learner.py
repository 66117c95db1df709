"""A step reports and learns the same however it is cut, and the same as the long way round; bad pairs cost a step."""

import math
from typing import Any

import pytest
import torch

from pipelines.records import Pair
from pipelines.training.batching import sequences
from pipelines.training.config import TrainingConfig
from pipelines.training.errors import TrainingError
from pipelines.training.learner import LN2, Learner, has_reference, learning_rate_at, with_reference
from pipelines.training.logprobs import padded_logprobs
from tests.pipelines.training.tiny import (
    EXACT,
    make_learner,
    naive_step,
    parameters_of,
    scored,
    tiny_lm,
    tiny_pairs,
)

NAN = math.nan
# How a step is cut: none of it may show in what is reported.
CUTS: list[dict[str, Any]] = [
    {}, {"shared_prompt": False}, {"tokens_per_forward": 1}, {"tokens_per_forward": 60},
    {"tokens_per_forward": 30, "shared_prompt": False, "logprob_chunk": 2}, {"activation_checkpointing": True},
]
LOSSES = ["dpo", "0.5 dpo + 2 nll", "ld_dpo", "kto", "sft + 0.1 orpo"]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """With a reference that is near the tiny model."""
    return scored(tiny_pairs(), tiny_lm(), noise=0.3)


def weights(learner: Learner) -> torch.Tensor:
    return parameters_of(learner.strategy.model)


def comparable(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if k not in ("seconds", "computed_tokens", "learning_rate", "skipped")}


# ---- metrics and gradients


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_step_reports_and_learns_what_the_long_way_gives(pairs, cut, loss):
    learner = make_learner(loss=loss, **cut)
    model = tiny_lm()
    expected, gradient = naive_step(model, pairs, learner.config)
    before = weights(learner)
    found = learner.step(pairs, 1e-2)
    assert comparable(found) == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert (found["skipped"], found["learning_rate"]) == (0.0, 1e-2)
    # The first step of AdamW is the sign of the gradient, where it is not tiny, after the decay of matrices.
    decays = torch.cat([torch.full((p.numel(),), float(p.ndim > 1)) for p in model.parameters()])
    step = (before * (1 - 1e-2 * EXACT.weight_decay * decays) - weights(learner)) / 1e-2
    clear = gradient.abs() > 1e-4 * gradient.abs().max()
    torch.testing.assert_close(step[clear], gradient[clear].sign(), atol=2e-3, rtol=0)
    assert clear.sum() > 1000


@pytest.mark.parametrize("loss", ["dpo + nll", "kto"])
def test_steps_after_each_other_are_the_same_for_every_cut(pairs, loss):
    def train(cut: dict[str, Any]) -> list[dict[str, Any]]:
        learner = make_learner(loss=loss, max_grad_norm=0.5, **cut)
        return [comparable(learner.step(pairs[start:], 1e-3)) for start in (0, 2, 4, 0)]

    plain = train({})
    assert plain[-1]["loss"] < plain[0]["loss"] - 0.01
    for cut in CUTS[1:]:
        for one, other in zip(train(cut), plain, strict=True):
            assert one == pytest.approx(other, rel=2e-4, abs=1e-5)


@pytest.mark.parametrize("noise", [0.3, -0.3])
def test_kto_takes_the_divergence_of_the_step_and_none_below_zero(noise):
    """With a reference above the policy on every token, both sides' mean log-ratio is negative."""
    rows = scored(tiny_pairs(), tiny_lm(), noise=noise)
    learner = make_learner(loss="kto", tokens_per_forward=1)
    expected, _ = naive_step(tiny_lm(), rows, learner.config)
    assert learner.step(rows, 1e-3)["loss_kto"] == pytest.approx(expected["loss_kto"], rel=1e-5)


def test_prompts_that_are_shared_are_computed_once(pairs):
    """Two of the three prompts begin with the same 18 tokens; every response has a last token that is no input."""
    (shared, alone) = (make_learner(shared_prompt=share).evaluate(pairs) for share in (True, False))
    responses = sum(len(p["chosen_ids"]) + len(p["rejected_ids"]) - 2 for p in pairs)
    assert shared["computed_tokens"] == 18 + 2 + 5 + 4 + responses
    assert alone["computed_tokens"] == sum(2 * len(p["prompt_ids"]) for p in pairs) + responses


def test_an_evaluation_is_a_step_that_changes_nothing(pairs):
    learner = make_learner(loss="kto")
    before = weights(learner)
    measured = learner.evaluate(pairs)
    assert torch.equal(weights(learner), before)
    stepped = comparable(learner.step(pairs, 1e-3))
    del stepped["grad_norm"]
    assert comparable(measured) == pytest.approx(stepped, rel=1e-6)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("some", [0, 3, 6])
def test_without_the_reference_of_every_pair_none_is_compared_with(pairs, cut, some):
    """SimPO reads no reference: whatever pairs have one, the step says the same however it is cut."""
    mixed = [*pairs[:some], *tiny_pairs()[some:]]
    found = make_learner(loss="simpo", **cut).step(mixed, 0.0)
    whole = make_learner(loss="simpo").step(mixed, 0.0)
    assert comparable(found) == pytest.approx(comparable(whole), rel=2e-5, abs=2e-6)
    assert ("dpo_loss" in found, "kl" in found) == (some == 6, some == 6)
    if some < 6:
        model = tiny_lm()  # the reward is SimPO's
        logps = [[side.mean().item() for side in padded_logprobs(model, sequences(pair))] for pair in mixed]
        expected = [EXACT.beta * sum(sides) / 6 for sides in zip(*logps, strict=True)]
        assert [found["reward_chosen"], found["reward_rejected"]] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("loss", ["sft", "nll"])
def test_rows_without_a_rejected_side(cut, loss):
    """With `sft` and equal weights, the loss is the cross-entropy per token of the step."""
    rows: list[Pair] = [{**pair, "weight": 1.0} for pair in tiny_pairs(rejected=False)]
    learner = make_learner(loss=loss, **cut)
    expected, _ = naive_step(tiny_lm(), rows, learner.config)
    found = learner.step(rows, 1e-2)
    said = {name: found[name] for name in expected if name not in ("accuracy", "margin", "reward_rejected")}
    assert said == pytest.approx({name: expected[name] for name in said}, rel=2e-5, abs=2e-6)
    assert "dpo_loss" not in found
    if loss == "sft":
        logps = [padded_logprobs(tiny_lm(), [(row["prompt_ids"], row["chosen_ids"])])[0] for row in rows]
        assert found["loss"] == pytest.approx(-torch.cat(logps).mean().item(), rel=1e-5)
    assert learner.step(rows, 1e-2)["loss"] < found["loss"]


def test_training_on_one_pair_raises_its_margin():
    learner = make_learner()
    (pair,) = learner.reference(tiny_pairs(1), "v0")
    steps = [learner.step([pair], 1e-3) for _ in range(5)]
    margins = [step["margin"] for step in steps]
    assert margins[0] == pytest.approx(0.0, abs=1e-5)
    assert margins == sorted(margins)
    assert margins[-1] > 0.5
    assert steps[0]["dpo_loss"] == pytest.approx(LN2, abs=1e-5)
    assert steps[-1]["accuracy"] == 1.0
    kls = [step["kl"] for step in steps]
    assert kls[0] == pytest.approx(0.0, abs=1e-6)
    assert kls == sorted(kls)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradients_are_clipped_to_the_limit(pairs, limit):
    learner = make_learner(max_grad_norm=limit)
    norm = learner.step(pairs, 1e-3)["grad_norm"]
    assert 1 < norm < 1e6
    moments = [v for name, v in (learner.strategy.state() or {}).items() if name.endswith("exp_avg")]
    taken = torch.cat([moment.flatten() for moment in moments]).norm().item() / 0.1  # the first moment is a tenth of it
    assert taken == pytest.approx(min(norm, limit), rel=1e-4)


# ---- the reference


@pytest.mark.parametrize(
    "numerics", [{}, {"autocast": "bfloat16"}, {"autocast": "bfloat16", "weights": "bfloat16"}], ids=str
)
def test_the_model_is_its_own_reference(numerics):
    model = tiny_lm().bfloat16() if "weights" in numerics else tiny_lm()
    learner = make_learner(model=model, **numerics)
    pairs = learner.reference(tiny_pairs(), "v7")
    assert [pair["pair_id"] for pair in pairs] == [f"pair-{i}" for i in range(6)]
    assert all(has_reference(pair) and pair["ref_version"] == "v7" for pair in pairs)
    assert learner.check_reference(pairs) == pytest.approx(LN2, abs=1e-6)
    recut = make_learner(model=model, tokens_per_forward=1, **numerics)
    assert recut.check_reference(pairs) == pytest.approx(LN2, abs=1e-2 if numerics else 1e-5)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_reference_log_probabilities_are_those_of_padded_rows(cut):
    rows = [*tiny_pairs(), *tiny_pairs(2, seed=9, rejected=False)]
    found = make_learner(**cut).reference(rows, "v1")
    for pair, expected in zip(found, scored(rows, tiny_lm(), "v1"), strict=True):
        assert pair["ref_logps_chosen"] == pytest.approx(expected["ref_logps_chosen"], abs=1e-5)
        assert pair["ref_logps_rejected"] == pytest.approx(expected["ref_logps_rejected"], abs=1e-5)
        assert pair["ref_logp_chosen"] == pytest.approx(sum(expected["ref_logps_chosen"] or []), abs=1e-4)
        assert pair["ref_logp_rejected"] == pytest.approx(sum(expected["ref_logps_rejected"] or []), abs=1e-4)
        assert {k: v for k, v in pair.items() if "_logp" not in k} == {
            k: v for k, v in expected.items() if "_logp" not in k
        }


def off_by(pair: Pair, change: float) -> Pair:
    """The pair with the chosen side's last token off."""
    logps = [*(pair["ref_logps_chosen"] or [])]
    logps[-1] += change
    return with_reference(pair, [logps, pair["ref_logps_rejected"] or []], "v3")


@pytest.mark.parametrize("cut", [CUTS[0], CUTS[2]], ids=str)
@pytest.mark.parametrize("change", [0.01, -0.01, NAN, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5])
def test_a_reference_that_is_another_model_is_named_by_its_pair(cut, change, place):
    wrong = scored(tiny_pairs(), tiny_lm())
    wrong[place] = off_by(wrong[place], change)
    said = rf"^pair pair-{place}: DPO loss .* instead of ln 2 = 0\.693147; .*\(version v3\) are not this model's"
    with pytest.raises(TrainingError, match=said):
        make_learner(**cut).check_reference(wrong)


def test_the_worst_pair_is_the_one_named():
    wrong = [off_by(pair, 0.1 * i) for i, pair in enumerate(scored(tiny_pairs(), tiny_lm()))]
    with pytest.raises(TrainingError, match=r"^pair pair-5"):
        make_learner().check_reference(wrong)


GOOD = with_reference(tiny_pairs(1)[0], [[-1.0, -2.0], [-3.0, -0.5]], "v0")


@pytest.mark.parametrize(
    ("change", "there"),
    [
        ({}, True),
        ({"ref_logps_chosen": [-1.0]}, False),
        ({"ref_logps_rejected": [-3.0, NAN]}, False),
        ({"ref_logps_rejected": [-3.0, -math.inf], "ref_logp_rejected": -math.inf}, False),
        ({"ref_logps_chosen": None}, False),
        ({"ref_logp_chosen": None}, False),
        ({"ref_logp_rejected": -3.6}, False),  # not the sum
        ({"ref_logp_rejected": -3.5001}, True),
        ({"ref_logp_chosen": NAN}, False),
        ({"rejected_ids": [], "ref_logps_rejected": [], "ref_logp_rejected": 0.0}, True),
        ({"rejected_ids": []}, False),
    ],
)
def test_a_reference_is_there_when_every_token_has_a_finite_one(change, there):
    changed: Any = {**GOOD, **change}
    assert has_reference(changed) == there


def test_rows_of_older_files_have_no_reference_of_tokens():
    old: Any = {k: v for k, v in GOOD.items() if not k.startswith("ref_logps")}
    assert not has_reference(old)


# ---- steps that are not finite


@pytest.mark.parametrize("cut", [CUTS[0], CUTS[2]], ids=str)
@pytest.mark.parametrize("value", [NAN, math.inf])
@pytest.mark.parametrize("where", ["weight", "reference"])
def test_a_step_with_a_bad_pair_is_skipped_and_the_pair_named(pairs, cut, value, where):
    learner = make_learner(**cut)
    bad: Pair = {**pairs[1], "weight": value} if where == "weight" else off_by(pairs[1], value)
    before, state = weights(learner), learner.strategy.state() or {}
    metrics = learner.step([pairs[0], bad, pairs[2]], 1e-2)
    assert (metrics["skipped"], metrics["bad_pair_ids"]) == (1.0, "pair-1")
    assert torch.equal(weights(learner), before)
    after = learner.strategy.state() or {}
    assert all(torch.equal(after[name], value) for name, value in state.items())
    clean = make_learner(**cut)
    assert comparable(learner.step(pairs[:3], 1e-2)) == comparable(clean.step(pairs[:3], 1e-2))  # nothing was kept
    assert torch.equal(weights(learner), weights(clean))


def test_a_gradient_that_is_not_finite_is_never_stepped(pairs):
    learner = make_learner()
    before = weights(learner)
    hook = learner.strategy.model.get_parameter("lm.model.norm.weight").register_hook(lambda gradient: gradient * NAN)
    metrics = learner.step(pairs[:2], 1e-2)
    assert (metrics["skipped"], metrics["bad_pair_ids"]) == (1.0, "pair-0, pair-1")
    assert math.isfinite(metrics["loss"])
    assert torch.equal(weights(learner), before)
    hook.remove()
    assert learner.step(pairs[:2], 1e-2)["skipped"] == 0.0


@pytest.mark.parametrize("limit", [1, 3])
def test_too_many_bad_steps_in_a_row_end_the_training(pairs, limit):
    learner = make_learner(max_bad_steps=limit)
    bad: list[Pair] = [{**pairs[3], "weight": NAN}]
    for _ in range(2):
        for _ in range(limit - 1):
            assert learner.step(bad, 1e-2)["skipped"] == 1.0
        learner.step(pairs[:1], 1e-2)  # a good one in between starts the count again
    for _ in range(limit - 1):
        learner.step(bad, 1e-2)
    before = weights(learner)
    with pytest.raises(TrainingError, match=rf"^{limit} steps in a row were not finite; pairs: pair-3$"):
        learner.step(bad, 1e-2)
    assert torch.equal(weights(learner), before)


# ---- the learning rate


@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.35])
@pytest.mark.parametrize("total", [1, 7, 40])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_is_that_of_transformers(schedule, total, warmup_ratio):
    from transformers import get_scheduler

    config = TrainingConfig(schedule=schedule, warmup_ratio=warmup_ratio, learning_rate=3e-4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=int(total * warmup_ratio), num_training_steps=total)
    for step in range(total):
        assert learning_rate_at(step, total, config) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        theirs.step()
