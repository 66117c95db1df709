"""Every loss at numbers worked out by hand, and what must hold at any numbers."""

import math
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.training.config import PAIRWISE, REFERENCED, VIEWED, LossName, TrainingConfig, parse_loss
from pipelines.training.losses import LOSSES, PairBatch, combined

LN2 = math.log(2.0)
SIDED = [name for name in LOSSES if name not in VIEWED]  # the others: test_view_losses.py
LOG_PROBS = [field.name for field in fields(PairBatch) if field.name.startswith(("chosen", "rejected", "ref_"))]
LOG_PROBS = [name for name in LOG_PROBS if not name.endswith("_tokens")]
POLICY = [name for name in LOG_PROBS if not name.startswith("ref_")]
# D_w = lp(w) - ref(w) = 2 and D_l = lp(l) - ref(l) = -3, as in R1.7 and R6.7, so h = 5 beta. The rejected side is two
# tokens longer; its first ten tokens hold half of its difference.
FIXTURE: dict[str, Any] = {
    "chosen": -20, "rejected": -30, "ref_chosen": -22, "ref_rejected": -27, "chosen_tokens": 10, "rejected_tokens": 12,
    "prompt_tokens": 30,
    "chosen_head": -20, "rejected_head": -24, "ref_chosen_head": -22, "ref_rejected_head": -22.5, "weight": 1,
    "batch_pairs": 1, "batch_chosen_tokens": 10, "kl_chosen": 1.5, "kl_rejected": 0.5,
}

log_probs = st.floats(-300, -0.01)
tokens = st.integers(1, 40)


def batch(dtype: torch.dtype = torch.float64, **changes: Any) -> PairBatch:
    """The fixture with changes; a list makes several pairs, a single number is the same for all."""
    values = FIXTURE | changes
    count = max(len(value) if isinstance(value, list) else 1 for value in values.values())
    scalars = {name: float(values.pop(name)) for name in list(values) if name.startswith(("batch_", "kl_"))}
    columns = {name: value if isinstance(value, list) else [value] * count for name, value in values.items()}
    tensors: dict[str, Any] = {name: torch.tensor(column, dtype=dtype) for name, column in columns.items()}
    return PairBatch(**tensors, **scalars)


def settings(loss: str = "dpo", **changes: Any) -> TrainingConfig:
    if not {"dpo", "robust_dpo"} & parse_loss(loss).keys():  # no other loss takes it
        changes.pop("label_smoothing", None)
    return TrainingConfig(loss=loss, **changes)


def value(name: str, pairs: PairBatch | None = None, **changes: Any) -> float:
    """A loss of one pair, the fixture unless another is given."""
    return LOSSES[name](pairs or batch(), settings(**changes)).item()


def gradients(name: str, pairs: PairBatch, of: list[str], **changes: Any) -> dict[str, Tensor | None]:
    """d sum of the loss / d each field named, None for one that the loss does not read."""
    leaves = {field: getattr(pairs, field).clone().requires_grad_() for field in of}
    loss = LOSSES[name](replace(pairs, **leaves), settings(**changes)).sum()
    return dict(zip(of, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))


@st.composite
def some_pairs(draw: st.DrawFn, count: int = 3) -> PairBatch:
    columns: dict[str, Any] = {name: draw(st.lists(log_probs, min_size=count, max_size=count)) for name in LOG_PROBS}
    for name in ("chosen_tokens", "rejected_tokens"):
        columns[name] = draw(st.lists(tokens, min_size=count, max_size=count))
    totals = {"batch_pairs": count, "batch_chosen_tokens": sum(columns["chosen_tokens"])}
    return batch(**columns, **totals, weight=draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))


def at_reference(pairs: PairBatch) -> PairBatch:
    """The same pairs with a policy that is its reference."""
    policy = {name: getattr(pairs, f"ref_{name}") for name in POLICY}
    return replace(pairs, **policy, kl_chosen=0.0, kl_rejected=0.0)


# Each loss by hand.


def test_dpo_fixture():
    """R6.7: h = 0.5, log(1 + exp(-0.5))."""
    assert value("dpo", beta=0.1) == pytest.approx(0.474077, abs=1e-6)
    assert value("dpo", beta=0.5) == pytest.approx(0.078890, abs=1e-6)


