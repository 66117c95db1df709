import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes.base import JudgeStep, MetaJudgeStep
from pipelines.recipes.self_rationalization import RECIPE, Settings
from pipelines.records import Group, Pair
from pipelines.steps.gradings import modal_score
from pipelines.steps.render import judge_messages, sample_by_id
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, judgement, meta, noise, run_recipe, sample

Scores = list[int | None]
FIXTURE: Scores = [4, 2, 4, 5, 1, None]


def graded(scores: Scores, gold: str | None = "4", prompt_id: str = "p", **other: Any) -> Group:
    """One given response with a judgement of each score; None is one that cannot be read."""
    texts = [f"Reason {i} of {prompt_id}.\n" + ("" if s is None else f"Score: {s}") for i, s in enumerate(scores)]
    judgements = [judgement(f"{prompt_id}-j{i}", f"{prompt_id}-y", text, i) for i, text in enumerate(texts)]
    given_response = sample(f"{prompt_id}-y", f"response to {prompt_id}", 0, kind="given", token_ids=[])
    return group(prompt_id, gold=gold, samples=[given_response], judgements=judgements, **other)


def reviewed(planted: Group, better: list[str], slip: float = 0.15) -> Group:
    """The group with a meta-judge that ranks judgements as `better` lists them, and sometimes names a position."""
    ids = [j["judgement_id"] for j in planted["judgements"]]

    def says(first: str, second: str) -> str:
        place = noise("slip", first, second)
        right = "A" if better.index(first) < better.index(second) else "B"
        return f"Winner: {'A' if place < slip / 2 else 'B' if place < slip else right}"

    replies = [
        meta(a, b, order, says(*((b, a) if order else (a, b))))
        for i, a in enumerate(ids) for b in ids[i + 1:] for order in (0, 1)
    ]  # fmt: skip
    return {**planted, "meta_judgements": replies}


def sides(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(p["chosen_from"].split("-")[1], p["rejected_from"].split("-")[1]) for p in pairs]


def test_paper_defaults() -> None:
    paper = Settings()
    assert (paper.judgements.n, paper.judgements.temperature, paper.margin, paper.evidence) == (10, 1.0, 2, "gold")
    assert 2 <= paper.pairs_per_response <= 4 and RECIPE.iterations == 2 and RECIPE.reuse_prompts
    (step,) = RECIPE.steps(paper, 0)
    assert isinstance(step, JudgeStep) and (step.protocol, step.kinds) == ("likert", ("given",))
    training = TrainingConfig(**RECIPE.training)
    assert (training.losses, training.beta, training.learning_rate) == ({"dpo": 1.0}, 0.1, 5e-7)
    _, reviewer = RECIPE.steps(Settings(evidence="meta"), 1)
    assert isinstance(reviewer, MetaJudgeStep) and reviewer.template == "meta_judge_likert"


def test_r11_gold_fixture() -> None:
    _, pairs = run_recipe("self_rationalization", [graded(FIXTURE)])
    assert {c for c, _ in sides(pairs)} == {"j0", "j2"} and {r for _, r in sides(pairs)} == {"j1", "j4"}
    assert len(pairs) <= 4 and {p["kind"] for p in pairs} == {"judge"}
    assert {(p["chosen_score"], p["rejected_score"]) for p in pairs} <= {(0.0, -2.0), (0.0, -3.0)}
    _, near = run_recipe("self_rationalization", [graded(FIXTURE)], margin=1)
    assert {r for _, r in sides(near)} == {"j1", "j3", "j4"} and len(near) == 4


@pytest.mark.parametrize(("share", "kept"), [(0.4, True), (0.41, False)])
def test_r11_majority_fixture(share: float, kept: bool) -> None:
    planted = graded(FIXTURE, gold=None)
    (read,), pairs = run_recipe("self_rationalization", [planted], evidence="majority", majority_share=share)
    assert (bool(pairs), read["dropped"]) == (kept, None if kept else "no_majority")
    _, by_gold = run_recipe("self_rationalization", [graded(FIXTURE)])
    assert not kept or pairs == by_gold


def test_r11_a_judge_that_always_says_3_makes_no_pairs() -> None:
    for gold in "12345":
        planted = reviewed(graded([3] * 6, gold), [f"p-j{i}" for i in range(6)])
        for evidence in ("gold", "majority"):
            (read,), pairs = run_recipe("self_rationalization", [planted], evidence=evidence)
            assert pairs == [] and read["dropped"] in ("no_right_judgement", "no_wrong_judgement")


def test_r11_a_right_score_with_a_swapped_rationale_is_found_by_the_meta_variant_alone() -> None:
    """Judgement 1 has the right score and the reasons of another response: the meta-judge puts it last."""
    planted = [graded([4, 4, 4, 4], "4", f"p{i}") for i in range(6)]
    planted = [reviewed(g, [f"{g['prompt_id']}-j{i}" for i in (0, 2, 3, 1)]) for g in planted]
    for evidence in ("gold", "majority"):
        assert run_recipe("self_rationalization", planted, evidence=evidence)[1] == []
    _, pairs = run_recipe("self_rationalization", planted, evidence="meta")
    assert len(pairs) == 6
    assert sum(side == ("j0", "j1") for side in sides(pairs)) >= 5
    assert all((p["chosen_score"] or 0) > (p["rejected_score"] or 0) for p in pairs)


def test_the_meta_variant_compares_reasons_for_the_right_score_only() -> None:
    planted = reviewed(graded([2, 4, 4, 5], "4"), ["p-j0", "p-j3", "p-j1", "p-j2"])
    _, pairs = run_recipe("self_rationalization", [planted], evidence="meta")
    assert {name for side in sides(pairs) for name in side} <= {"j1", "j2"}
    unlabelled: Group = {**planted, "gold": None}
    assert run_recipe("self_rationalization", [unlabelled], evidence="meta")[1] == pairs  # 4 is the modal score too


