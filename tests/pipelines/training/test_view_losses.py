"""The losses of rows with two views: a digit under the teacher's prompt and under the student's, who sees less."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.records import Pair
from pipelines.training.batching import forward_passes, read_of, views
from pipelines.training.config import VIEWED, TrainingConfig
from pipelines.training.learner import Learner
from pipelines.training.logprobs import padded_logprobs
from pipelines.training.losses import LOSSES, Views, combined
from tests.pipelines.training.test_losses import batch
from tests.pipelines.training.tiny import DIGITS, SELF_J, make_learner, tiny_lm, two_views

logits = st.lists(st.floats(-30, 30), min_size=11, max_size=11)


def loss(name: str, **views: Tensor) -> Tensor:
    return LOSSES[name](replace(batch(chosen_tokens=1), views=seen(**views)), TrainingConfig(loss=name))


def seen(**views: Tensor) -> Views:
    plain: Any = {"chosen": torch.tensor([-2.0]), "teacher": uniform(0.5), "student": uniform(0.5)}
    return Views(**plain | views)


def uniform(mass: float) -> Tensor:
    """Ten equal digits that have so much probability together."""
    return torch.full((1, 10), math.log(mass / 10), dtype=torch.float64)


def some(values: list[float]) -> Tensor:
    """Log-probabilities of ten digits, the last of the eleven values being for all else."""
    return torch.tensor([values], dtype=torch.float64).log_softmax(-1)[:, :10]


# ---- by hand


def test_self_j_equal_views_fixture() -> None:
    """R14.7: with equal logits on both views KL = 0 and L = 1.3 CE."""
    digits = some([0.1 * i for i in range(11)])
    label = digits[:, 7]
    pairs = replace(
        batch(chosen=[float(label)], chosen_tokens=1), views=Views(chosen=label, teacher=digits, student=digits)
    )
    parts = combined(pairs, TrainingConfig(loss=SELF_J))
    assert parts["loss_student_kl"].item() == 0.0
    assert parts["loss"].item() == pytest.approx(1.3 * -label.item(), abs=1e-9)


def test_student_kl_fixture() -> None:
    """Half of the probability on digits against a quarter: .5 ln(.5 / .25) + .5 ln(.5 / .75) = 0.143841."""
    assert loss("student_kl", student=uniform(0.25)).item() == pytest.approx(0.143841, abs=1e-6)
    assert loss("student_kl", teacher=uniform(0.25)).item() == pytest.approx(0.130812, abs=1e-6)  # the other way


def test_student_nll_fixture() -> None:
    assert loss("student_nll").item() == 2.0


# ---- at any numbers


@given(logits, logits)
def test_the_divergence_is_never_negative_and_no_more_than_that_of_all_tokens(a: list[float], b: list[float]) -> None:
    found = loss("student_kl", teacher=some(a), student=some(b)).item()
    whole, other = (torch.tensor([*v[:10], *[v[10] - math.log(5)] * 5]).double().log_softmax(-1) for v in (a, b))
    uneven = torch.cat([other[:10], (other[10:].exp() * torch.tensor([1.9, 0.1, 1, 1, 1])).log()])  # the rest differs
    assert found >= -1e-12  # rounding
    assert found <= float((whole.exp() * (whole - uneven)).sum()) + 1e-4
    assert loss("student_kl", teacher=some(a), student=some(a)).item() == 0


@given(logits, logits)
def test_the_teacher_is_not_moved_by_the_student(a: list[float], b: list[float]) -> None:
    teacher, student = some(a).requires_grad_(), some(b).requires_grad_()
    found = torch.autograd.grad(
        loss("student_kl", teacher=teacher, student=student).sum(), [teacher, student], allow_unused=True
    )
    assert found[0] is None
    assert found[1] is not None and found[1].isfinite().all()


@pytest.mark.parametrize("name", sorted(VIEWED))
def test_gradients_agree_with_finite_differences(name: str) -> None:
    inputs = tuple(t.double().requires_grad_() for t in (torch.tensor([-2.0]), some([0.3 * i for i in range(11)])))
    assert torch.autograd.gradcheck(lambda chosen, student: loss(name, chosen=chosen, student=student), inputs)


@pytest.mark.parametrize("teacher", [-1e4, -1e-9, 0.0])
@pytest.mark.parametrize("student", [-1e4, -1e-9, 0.0])
def test_extreme_log_probabilities_stay_finite(teacher: float, student: float) -> None:
    one = torch.full((1, 10), -1e4)
    sides = []
    for value in (teacher, student):
        digits = one.clone()
        digits[0, 3] = value
        sides.append(digits.requires_grad_())
    found = loss("student_kl", teacher=sides[0], student=sides[1]).sum()
    (gradient,) = torch.autograd.grad(found, [sides[1]])
    assert found.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("name", sorted(VIEWED))
def test_rows_of_one_view_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="these rows have one"):
        LOSSES[name](batch(), TrainingConfig(loss=name))


# ---- in a step


def test_the_second_view_is_read_where_a_loss_asks_for_it() -> None:
    (row,) = two_views(1)
    both, one = TrainingConfig(loss=SELF_J), TrainingConfig(loss="nll")
    assert read_of(row, one) == [(row["prompt_ids"], row["chosen_ids"])]
    assert read_of(row, both) == [*read_of(row, one), *views(row)]
    assert len(views(row)) == 1 + 2 * 10
    assert make_learner(loss="nll").evaluate([row])["prompt_tokens"] == 20
    found = make_learner(loss=SELF_J).evaluate([row])
    assert (found["prompt_tokens"], found["computed_tokens"]) == (24, 24)  # digits are never laid out


def the_long_way(model: Any, pair: Pair) -> Tensor:
    """The three terms from padded rows and a softmax of one's own."""
    label = DIGITS.index(pair["chosen_ids"][0])
    prompts = (pair["prompt_ids"], pair["student_ids"] or [])
    teacher, student = (torch.cat(padded_logprobs(model, [(p, [d]) for d in DIGITS])) for p in prompts)
    p, q = (torch.cat([t, torch.log(1 - t.exp().sum())[None]]) for t in (teacher.detach(), student))
    return -teacher[label] - 0.3 * student[label] + 2 * (p.exp() * (p - q)).sum()