def test_dpo_with_label_smoothing_fixture():
    """0.9 * 0.474077 + 0.1 * 0.974077."""
    assert value("dpo", beta=0.1, label_smoothing=0.1) == pytest.approx(0.524077, abs=1e-6)


def test_robust_dpo_fixture():
    """(0.9 * 0.474077 - 0.1 * 0.974077) / 0.8."""
    assert value("robust_dpo", beta=0.1, label_smoothing=0.1) == pytest.approx(0.411577, abs=1e-6)


def test_ipo_fixture():
    """(5 - 1 / (2 * 0.25))^2 on sums; the margin that beta 0.1 asks for is just reached."""
    assert value("ipo", beta=0.25) == pytest.approx(9.0, abs=1e-6)
    assert value("ipo", beta=0.1) == pytest.approx(0.0, abs=1e-6)


def test_hinge_fixture():
    """1 - 0.5, and 0 once h passes 1."""
    assert value("hinge", beta=0.1) == pytest.approx(0.5, abs=1e-6)
    assert value("hinge", beta=0.5) == 0.0


def test_length_dpo_fixture():
    """h = 2 * (2 / 10 + 3 / 12) = 0.9."""
    assert value("length_dpo", beta=2.0) == pytest.approx(0.341154, abs=1e-6)


def test_ld_dpo_fixture():
    """D_l = -1.5 - 0.5 * 1.5 = -2.25, D_w = 2 has no rest: h = 0.425."""
    assert value("ld_dpo", beta=0.1, ld_alpha=0.5) == pytest.approx(0.503057, abs=1e-6)
    assert value("ld_dpo", beta=0.1, ld_alpha=0.0) == pytest.approx(math.log1p(math.exp(-0.35)), abs=1e-6)


def test_r_dpo_fixture():
    """h = 0.5 + 0.01 * (10 - 12) = 0.48; with the lengths swapped 0.52."""
    assert value("r_dpo", beta=0.1, length_penalty=0.01) == pytest.approx(0.481675, abs=1e-6)
    swapped = batch(chosen_tokens=12, rejected_tokens=10)
    assert value("r_dpo", swapped, beta=0.1, length_penalty=0.01) == pytest.approx(0.466573, abs=1e-6)


def test_dpop_fixture():
    """lp(w) one below its reference: h = 0.1 * ((-1 + 3) - 5 * 1) = -0.3; above it the penalty is 0."""
    assert value("dpop", batch(chosen=-23), beta=0.1, dpop_lambda=5.0) == pytest.approx(0.854355, abs=1e-6)
    assert value("dpop", beta=0.1, dpop_lambda=5.0) == pytest.approx(0.474077, abs=1e-6)


def test_simpo_fixture():
    """h = 2 * (-20 / 10 + 30 / 12) - 0.3 = 0.7: gamma is not scaled by beta."""
    assert value("simpo", beta=2.0, simpo_gamma=0.3) == pytest.approx(0.403186, abs=1e-6)


def test_orpo_fixture():
    """p = exp(-2) and exp(-2.5): log odds -1.854587 and -2.414350, h = 0.559763."""
    assert value("orpo") == pytest.approx(0.451932, abs=1e-6)
    even = batch(chosen=10 * math.log(0.75), rejected=12 * math.log(0.25))  # odds 3 and 1/3
    assert value("orpo", even) == pytest.approx(-math.log(9 / 10), abs=1e-6)


def test_kto_fixture():
    """1 - sigmoid(0.1 * (2 - 0.5)) = 0.462570 and 1 - sigmoid(0.1 * (1.5 + 3)) = 0.389361, and their mean."""
    assert value("kto", beta=0.1) == pytest.approx(0.425965, abs=1e-6)


def test_nll_fixture():
    """Form (a) of recipes 0.3: 30 tokens of -1 and 1 token of -3 weigh the same."""
    pairs = batch(chosen=[-30, -3], chosen_tokens=[30, 1])
    assert LOSSES["nll"](pairs, settings()).tolist() == [1.0, 3.0]


