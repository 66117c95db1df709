import copy
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.prompts import load
from pipelines.recipes.base import SampleStep
from pipelines.recipes.scpo import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.render import prompt_messages
from pipelines.training.config import TrainingConfig
from pipelines.training.losses import combined
from tests.pipelines.planted import group, noise, run_recipe, sample
from tests.pipelines.training.test_losses import batch

FIXTURE = [12, 12, 12, 15, 12, 7, 15, 12]

some_answers = st.lists(st.none() | st.integers(1, 4), max_size=9)


def voted(answers: list[Any], hot: Sequence[Any] = (), prompt_id: str = "p", **other: Any) -> Group:
    """A prompt whose samples end in these answers, None for one without."""
    drawn = [*(("sample", a) for a in answers), *(("hot", a) for a in hot)]
    ends = ["I give up." if a is None else f"Final answer: {a}" for _, a in drawn]
    samples = [
        sample(f"{prompt_id}-{kind}{i}", f"Way {i}.\n{ends[i]}", i, kind=kind) for i, (kind, _) in enumerate(drawn)
    ]
    return group(prompt_id, samples=samples, **other)


def test_paper_defaults() -> None:
    paper = Settings()
    regular, hot = RECIPE.steps(paper, 0)
    assert isinstance(regular, SampleStep) and isinstance(hot, SampleStep)
    assert (regular.kind, hot.kind, regular.template) == ("sample", "hot", hot.template)
    assert (regular.sampling.n, regular.sampling.temperature, regular.sampling.top_p) == (8, 0.7, 0.9)
    assert (hot.sampling.n, hot.sampling.temperature) == (8, 1.2)
    assert regular.sampling.max_tokens == hot.sampling.max_tokens == 1024
    assert (paper.tau, RECIPE.iterations, RECIPE.reuse_prompts) == ([0.5, 0.7], 2, True)
    assert (paper.unread_rejected, paper.use_gold) == (False, False)
    training = TrainingConfig(**RECIPE.training)
    assert (training.beta, training.losses, training.learning_rate) == (0.5, {"dpo": 1.0, "nll": 1.0}, 5e-6)
    assert (training.schedule, training.batch_pairs, training.epochs) == ("cosine", 16, 10)


def test_new_questions_are_asked_with_four_shots_where_there_shall_be_some() -> None:
    assert RECIPE.new_prompts(Settings(), 0) is None
    new = RECIPE.new_prompts(Settings(new_questions=[0, 50]), 3)
    assert new and (new.count, new.shots, new.generated_shots, new.sampling.n) == (50, 4, 0, 1)
    text = load(new.template).render(examples=["FIRST", "SECOND", "THIRD", "FOURTH"])
    assert [text.count(name) for name in ("FIRST", "SECOND", "THIRD", "FOURTH", "4 problems")] == [1] * 5


def test_without_hot_samples_one_step_is_left() -> None:
    (step,) = RECIPE.steps(Settings.model_validate({"hot": None}), 0)
    assert isinstance(step, SampleStep) and step.kind == "sample"
    assert RECIPE.steps(Settings.model_validate({"hot": {"n": 2}}), 0)[1] != step


def test_scpo_votes_fixture() -> None:
    (read,), (pair,) = run_recipe("scpo", [voted(FIXTURE)])
    assert [s["votes"] for s in read["samples"]] == [5, 5, 5, 2, 5, 1, 2, 5]
    assert pair["chosen_text"].endswith(" 12") and pair["rejected_from"] == "p-sample5"
    assert (pair["weight"], pair["chosen_score"], pair["rejected_score"]) == (0.5, 5.0, 1.0)
    (read,), none = run_recipe("scpo", [voted(FIXTURE)], iteration=1)  # 5 < 0.7 * 8
    assert (none, read["dropped"]) == ([], "no_majority")
    assert run_recipe("scpo", [voted(FIXTURE)], tau=0.7)[1] == []