CUTS: list[dict[str, Any]] = [{}, {"shared_prompt": False}, {"tokens_per_forward": 1}, {"logprob_chunk": 2}]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_step_reports_and_learns_what_the_long_way_gives(cut: dict[str, Any]) -> None:
    rows, model = two_views(), tiny_lm()
    expected = torch.stack([pair["weight"] * the_long_way(model, pair) for pair in rows]).mean()
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(expected, list(model.parameters()))])
    found = make_learner(loss=SELF_J, **cut).step(rows, 1e-3)
    assert found["loss"] == pytest.approx(expected.item(), rel=2e-5)
    assert found["grad_norm"] == pytest.approx(gradient.norm().item(), rel=2e-4)
    assert found["loss_student_kl"] > 0


def test_students_learn_what_their_teachers_say() -> None:
    rows = two_views()
    learner: Learner = make_learner(loss=SELF_J)
    losses = [learner.step(rows, 1e-2) for _ in range(8)]
    assert losses[-1]["loss_student_nll"] < losses[0]["loss_student_nll"] - 1
    assert losses[-1]["loss_student_kl"] < losses[0]["loss_student_kl"]


def test_a_pass_has_room_for_both_prompts() -> None:
    rows = two_views(2)
    sizes = [len(row["prompt_ids"]) + len(row["student_ids"] or []) for row in rows]
    config = TrainingConfig(loss=SELF_J, tokens_per_forward=sum(sizes) - 1, shared_prompt=False)
    assert len(forward_passes(rows, config, 1)[0]) == 2
    assert len(forward_passes(rows, config.model_copy(update={"loss": "nll"}), 1)[0]) == 1
