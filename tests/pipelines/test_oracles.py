"""What methods must do when the truth is known: oracles for engines, asked and read by the product's own roles."""

import math
from typing import Any

import pytest

from pipelines.records import Group, Pair, new_group
from pipelines.steps.lessons import known_questions
from pipelines.steps.parts import visible
from tests.oracles import Cast, Opinion, Truth, answers, biased, confused, length, mute, rule
from tests.pipelines.planted import run_recipe
from tests.playing import play

pytestmark = pytest.mark.slow  # hundreds of prompts each


def questions(count: int) -> list[Group]:
    """Prompts with a known number for an answer."""
    return [new_group([{"role": "user", "content": f"Question {i}: how many are it?"}], gold=str(9 + i % 50))
            for i in range(count)]  # fmt: skip


def iteration(
    name: str, count: int, cast: Cast, at: int = 0, **settings: Any
) -> tuple[list[Group], list[Pair], Truth]:
    """Groups and pairs of a recipe's iteration over `count` questions, and what the oracles know."""
    found = play(name, questions(count), cast, at, **settings)
    return *run_recipe(name, found.groups, at, **settings), found.truth


def qualities(groups: list[Group], pairs: list[Pair], truth: Truth) -> list[tuple[float, float]]:
    """Planted quality of both sides of each pair of responses."""
    known = {s["sample_id"]: truth.answers[g["prompt_id"]][visible(s).strip()] for g in groups for s in g["samples"]}
    return [(known[p["chosen_from"]], known[p["rejected_from"]]) for p in pairs if p["kind"] == "actor"]


def share(found: list[bool]) -> float:
    assert found
    return sum(found) / len(found)


# ---- policies


@pytest.mark.parametrize(("right", "majority", "tied"), [(0.6, 0.594, 0.232), (0.7, 0.806, 0.136)])
def test_e_majority_of_eight_votes(right: float, majority: float, tied: float) -> None:
    """A policy of two answers: more than half of eight votes are right, or as many as wrong ones, as theory says."""
    policy = answers(right=right, wrongs=1)
    groups, pairs, _ = iteration("scpo", 500, Cast(policy=policy), samples={"n": 8, "max_tokens": 400})
    gold = {g["prompt_id"]: g["gold"] for g in groups}
    won = [p for p in pairs if p["chosen_text"].endswith(f" {gold[p['prompt_id']]}")]
    assert len(won) / 500 == pytest.approx(majority, abs=0.04)
    undecided = sum(sum(s["votes"] == 4 for s in g["samples"] if s["kind"] == "sample") == 8 for g in groups)
    assert undecided / 500 == pytest.approx(tied, abs=0.04)
    assert len(pairs) + sum(g["dropped"] is not None for g in groups) == 500


def test_e_a_policy_that_is_sometimes_right_gives_right_chains_against_wrong_ones() -> None:
    groups, pairs, _ = iteration("irpo", 400, Cast(policy=answers(right=0.3)), samples={"n": 8, "max_tokens": 400})
    assert {(p["chosen_score"], p["rejected_score"]) for p in pairs} == {(1.0, 0.0)}
    one_sided = [g["dropped"] in ("no_correct_sample", "no_wrong_sample") for g in groups]
    assert share(one_sided) == pytest.approx(0.3**8 + 0.7**8, abs=0.03)


# ---- judges


def test_e_a_rule_judge_recovers_the_planted_order() -> None:
    groups, pairs, truth = iteration("self_rewarding", 100, Cast(judge=rule()), samples={"n": 4}, judgements={"n": 1})
    assert len(pairs) > 90
    for pair, (chosen, rejected) in zip(pairs, qualities(groups, pairs, truth), strict=True):
        known = sorted(truth.answers[pair["prompt_id"]].values())
        assert chosen >= known[-1] - 1 and rejected <= known[0] + 1  # a point is as exact as the scale is
        assert chosen > rejected


@pytest.mark.parametrize("name", ["self_rewarding", "meta_rewarding"])
def test_e_more_judgements_make_more_accurate_pairs(name: str) -> None:
    def accuracy(n: int) -> float:
        settings: dict[str, Any] = {"samples": {"n": 2}, "judgements": {"n": n}, "rho": 0.0}
        found = iteration(name, 150, Cast(judge=rule(3.0)), at=2, **settings)
        right = sum(chosen > rejected for chosen, rejected in qualities(*found))
        return (right + (150 - len(found[1])) / 2) / 150  # a tie is right half the time

    one, three, eleven = accuracy(1), accuracy(3), accuracy(11)
    assert one < three < eleven
    assert one < 0.75 and eleven > 0.8


def longer(pairs: list[Pair], cut: str = "") -> list[bool]:
    return [len(p["chosen_text"].partition(cut)[2]) > len(p["rejected_text"].partition(cut)[2]) for p in pairs]