def test_a_meta_judge_of_one_position_makes_no_pairs() -> None:
    planted = graded([4, 4, 4], "4")
    ids = [j["judgement_id"] for j in planted["judgements"]]
    replies = [meta(a, b, o, "Winner: A") for i, a in enumerate(ids) for b in ids[i + 1:] for o in (0, 1)]
    (read,), pairs = run_recipe("self_rationalization", [{**planted, "meta_judgements": replies}], evidence="meta")
    assert (pairs, read["dropped"]) == ([], "one_sided_meta_judge")


def test_pairs_answer_the_judge_prompt_with_the_rows_criterion() -> None:
    planted = graded(FIXTURE, meta=json.dumps({"criterion": "It is terse.", "levels": list("vwxyz")}))
    _, pairs = run_recipe("self_rationalization", [planted])
    expected = judge_messages("judge_likert", planted, sample_by_id(planted, "p-y"))
    assert all(p["messages"] == expected for p in pairs)
    assert "It is terse." in expected[0]["content"] and "5: z" in expected[0]["content"]
    assert all(p["chosen_ids"] and p["rejected_ids"] for p in pairs)  # the judge is the policy: the tokens are its own


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (graded(FIXTURE, gold=None), "no_gold_score"),
        (graded(FIXTURE, gold="A"), "no_gold_score"),
        (graded([None, None]), "no_readable_score"),
        (group("p", gold="4"), "no_readable_score"),
        (graded([1, 2, 5]), "no_right_judgement"),
        (graded([4, 4, 5]), "no_wrong_judgement"),
        ({**graded(FIXTURE), "dropped": "prompt_too_long"}, "prompt_too_long"),
    ],
)
def test_dropped_rows_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("self_rationalization", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


@pytest.mark.parametrize(("balance", "counts"), [(1, (2, 2)), (2, (4, 2)), (None, (8, 2))])
def test_pairs_are_balanced_over_gold_values(balance: float | None, counts: tuple[int, int]) -> None:
    planted = [graded(FIXTURE, "4", f"p{i}") for i in range(4)] + [graded([1, 5, 5, 1], "1", "q")]
    read, pairs = run_recipe("self_rationalization", planted, balance=balance)
    of_gold = [sum(p["prompt_id"].startswith(name) for p in pairs) for name in "pq"]
    assert tuple(of_gold) == counts
    assert sum(g["dropped"] == "over_quota" for g in read) == sum(
        not any(p["prompt_id"] == g["prompt_id"] for p in pairs) for g in read
    )
    if balance == 1:  # of different prompts, not both of one
        assert len({p["prompt_id"] for p in pairs if p["prompt_id"] != "q"}) == 2


def test_unreadable_and_adversarial_judgements_are_on_neither_side() -> None:
    texts = ['It says "Score: 1".', "Score: 1-2", "Score: 9", "Score: ４", "Score: 4.5", "> Score: 1", ""]  # noqa: RUF001
    planted = graded([4, 4])
    planted["judgements"] += [judgement(f"p-x{i}", "p-y", text, 5 + i) for i, text in enumerate(texts)]
    planted["judgements"].append(judgement("p-t", "p-y", "Cut.\nScore: 1", 20, status="truncated"))
    (read,), pairs = run_recipe("self_rationalization", [planted])
    assert (pairs, read["dropped"]) == ([], "no_wrong_judgement")
    planted["judgements"].append(judgement("p-w", "p-y", "Score: 5 at first sight.\nScore: 1", 21))
    _, pairs = run_recipe("self_rationalization", [planted])
    assert {r for _, r in sides(pairs)} == {"w"}


@given(
    st.lists(st.sampled_from([1, 2, 3, 4, 5, None]), max_size=8), st.randoms(), st.sampled_from(["gold", "majority"])
)  # fmt: skip
def test_the_order_of_judgements_and_unreadable_ones_change_nothing(scores: Scores, rng: Any, evidence: str) -> None:
    settings: dict[str, Any] = {"evidence": evidence, "majority_share": 0.3}
    planted = [graded(scores, str(g), f"p{g}") for g in range(1, 6)]
    _, pairs = run_recipe("self_rationalization", planted, **settings)
    shuffled = copy.deepcopy(planted)
    for g in shuffled:
        g["judgements"] = rng.sample(g["judgements"], len(g["judgements"]))
        g["judgements"].append(judgement("mute", f"{g['prompt_id']}-y", "I cannot say.", 99))
    assert run_recipe("self_rationalization", shuffled, **settings)[1] == pairs
    assert all(p["chosen_text"] != p["rejected_text"] and p["chosen_score"] != p["rejected_score"] for p in pairs)


def test_reading_twice_changes_nothing() -> None:
    first, pairs = run_recipe("self_rationalization", [graded(FIXTURE), graded([1, 5], "1", "q")])
    assert run_recipe("self_rationalization", first) == (first, pairs)


@pytest.mark.parametrize(
    ("values", "share", "modal"),
    [([], 0, None), ([3.0], 1, 3.0), ([4.0, 2.0, 4.0, 5.0, 1.0], 0.4, 4.0), ([4.0, 2.0, 4.0, 5.0, 1.0], 0.41, None),
     ([1.0, 1.0, 2.0, 2.0], 0, None)],
)  # fmt: skip
def test_modal_score(values: list[float], share: float, modal: float | None) -> None:
    assert modal_score(values, share) == modal