def test_nll_prompted_fixture():
    """R13.4: 20 / (30 + 10), and 1 / (999 + 1) for a verdict of one token after a long prompt."""
    pairs = batch(chosen=[-20, -1], prompt_tokens=[30, 999], chosen_tokens=[10, 1])
    assert LOSSES["nll_prompted"](pairs, settings()).tolist() == pytest.approx([0.5, 0.001])
    assert value("nll_prompted", batch(prompt_tokens=0)) == value("nll")


@pytest.mark.parametrize("name", ["nll_pooled", "sft"])
def test_nll_pooled_and_sft_fixture(name: str):
    """Form (b): 33 nats on 31 tokens, whatever the response they are in."""
    pairs = batch(chosen=[-30, -3], chosen_tokens=[30, 1], batch_pairs=2, batch_chosen_tokens=31)
    losses = LOSSES[name](pairs, settings())
    assert losses.tolist() == pytest.approx([30 * 2 / 31, 3 * 2 / 31], abs=1e-6)
    assert losses.mean().item() == pytest.approx(33 / 31, abs=1e-6)


def test_scpo_weight_fixture():
    """R1.7: h = 2.5, DPO 0.078890, NLL 2.0, vote margin 0.5."""
    parts = combined(batch(weight=0.5), settings("dpo + nll", beta=0.5))
    assert parts["loss"].item() == pytest.approx(1.039445, abs=1e-6)
    assert parts["loss_dpo"].item() == pytest.approx(0.078890, abs=1e-6)
    assert parts["loss_nll"].item() == 2.0
    assert (parts["reward_chosen"].item(), parts["reward_rejected"].item()) == (1.0, -1.5)


def test_irpo_fixture():
    """R6.7: h = 0.5, DPO 0.474077, NLL 2.0; the weight of the NLL stands at the NLL."""
    assert combined(batch(), settings("dpo + nll"))["loss"].item() == pytest.approx(2.474077, abs=1e-6)
    assert combined(batch(), settings("dpo + 3 nll"))["loss"].item() == pytest.approx(6.474077, abs=1e-6)


# What every loss owes its callers.


def test_the_registry_holds_exactly_the_names_that_settings_may_ask_for():
    assert set(LOSSES) == set(get_args(LossName))


@pytest.mark.parametrize("name", SIDED)
def test_gradients_agree_with_finite_differences(name: str):
    pairs = batch(chosen=[-20, -23], rejected=[-30, -26], chosen_tokens=[10, 14], rejected_tokens=[12, 9])
    inputs = tuple(getattr(pairs, field).clone().requires_grad_() for field in POLICY)
    config = settings(label_smoothing=0.1)

    def loss(*policy: Tensor) -> Tensor:
        return LOSSES[name](replace(pairs, **dict(zip(POLICY, policy, strict=True))), config)

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("name", SIDED)
def test_each_loss_reads_the_sides_that_the_settings_say(name: str):
    """A trainer that leaves out what PAIRWISE and REFERENCED do not name must not change the loss."""
    found = gradients(name, batch(chosen=-23), LOG_PROBS)
    read = {field for field, gradient in found.items() if gradient is not None}
    assert any("rejected" in field for field in read) == (name in PAIRWISE)
    assert any(field.startswith("ref_") for field in read) == (name in REFERENCED)
    assert any(field.endswith("_head") for field in read) == (name == "ld_dpo")
    moved = replace(batch(), kl_chosen=0.7, kl_rejected=0.9)
    assert (value(name, moved) != value(name)) == (name == "kto")


@pytest.mark.parametrize("name", SIDED)
def test_at_the_reference_every_loss_raises_the_chosen_and_lowers_the_rejected_side(name: str):
    found = gradients(name, at_reference(batch()), POLICY, label_smoothing=0.1)

    def slope(side: str) -> float:
        return sum(float(g) for field, g in found.items() if field.startswith(side) and g is not None)

    assert slope("chosen") < 0
    assert slope("rejected") > 0 if name in PAIRWISE else slope("rejected") == 0