def test_e_length_tiers_take_the_advantage_from_a_judge_who_likes_length() -> None:
    def advantage(rho: float) -> tuple[float, float]:
        settings: dict[str, Any] = {"samples": {"n": 7}, "judgements": {"n": 5}, "rho": rho}
        groups, pairs, truth = iteration("meta_rewarding", 80, Cast(judge=biased(0.5, 0.02)), at=2, **settings)
        extra = [len(p["chosen_text"]) - len(p["rejected_text"]) for p in pairs]
        return sum(extra) / len(extra), share([c > r for c, r in qualities(groups, pairs, truth)])

    found = [advantage(rho) for rho in (0.0, 0.2, 0.45)]
    assert found[0][0] > found[1][0] > found[2][0]
    assert found[2][0] < found[0][0] / 2


@pytest.mark.parametrize("judging", ["pairwise", "pointwise"])
def test_e_a_judge_of_length_alone_is_defeated_as_rho_grows(judging: str) -> None:
    def wins_of_the_longer(rho: float) -> float:
        settings: dict[str, Any] = {"samples": {"n": 5}, "rho": rho, "judging": judging}
        _, pairs, _ = iteration("tpo", 50, Cast(judge=length), **settings)
        return share(longer(pairs, "Here is my response:\n"))

    found = [wins_of_the_longer(rho) for rho in (0.0, 0.5, 1.0, 2.0)]
    assert found[0] == found[1] == 1.0
    assert found[2] < 0.8 and found[3] < 0.05


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_e_a_mute_judge_does_not_bias_the_pairs(rate: float) -> None:
    def measured(judge: Opinion) -> tuple[float, float, float]:
        settings: dict[str, Any] = {"samples": {"n": 4}, "judgements": {"n": 7}}
        groups, pairs, truth = iteration("self_rewarding", 120, Cast(judge=judge), **settings)
        scores = [s["score"] for g in groups for s in g["samples"] if s["score"] is not None]
        right = share([chosen > rejected for chosen, rejected in qualities(groups, pairs, truth)])
        return sum(scores) / len(scores), right, len(pairs) / len(groups)

    plain, quiet = measured(rule(2.0)), measured(mute(rate, rule(2.0)))
    assert quiet[0] == pytest.approx(plain[0], abs=0.08)
    assert quiet[1] > plain[1] - 0.05
    assert quiet[2] > 0.95


def test_e_a_confused_judge_is_measured_and_teaches_what_is_right_alone() -> None:
    """Right with .8 where the better one stands first, with .6 where it stands second."""
    n = 5
    cast = Cast(judge=confused(0.8, 0.6))
    groups, pairs, _ = iteration("self_taught_evaluator", 200, cast, judgements={"n": n})
    asked: dict[str, list[float]] = {"A": [], "B": []}
    for group in groups:
        better, worse = (next(s for s in group["samples"] if s["kind"] == kind) for kind in ("sample", "corrupted"))
        for question in known_questions(group, better, worse):
            asked[question.label].append(question.share)
    for label, right in (("A", 0.8), ("B", 0.6)):
        assert sum(asked[label]) / len(asked[label]) == pytest.approx(right, abs=0.04)
        assert share([s == 0 for s in asked[label]]) == pytest.approx((1 - right) ** n, abs=0.02)
    said = [p["chosen_text"][-5:] for p in pairs]
    assert said.count("[[A]]") == said.count("[[B]]") == len(pairs) / 2 > 180
    judged = {j["judgement_id"]: (j, g) for g in groups for j in g["judgements"]}
    for pair in pairs:
        judgement, group = judged[pair["chosen_from"]]
        kinds = {s["sample_id"]: s["kind"] for s in group["samples"]}
        assert kinds[judgement["sample_ids"]["AB".index(judgement["verdict"] or "")]] == "sample"


def test_e_a_rule_meta_judge_puts_the_smaller_error_on_the_chosen_side() -> None:
    settings: dict[str, Any] = {"samples": {"n": 2}, "judgements": {"n": 6}}
    _, pairs, truth = iteration("meta_rewarding", 60, Cast(judge=rule(3.0), meta_judge=rule(0.3)), **settings)
    judged = [p for p in pairs if p["kind"] == "judge"]
    assert len(judged) > 40
    errors = [
        tuple(-truth.judgements[p["prompt_id"]][p[side].strip()] for side in ("chosen_text", "rejected_text"))
        for p in judged
    ]
    assert sum(c for c, _ in errors) < 0.5 * sum(r for _, r in errors)
    assert share([c <= r for c, r in errors]) > 0.95


def test_majorities_in_theory() -> None:
    """The reference values of the tests above, from the binomial distribution."""
    for p, won, tied in ((0.6, 0.594, 0.232), (0.7, 0.806, 0.136)):
        chance = [math.comb(8, k) * p**k * (1 - p) ** (8 - k) for k in range(9)]
        assert (sum(chance[5:]), chance[4]) == (pytest.approx(won, abs=5e-4), pytest.approx(tied, abs=5e-4))