def test_scpo_loss_fixture() -> None:
    _, (pair,) = run_recipe("scpo", [voted(FIXTURE)])
    sides = batch(
        chosen=-20, ref_chosen=-22, rejected=-30, ref_rejected=-27, chosen_tokens=10, weight=pair["weight"]
    )  # fmt: skip
    parts = combined(sides, TrainingConfig(**RECIPE.training))
    assert parts["loss_dpo"].item() == pytest.approx(0.078890, abs=1e-6)
    assert parts["loss_nll"].item() == pytest.approx(2.0)
    assert parts["loss"].item() == pytest.approx(1.039445, abs=1e-6)


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (group("p"), "no_samples"),
        (voted([], [1, 2]), "no_samples"),
        (voted([None, None], [1]), "no_answer"),
        (voted([1, 2, 3, 4, 5, None]), "no_majority"),
        (voted([1, 1, None, None, None]), "no_majority"),  # k counts the samples drawn, not those that were read
        (voted([1, 1, 1, 1]), "tied_votes"),
        (voted([1, 1, 2, 2]), "tied_votes"),
        (voted([1, 1, 1, None]), "tied_votes"),
        (voted([1, 1, 1, 1], [1, 1]), "tied_votes"),
        ({**voted(FIXTURE), "dropped": "prompt_too_long"}, "prompt_too_long"),
    ],
)
def test_dropped_prompts_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("scpo", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


def test_hot_samples_neither_vote_nor_win_but_lose_with_the_votes_of_their_answer() -> None:
    (read,), (pair,) = run_recipe("scpo", [voted([1, 1, 1, 2], [2, 2, 2, 2, 2])])
    assert [s["votes"] for s in read["samples"]] == [3, 3, 3, 1, 1, 1, 1, 1, 1]
    assert pair["chosen_text"].endswith(" 1") and (pair["weight"], pair["rejected_score"]) == (0.5, 1.0)
    _, (pair,) = run_recipe("scpo", [voted([1, 1, 1, 1], [1, 9, 1])])  # a consistent model needs them
    assert (pair["rejected_from"], pair["weight"], pair["rejected_score"]) == ("p-hot5", 1.0, 0.0)
    chosen = {run_recipe("scpo", [voted([1, 1, 2], [1] * 6)], seed=seed)[1][0]["chosen_from"] for seed in range(20)}
    assert chosen == {"p-sample0", "p-sample1"}


def test_strictly_read_only_the_form_that_was_asked_for_votes() -> None:
    texts = ["Final answer: 4", "Final answer: 4", "Final answer: 4", "Final Answer: 5", "Final Answer: 5"]
    planted = group("p", samples=[sample(str(i), t, i) for i, t in enumerate(texts)])
    (read,), (pair,) = run_recipe("scpo", [planted], strict_answers=True, unread_rejected=True)
    assert [s["votes"] for s in read["samples"]] == [3, 3, 3, 0, 0]
    assert pair["rejected_from"] in ("3", "4")


def test_unread_samples_are_rejected_only_where_asked() -> None:
    planted = voted([1, 1, 1, None])
    _, (pair,) = run_recipe("scpo", [planted], unread_rejected=True)
    assert (pair["rejected_from"], pair["weight"], pair["rejected_score"]) == ("p-sample3", 0.75, 0.0)
    (read,), _ = run_recipe("scpo", [planted])
    assert (read["samples"][3]["answer"], read["samples"][3]["votes"]) == (None, 0)


def test_repeated_texts_vote_as_often_as_they_were_drawn() -> None:
    planted = voted([1, 1, 1, 2])
    for s in planted["samples"][:3]:
        s["text"] = "The same.\nFinal answer: 1"
    _, (pair,) = run_recipe("scpo", [planted])
    assert (pair["chosen_from"], pair["weight"]) == ("p-sample0", 0.5)


def test_answers_that_are_written_differently_vote_together() -> None:
    planted = voted(["18", "$18.00", "18 dollars", "1,8", "17"])
    (read,), _ = run_recipe("scpo", [planted])
    assert [s["votes"] for s in read["samples"]] == [3, 3, 3, 1, 1]


def test_pairs_hold_the_prompt_the_policy_saw() -> None:
    planted = voted(FIXTURE)
    _, (pair,) = run_recipe("scpo", [planted])
    assert pair["messages"] == prompt_messages(planted, "irpo_question") != planted["messages"]
    assert (pair["kind"], pair["chosen_ids"][1]) == ("actor", 7)


def test_labelled_prompts_pair_right_and_wrong_samples_with_weight_1() -> None:
    labelled = voted([5, 5, 5, 4], [4, 6], gold="4")  # the majority is wrong
    (read,), (pair,) = run_recipe("scpo", [labelled], use_gold=True)
    assert pair["chosen_from"] == "p-sample3" and (pair["weight"], pair["chosen_score"]) == (1.0, 1.0)
    assert [s["score"] for s in read["samples"]] == [0, 0, 0, 1, 1, 0]
    _, (pair,) = run_recipe("scpo", [labelled])  # without being asked, the label is not used
    assert pair["chosen_text"].endswith(" 5")
    _, pairs = run_recipe("scpo", [labelled], use_gold=True, gold_pairs=10)
    assert {p["chosen_from"] for p in pairs} == {"p-sample3"} and len(pairs) == 4  # a hot sample is never chosen
    (read,), none = run_recipe("scpo", [voted([5, 5, 5], gold="4")], use_gold=True)
    assert (none, read["dropped"]) == ([], "no_correct_sample")


def test_unlabelled_prompts_beside_labelled_ones_go_by_votes() -> None:
    groups = [voted(FIXTURE, prompt_id="a"), voted(FIXTURE, prompt_id="b", gold="15")]
    _, pairs = run_recipe("scpo", groups, use_gold=True)
    assert [(p["chosen_text"][-2:], p["weight"]) for p in pairs] == [("12", 0.5), ("15", 1.0)]


@settings(deadline=None)
@given(some_answers, st.integers(1, 12))
def test_all_labelled_is_irpo(answers: list[int | None], k: int) -> None:
    planted = voted(answers, gold="2")
    (_,), irpo = run_recipe("irpo", [planted], pairs_per_prompt=k, use_gold_chain=False)
    (_,), pairs = run_recipe("scpo", [planted], use_gold=True, gold_pairs=k)
    sides = [[(p["chosen_from"], p["rejected_from"], p["weight"]) for p in some] for some in (irpo, pairs)]
    assert sides[0] == sides[1]


@settings(deadline=None)
@given(some_answers, some_answers, st.floats(0.05, 1), st.booleans(), st.randoms())
def test_d2_d4_weights_are_margins_and_arrival_changes_nothing(
    answers: list[int | None], hot: list[int | None], tau: float, unread: bool, shuffler: random.Random
) -> None:
    planted = voted(answers, hot)
    (_,), pairs = run_recipe("scpo", [planted], tau=tau, unread_rejected=unread)
    for pair in pairs:
        ups, downs = pair["chosen_score"], pair["rejected_score"]
        assert ups is not None and downs is not None
        assert pair["weight"] == (ups - downs) / len(answers) and 0 < pair["weight"] <= 1
        assert ups >= tau * len(answers) - 1e-6 and ups == max(answers.count(a) for a in answers if a is not None)
        assert pair["chosen_from"].startswith("p-sample") and pair["chosen_text"] != pair["rejected_text"]
    mixed = copy.deepcopy(planted)
    shuffler.shuffle(mixed["samples"])
    assert run_recipe("scpo", [mixed], tau=tau, unread_rejected=unread)[1] == pairs


@settings(deadline=None)
@given(some_answers, st.integers(1, 5))
def test_d3_samples_without_an_answer_only_raise_the_threshold(answers: list[int | None], more: int) -> None:
    """k grows, so weights shrink and a pair may be lost, but none is gained and none changes sides."""
    _, few = run_recipe("scpo", [voted(answers)])
    _, many = run_recipe("scpo", [voted([*answers, *[None] * more])])
    for pair in many:
        (other,) = few
        assert (pair["chosen_from"], pair["rejected_from"]) == (other["chosen_from"], other["rejected_from"])
        assert pair["weight"] < other["weight"]


@pytest.mark.parametrize("k", range(1, 21))
def test_a_threshold_that_is_met_exactly_is_met(k: int) -> None:
    for votes in range(k // 2 + 1, k):
        _, pairs = run_recipe("scpo", [voted([1] * votes + [2] * (k - votes))], tau=votes / k)
        assert len(pairs) == 1


def test_d10_reading_and_selecting_twice_is_the_same() -> None:
    planted = [voted(FIXTURE), voted([1, 1, 2], [3], "q"), voted([None], prompt_id="r")]
    before = json.dumps(planted)
    first, pairs = run_recipe("scpo", planted)
    assert json.dumps(planted) == before
    assert run_recipe("scpo", first) == (first, pairs)


@pytest.mark.parametrize(("p", "right", "tied"), [(0.6, 0.594, 0.232), (0.7, 0.806, 0.136)])
def test_e_a_majority_of_eight_is_right_as_often_as_the_binomial_says(p: float, right: float, tied: float) -> None:
    prompts = 3000
    groups = [voted([4 if noise(p, q, j) < p else 5 for j in range(8)], prompt_id=f"p{q}") for q in range(prompts)]
    read, pairs = run_recipe("scpo", groups, tau=0.5)
    unanimous = sum(g["dropped"] == "tied_votes" and len({s["answer"] for s in g["samples"]}) == 1 for g in read)
    even = sum(g["dropped"] == "tied_votes" for g in read) - unanimous
    good = sum(pair["chosen_text"].endswith(" 4") for pair in pairs)
    good += sum(g["dropped"] == "tied_votes" and {s["answer"] for s in g["samples"]} == {"4"} for g in read)
    error = 4 * math.sqrt(0.25 / prompts)
    assert good / prompts == pytest.approx(right, abs=error)
    assert even / prompts == pytest.approx(tied, abs=error)


def test_e_chosen_answers_are_more_often_right_than_samples_and_more_samples_help() -> None:
    """Right with .4 and wrong in three ways with .2 each: .5 of the pairs of three samples, .95 of those of fifteen."""

    def accuracy(k: int) -> float:
        groups = [voted([max(0, int(5 * noise(q, j)) - 1) for j in range(k)], prompt_id=f"p{q}") for q in range(1200)]
        _, pairs = run_recipe("scpo", groups)
        return sum(pair["chosen_text"].endswith(" 0") for pair in pairs) / len(pairs)

    assert accuracy(3) == pytest.approx(0.5, abs=0.08) and accuracy(15) == pytest.approx(0.95, abs=0.06)


def test_answers_of_real_questions_vote_together_however_they_are_written(shared_data: Path) -> None:
    planted = []
    for row in pq.read_table(shared_data / "gsm8k/train.parquet").slice(0, 200).to_pylist():
        gold = row["final_answer"]
        texts = [row["answer"], f"Final answer: {gold}.00", f"So it is \\boxed{{{gold}}}.", f"Final answer: {gold}1"]
        samples = [sample(f"{row['id']}-{i}", text, i) for i, text in enumerate(texts)]
        planted.append(group(row["id"], gold=gold, samples=samples))
    for asked in (False, True):
        read, pairs = run_recipe("scpo", planted, use_gold=asked)
        assert len(pairs) == 200 and {pair["weight"] for pair in pairs} == {1.0 if asked else 0.5}
        assert all([s["votes"] for s in g["samples"]] == [3, 3, 3, 1] for g in read)