@pytest.mark.parametrize("name", SIDED)
@pytest.mark.parametrize("chosen", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("rejected", [-1e4, 0.0, 1e4])
def test_extreme_sums_keep_losses_and_gradients_finite(name: str, chosen: float, rejected: float):
    sides = {"chosen": chosen, "chosen_head": chosen, "rejected": rejected, "rejected_head": rejected}
    # Both with the reference far on the other side and with sums of a single token.
    references = {f"ref_{field}": -number for field, number in sides.items()}
    pairs = batch(torch.float32, **sides, **references, chosen_tokens=[1, 900], rejected_tokens=[900, 1])
    assert LOSSES[name](pairs, settings(label_smoothing=0.1)).isfinite().all()
    for gradient in gradients(name, pairs, POLICY, label_smoothing=0.1).values():
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(SIDED) - PAIRWISE))
def test_rows_without_a_rejected_side_are_finite(name: str):
    gone = dict.fromkeys(("rejected", "ref_rejected", "rejected_tokens"), 0)
    gone |= dict.fromkeys(("chosen_head", "rejected_head", "ref_chosen_head", "ref_rejected_head"), 0)
    pairs = batch(torch.float32, **gone)
    leaf = pairs.chosen.clone().requires_grad_()
    parts = combined(replace(pairs, chosen=leaf), settings(name))
    parts["loss"].sum().backward()
    assert all(part.isfinite().all() for part in parts.values())
    assert leaf.grad is not None
    assert leaf.grad.tolist() == pytest.approx([-0.025 if name == "nll_prompted" else -0.1])


# Single losses.


@given(some_pairs(), st.floats(0.01, 10))
def test_a_policy_that_is_its_reference_has_loss_ln_2(pairs: PairBatch, beta: float):
    equal = at_reference(pairs)
    for name in ("dpo", "length_dpo", "ld_dpo", "dpop"):
        assert LOSSES[name](equal, settings(beta=beta)).tolist() == pytest.approx([LN2] * 3, abs=1e-12)
    assert LOSSES["kto"](equal, settings(beta=beta)).tolist() == pytest.approx([0.5] * 3, abs=1e-12)
    assert LOSSES["hinge"](equal, settings(beta=beta)).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


