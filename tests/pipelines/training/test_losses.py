"""The preference losses at the numbers that recipes are specified with."""

import math

import pytest
import torch
from torch import Tensor

from pipelines.training.losses import dpo, nll_per_example, weighted_pair_loss

LN2 = math.log(2.0)


def pairs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def fixture_loss(beta: float, weight: float = 1.0, nll_alpha: float = 1.0) -> dict[str, Tensor]:
    """lp(w) = -20, ref -22, lp(l) = -30, ref -27, ten chosen tokens: the fixture of R1.7 and R6.7."""
    return weighted_pair_loss(
        pairs(-20), pairs(-30), pairs(-22), pairs(-27), pairs(10), pairs(weight), beta, nll_alpha
    )


def test_scpo_fixture():
    """R1.7: h = 2.5, DPO 0.078890, NLL 2.0, weight 0.5."""
    parts = fixture_loss(beta=0.5, weight=0.5)
    assert parts["dpo_loss"].item() == pytest.approx(0.078890, abs=1e-6)
    assert parts["nll"].item() == 2.0
    assert parts["loss"].item() == pytest.approx(1.039445, abs=1e-6)
    assert (parts["reward_chosen"].item(), parts["reward_rejected"].item()) == (1.0, -1.5)


def test_irpo_fixture():
    """R6.7: h = 0.5, DPO 0.474077, NLL 2.0."""
    parts = fixture_loss(beta=0.1)
    assert parts["dpo_loss"].item() == pytest.approx(0.474077, abs=1e-6)
    assert parts["loss"].item() == pytest.approx(2.474077, abs=1e-6)
    assert fixture_loss(beta=0.1, nll_alpha=0.0)["loss"].item() == parts["dpo_loss"].item()


@pytest.mark.parametrize("beta", [0.1, 0.5, 10.0])
def test_a_policy_that_is_its_reference_has_loss_ln_2(beta):
    losses, chosen, rejected = dpo(pairs(-20, -3000), pairs(-30, 0), pairs(-20, -3000), pairs(-30, 0), beta)
    assert losses.tolist() == pytest.approx([LN2, LN2], abs=1e-15)
    assert chosen.tolist() == rejected.tolist() == [0.0, 0.0]


def test_the_gradient_pulls_the_sides_apart_with_half_beta_at_the_start():
    """d loss / d lp(w) = -beta sigmoid(-h) = -beta / 2 at h = 0; the reference gets none."""
    chosen, rejected = pairs(-20).requires_grad_(), pairs(-30).requires_grad_()
    loss, _, _ = dpo(chosen, rejected, pairs(-20), pairs(-30), 0.2)
    loss.sum().backward()
    assert (chosen.grad, rejected.grad) == (pairs(-0.1), pairs(0.1))


def test_extreme_margins_stay_finite():
    losses, _, _ = dpo(pairs(-1e4, 0), pairs(0, -1e4), pairs(0, 0), pairs(0, 0), 1.0)
    assert losses.tolist() == [1e4, 0.0]


def test_weight_zero_gives_no_loss_and_no_gradient():
    chosen, rejected = pairs(-20).requires_grad_(), pairs(-30).requires_grad_()
    parts = weighted_pair_loss(chosen, rejected, pairs(-22), pairs(-27), pairs(10), pairs(0), 0.1, 1.0)
    parts["loss"].sum().backward()
    assert parts["loss"].item() == 0.0
    assert (chosen.grad, rejected.grad) == (pairs(0), pairs(0))
    assert parts["dpo_loss"].item() > 0  # the parts are reported without the weight


def test_nll_is_the_mean_of_each_example_and_not_of_all_tokens():
    """Form (a) of recipes 0.3: 30 tokens of -1 and 1 token of -3 weigh the same."""
    nll = nll_per_example(pairs(-30, -3), pairs(30, 1))
    assert nll.tolist() == [1.0, 3.0]
    assert nll.mean().item() == 2.0
    chosen = pairs(-30, -3).requires_grad_()
    nll_per_example(chosen, pairs(30, 1)).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == [-1 / 30, -1.0]


def test_alpha_stands_at_the_nll_term():
    losses = [fixture_loss(beta=0.1, nll_alpha=alpha)["loss"].item() for alpha in (0.0, 1.0, 3.0)]
    assert losses[1] - losses[0] == pytest.approx(2.0)
    assert losses[2] - losses[0] == pytest.approx(6.0)


def test_reported_parts_carry_no_graph():
    chosen = pairs(-20).requires_grad_()
    parts = weighted_pair_loss(chosen, pairs(-30), pairs(-22), pairs(-27), pairs(10), pairs(1), 0.1, 1.0)
    assert {name for name, value in parts.items() if value.requires_grad} == {"loss"}