@given(some_pairs(), st.floats(-50, 50), st.floats(-50, 50))
def test_what_policy_and_reference_share_changes_nothing(pairs: PairBatch, of_chosen: float, of_rejected: float):
    shift = {name: of_chosen if "chosen" in name else of_rejected for name in LOG_PROBS}
    moved = replace(pairs, **{name: getattr(pairs, name) + by for name, by in shift.items()})
    for name in REFERENCED:
        expected = LOSSES[name](pairs, settings(label_smoothing=0.1))
        torch.testing.assert_close(LOSSES[name](moved, settings(label_smoothing=0.1)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("beta", "h"), [(0.1, 0.5), (0.2, 1.0), (2.0, 10.0)])
def test_dpo_gradient_is_beta_times_the_probability_of_the_wrong_order(beta: float, h: float):
    found = gradients("dpo", batch(), ["chosen", "rejected", "ref_chosen"], beta=beta)
    expected = beta / (1 + math.exp(h))
    assert [float(g) for g in found.values() if g is not None] == pytest.approx([-expected, expected, expected])


@given(some_pairs())
def test_without_label_smoothing_robust_dpo_is_dpo(pairs: PairBatch):
    torch.testing.assert_close(LOSSES["robust_dpo"](pairs, settings()), LOSSES["dpo"](pairs, settings()))


@given(st.floats(-30, 30), st.floats(0.01, 0.45))
def test_robust_dpo_of_swapped_pairs_is_dpo_of_the_true_ones_on_average(gap: float, noise: float):
    true, swapped = (batch(chosen=-20 + d, ref_chosen=-20, rejected=-30, ref_rejected=-30) for d in (gap, -gap))
    kept, turned = (value("robust_dpo", pairs, label_smoothing=noise) for pairs in (true, swapped))
    assert (1 - noise) * kept + noise * turned == pytest.approx(value("dpo", true), abs=1e-6)


def test_label_smoothing_puts_the_least_loss_at_its_own_margin():
    """Of conservative DPO it is at sigmoid(h) = 1 - e, where the gradient turns."""
    best = math.log(0.9 / 0.1) / 0.1
    found = [
        gradients("dpo", batch(chosen=-20 + best + off, ref_chosen=-20, rejected=-30, ref_rejected=-30),
                  ["chosen"], label_smoothing=0.1)["chosen"] for off in (-1.0, 0.0, 1.0)
    ]  # fmt: skip
    slopes = [float(g) for g in found if g is not None]
    assert slopes[0] < 0 < slopes[2]
    assert slopes[1] == pytest.approx(0.0, abs=1e-12)


def test_ipo_turns_back_beyond_its_margin_where_dpo_goes_on():
    far = batch(chosen=-10)  # D_w - D_l = 15, beyond 1 / (2 * 0.1)
    ipo, dpo = (gradients(name, far, ["chosen"])["chosen"] for name in ("ipo", "dpo"))
    assert ipo is not None
    assert dpo is not None
    assert ipo.item() == pytest.approx(2 * (15 - 5))
    assert dpo.item() < 0


@given(some_pairs())
def test_length_losses_fall_back_to_dpo(pairs: PairBatch):
    plain = LOSSES["dpo"](pairs, settings())
    torch.testing.assert_close(LOSSES["ld_dpo"](pairs, settings(ld_alpha=1.0)), plain)
    torch.testing.assert_close(LOSSES["r_dpo"](pairs, settings(length_penalty=0.0)), plain)
    torch.testing.assert_close(LOSSES["dpop"](pairs, settings(dpop_lambda=0.0)), plain)
    single = replace(pairs, chosen_tokens=torch.full((3,), 7.0), rejected_tokens=torch.full((3,), 7.0))
    torch.testing.assert_close(LOSSES["length_dpo"](single, settings(beta=0.7)), plain)


def test_ld_dpo_without_the_rest_does_not_see_it():
    assert value("ld_dpo", batch(rejected=-99), ld_alpha=0.0) == value("ld_dpo", ld_alpha=0.0)
    assert value("ld_dpo", batch(rejected=-99), ld_alpha=0.1) != value("ld_dpo", ld_alpha=0.1)


def test_r_dpo_pulls_harder_at_pairs_whose_chosen_side_is_shorter():
    pairs = batch(chosen_tokens=[10, 30], rejected_tokens=[30, 10])
    found = gradients("r_dpo", pairs, ["chosen"], length_penalty=0.05)["chosen"]
    assert found is not None
    assert -found[0] > -found[1] > 0


def test_dpop_pulls_a_fallen_chosen_side_up_by_lambda_more():
    fallen = batch(chosen=-23)
    found = gradients("dpop", fallen, ["chosen", "rejected"], dpop_lambda=5.0)
    assert found["chosen"] is not None
    assert found["rejected"] is not None
    assert -found["chosen"].item() == pytest.approx(6 * found["rejected"].item())


def test_simpo_reads_means_and_so_not_how_long_a_side_is():
    longer = batch(chosen=-60, chosen_tokens=30)
    assert value("simpo", longer, beta=2.0) == pytest.approx(value("simpo", beta=2.0))
    assert value("simpo", beta=2.0, simpo_gamma=1.0) > value("simpo", beta=2.0, simpo_gamma=0.0)


@pytest.mark.parametrize("mean", [-1e-2, -1e-4, -1e-5, -1e-6, -1e-8, -1e-12, 0.0])
def test_orpo_near_certainty(mean: float):
    """p towards 1 on either side, in float32: log odds = -log(exp(-mean) - 1) until 1 - p is below 1e-6."""
    sure = {"chosen": [10 * mean, -20], "rejected": [-30, 12 * mean]}
    pairs = batch(torch.float32, **sure)
    odds = -math.log(max(math.expm1(-mean), 1e-6))
    others = (-2.5 - math.log(-math.expm1(-2.5)), -2.0 - math.log(-math.expm1(-2.0)))
    margins = (odds - others[0], others[1] - odds)
    expected = [math.log1p(math.exp(-h)) for h in margins]
    assert LOSSES["orpo"](pairs, settings()).tolist() == pytest.approx(expected, rel=1e-4)
    found = gradients("orpo", pairs, ["chosen", "rejected"])
    assert found["chosen"] is not None
    assert found["rejected"] is not None
    assert found["chosen"].isfinite().all()
    assert found["rejected"].isfinite().all()
    assert (found["rejected"] > 0).all()  # a rejected side that the policy is sure of is still pulled down


@given(some_pairs(), st.floats(0, 5), st.floats(0, 5))
def test_kto_is_between_0_and_1_and_measures_each_side_from_the_other_sides_mean(
    pairs: PairBatch, kl_chosen: float, kl_rejected: float
):
    moved = replace(pairs, kl_chosen=kl_chosen, kl_rejected=kl_rejected)
    losses = LOSSES["kto"](moved, settings())
    assert ((losses >= 0) & (losses <= 1)).all()
    folded = replace(moved, chosen=moved.chosen - kl_rejected, rejected=moved.rejected - kl_chosen)
    torch.testing.assert_close(LOSSES["kto"](replace(folded, kl_chosen=0.0, kl_rejected=0.0), settings()), losses)


@given(st.lists(st.tuples(log_probs, tokens), min_size=2, max_size=8), st.integers(1, 7))
def test_pooled_nll_is_total_by_tokens_however_the_batch_is_cut(rows: list[tuple[float, int]], at: int):
    count, total = len(rows), sum(length for _, length in rows)
    cuts = [part for part in (rows[:at], rows[at:]) if part]
    sums = 0.0
    for part in cuts:
        pairs = batch(
            chosen=[lp for lp, _ in part], chosen_tokens=[length for _, length in part],
            batch_pairs=count, batch_chosen_tokens=total,
        )  # fmt: skip
        sums += LOSSES["nll_pooled"](pairs, settings()).sum().item()
    assert sums / count == pytest.approx(-sum(lp for lp, _ in rows) / total)


@given(st.lists(log_probs, min_size=1, max_size=8), tokens)
def test_both_forms_of_nll_agree_on_responses_of_one_length(chosen: list[float], length: int):
    pairs = batch(
        chosen=chosen, chosen_tokens=length, batch_pairs=len(chosen), batch_chosen_tokens=length * len(chosen)
    )
    torch.testing.assert_close(LOSSES["nll"](pairs, settings()), LOSSES["nll_pooled"](pairs, settings()))


# All terms of a run together.


@given(some_pairs(), st.dictionaries(st.sampled_from(SIDED), st.floats(0.01, 5), min_size=1))
def test_combined_is_the_weighted_sum_of_its_terms(pairs: PairBatch, weights: dict[str, float]):
    def weighted(by: float) -> TrainingConfig:
        text = " + ".join(f"{by * weight} {name}" for name, weight in weights.items())
        return settings(text, label_smoothing=0.1)

    config = weighted(1)
    parts = combined(pairs, config)
    expected = sum(weight * LOSSES[name](pairs, config) for name, weight in weights.items()) * pairs.weight
    torch.testing.assert_close(parts["loss"], expected)
    torch.testing.assert_close(combined(pairs, weighted(2))["loss"], 2 * parts["loss"])
    reported = {"loss", "dpo_loss", "reward_chosen", "reward_rejected"} | {f"loss_{name}" for name in weights}
    assert set(parts) == reported
    for name in weights:
        torch.testing.assert_close(parts[f"loss_{name}"], LOSSES[name](pairs, config))


def test_a_pair_weight_scales_loss_and_gradient_and_no_reported_part():
    chosen = batch(chosen=[-20] * 3).chosen.requires_grad_()
    parts = combined(replace(batch(weight=[1, 0.25, 0]), chosen=chosen), settings("dpo + nll"))
    parts["loss"].sum().backward()
    losses = parts["loss"].tolist()
    assert losses == pytest.approx([2.474077, 2.474077 / 4, 0.0], abs=1e-6)
    assert chosen.grad is not None
    assert (chosen.grad[1] / chosen.grad[0], chosen.grad[2]) == (0.25, 0.0)
    assert parts["loss_nll"].tolist() == parts["loss_nll"][:1].tolist() * 3


def test_plain_dpo_is_reported_whatever_the_terms():
    for config in (settings("sft"), settings("ipo"), settings("dpo", label_smoothing=0.2)):
        parts = combined(batch(), config)
        assert parts["dpo_loss"].item() == pytest.approx(0.474077, abs=1e-6)
    assert "loss_dpo" not in combined(batch(), settings("sft"))


@pytest.mark.parametrize("name", SIDED)
def test_only_the_loss_carries_a_graph(name: str):
    pairs = batch()
    parts = combined(replace(pairs, chosen=pairs.chosen.requires_grad_()), settings(name, label_smoothing=0.1))
    carried = {part for part, tensor in parts.items() if tensor.requires_grad}
    assert carried == {"loss"}
