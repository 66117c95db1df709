import copy
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.protocols import DIGITS, PROTOCOLS
from actors.reference import Reference
from actors.weighed_verdicts import expected_digit
from pipelines.config import from_layers
from pipelines.recipes.base import JudgeStep, SampleStep
from pipelines.recipes.self_j import RECIPE, TEMPLATE, Settings, has_reference
from pipelines.records import Group, pairs_table
from pipelines.steps.render import judge_messages
from pipelines.steps.self_evaluation import SCALES, cosine, digit_labels, min_max, ranks
from pipelines.stream import role_of
from pipelines.training.checkpoint import load_model
from pipelines.training.config import TrainingConfig
from pipelines.training.learner import Learner
from pipelines.training.pairs import PairSet
from pipelines.training.strategies import make_strategy
from tests.oracles import CHAT, Cast, rule
from tests.pipelines.planted import group, judgement, run_recipe, sample
from tests.playing import play

REFERENCE = "green apples grow on old trees"
numbers = st.dictionaries(st.text(max_size=3), st.integers(-50, 50).map(lambda n: n / 4), min_size=1, max_size=8)


def weighed(**said: float) -> str:
    """What a judge's probabilities of some digits are recorded as."""
    return json.dumps({digit: math.log(said[f"d{digit}"]) if f"d{digit}" in said else None for digit in DIGITS.choices})


def certain(digit: int) -> str:
    return weighed(**{f"d{digit}": 0.9})


def answered(prompt_id: str, text: str, said: str, gold: str | None = REFERENCE, **other: Any) -> Group:
    """A prompt with one answer and one judgement of it."""
    y = f"{prompt_id}-y"
    given: dict[str, Any] = {
        "gold": gold, "samples": [sample(y, text)], "judgements": [judgement(f"{y}-j", y, said, token_ids=[])]
    }
    return group(prompt_id, **given | other)


def three() -> list[Group]:
    """Answers whose scores and likeness to the reference are in the same order."""
    texts = {"a": "blue cars", "b": "green apples fall from ladders", "c": REFERENCE}
    return [answered(name, texts[name], certain(digit)) for name, digit in (("a", 1), ("b", 5), ("c", 8))]


def labels(groups: list[Group], **settings: Any) -> dict[str, str]:
    _, pairs = run_recipe("self_j", groups, **settings)
    return {pair["prompt_id"]: pair["chosen_text"] for pair in pairs}


# ---- the paper's values and the fixtures of R14.7


def test_paper_defaults() -> None:
    sampled, judged = RECIPE.steps(Settings(), 0)
    assert isinstance(sampled, SampleStep) and isinstance(judged, JudgeStep)
    assert (sampled.sampling.n, judged.protocol, judged.template) == (1, "digits", "judge_digits")
    assert (role_of(sampled), role_of(judged)) == ("policy", "reference")
    training = TrainingConfig(**RECIPE.training)
    assert training.losses == {"nll": 1.0, "student_nll": 0.3, "student_kl": 2.0}
    assert (training.learning_rate, training.batch_pairs, training.epochs) == (3e-4, 128, 2)
    assert training.lora and (training.lora.rank, training.lora.alpha) == (16, 16)
    assert (RECIPE.iterations, training.needs_reference, training.needs_pairs) == (1, False, False)


def test_expected_value_fixture() -> None:
    """(5 * .1 + 6 * .2 + 7 * .4 + 8 * .2) / .9; the mass on other tokens does not count."""
    said = weighed(d5=0.1, d6=0.2, d7=0.4, d8=0.2)
    assert PROTOCOLS["digits"].read(said, False).value == pytest.approx(6.7778, abs=1e-4)
    assert expected_digit({"5": math.log(0.1), "6": math.log(0.9)}) == pytest.approx(5.9)


# (The fixture of equal views is in training/test_view_losses.py, that of the selective curve in test_agreement.py.)


# ---- labels


def test_the_label_is_the_mean_of_both_scaled_to_a_digit() -> None:
    assert labels(three()) == {"a": "0", "b": "5", "c": "9"}
    crossed = [answered("a", REFERENCE, certain(1)), answered("b", "blue cars", certain(8))]
    assert labels(crossed) == {"a": "5", "b": "5"}  # each is best in one and worst in the other
    spread = [answered(n, "no", certain(d)) for n, d in (("a", 0), ("b", 2), ("c", 9))]
    assert labels(spread, scale="rank") == {"a": "2", "b": "5", "c": "7"}
    assert labels(spread, scale="min_max") == {"a": "2", "b": "3", "c": "7"}
    assert labels(three()[:1]) == {"a": "5"}  # one alone stands in the middle


def test_scales_by_hand() -> None:
    values = {"a": 2.0, "b": 2.0, "c": 10.0, "d": 4.0}
    assert ranks(values) == {"a": 0.5 / 3, "b": 0.5 / 3, "d": 2 / 3, "c": 1.0}
    assert min_max(values) == {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.25}
    assert ranks({}) == min_max({}) == {}


def test_cosine_by_hand() -> None:
    assert cosine("A cat, a dog!", "a DOG a cat") == 1.0
    assert cosine("a a b", "a c") == pytest.approx(2 / math.sqrt(5 * 2))
    assert cosine("one", "two") == cosine("", "two") == cosine("...", "...") == 0.0


@given(numbers, st.sampled_from(sorted(SCALES)), st.floats(0.1, 9), st.floats(-9, 9))
def test_a_scale_keeps_the_order_and_takes_unit_and_offset_away(
    values: dict[str, float], scale: str, unit: float, offset: float
) -> None:
    found = SCALES[scale](values)
    assert found.keys() == values.keys()
    assert all(0 <= value <= 1 for value in found.values())
    for a in values:
        for b in values:
            assert (found[a] < found[b]) == (values[a] < values[b])
    moved = SCALES[scale]({key: round(unit, 3) * value + offset for key, value in values.items()})
    assert moved == pytest.approx(found, abs=1e-6)
    assert len(set(values.values())) > 1 or set(found.values()) == {0.5}


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_cosine_is_symmetric_and_between_0_and_1(a: str, b: str) -> None:
    assert cosine(a, b) == cosine(b, a)
    assert 0 <= cosine(a, b) <= 1 + 1e-12


# ---- rows


def test_a_row_asks_for_the_label_with_the_reference_and_without() -> None:
    groups = three()
    _, pairs = run_recipe("self_j", groups)
    for pair, planted in zip(pairs, groups, strict=True):
        (answer,) = planted["samples"]
        teacher, student = pair["messages"], pair.get("student_messages")
        assert teacher == judge_messages(TEMPLATE, planted, answer)
        assert student == judge_messages(TEMPLATE, {**planted, "gold": None}, answer)
        assert f"<reference>\n{REFERENCE}\n" in teacher[0]["content"]
        assert student and "reference" not in student[0]["content"]
        assert answer["text"] in student[0]["content"]
        assert (pair["rejected_text"], pair["chosen_ids"], pair["weight"]) == ("", [], 1.0)
        assert pair["chosen_text"] in DIGITS.choices and pair["chosen_score"] == float(pair["chosen_text"])
        assert pair["chosen_from"] == planted["judgements"][0]["judgement_id"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (answered("p", "text", certain(4), gold=None), "no_reference"),
        (answered("p", "text", weighed()), "no_readable_score"),
        (answered("p", "text", "7"), "no_readable_score"),
        (answered("p", "", certain(4)), "no_response"),
        (answered("p", "text", certain(4), samples=[], judgements=[]), "no_response"),
        (answered("p", "text", certain(4), dropped="prompt_too_long"), "prompt_too_long"),
    ],
)
def test_dropped_prompts_say_why_and_move_no_other_label(planted: Group, reason: str) -> None:
    read, pairs = run_recipe("self_j", [*three(), planted])
    assert read[-1]["dropped"] == reason
    assert {pair["prompt_id"]: pair["chosen_text"] for pair in pairs} == labels(three())


def test_every_answer_of_a_prompt_has_a_row_of_its_own() -> None:
    planted = answered("p", "text", certain(2))
    planted["samples"].append(sample("p-z", REFERENCE, 1))
    planted["judgements"].append(judgement("p-z-j", "p-z", certain(7)))
    _, pairs = run_recipe("self_j", [planted])
    assert [(pair["chosen_from"], pair["chosen_text"]) for pair in pairs] == [("p-y-j", "0"), ("p-z-j", "9")]
    assert len({pair["pair_id"] for pair in pairs}) == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["green", "apples", "cars", REFERENCE])), min_size=1),
       st.sampled_from(sorted(SCALES)), st.randoms())
def test_labels_are_digits_in_any_order_of_arrival(
    rows: list[tuple[int, str]], scale: str, shuffler: random.Random
) -> None:
    planted = [answered(str(i), text, certain(digit)) for i, (digit, text) in enumerate(rows)]
    recipe_read = [RECIPE.read(g, Settings(), None) for g in planted]  # ty: ignore[invalid-argument-type]
    found = digit_labels(recipe_read, scale)
    assert set(found.values()) <= set(range(10))
    shuffler.shuffle(recipe_read)
    assert digit_labels(recipe_read, scale) == found


# ---- the judge


def test_the_judge_weighs_the_digits_of_answers_that_have_a_reference() -> None:
    rows = [group("p", gold="7"), group("q")]
    assert [has_reference(row) for row in rows] == [True, False]
    found = play("self_j", copy.deepcopy(rows), Cast(judge=rule()))
    (said,), none = (g["judgements"] for g in found.groups)
    assert none == []
    assert said["value"] == pytest.approx(PROTOCOLS["digits"].read(said["text"], False).value)
    assert list(json.loads(said["text"])) == list(DIGITS.choices)
    assert (said["token_ids"], said["status"], said["seed"]) == ([], "ok", 0)
    (asked,) = [CHAT.decode(r.prompt_ids) for step, r, _ in found.truth.asked if isinstance(step, JudgeStep)]
    assert "<reference>\n7\n" in asked


def test_the_preset_for_small_machines_can_be_run() -> None:
    config = from_layers("self_j", [{"prompts": "-", "preset": "small"}], "cpu")
    assert (config.prompts_limit, config.method.samples.n, config.training.batch_pairs) == (200, 2, 16)
    assert config.training.needs_views


@pytest.mark.parametrize("changes", [{}, {"lora": None}], ids=["lora", "all weights"])
def test_rows_are_trained_on_until_the_student_says_the_label(tiny_model: str, chat: Any, changes: Any) -> None:
    """From texts to a step of the trainer, on a random model with the vocabulary of a real one."""
    _, pairs = run_recipe("self_j", three())
    client: Any = None  # rows are only tokenised
    rows = [Reference(client, chat).tokenised(pair) for pair in pairs]
    config = TrainingConfig(**{**RECIPE.training, "autocast": "float32"} | changes)
    learner = Learner(make_strategy(load_model(tiny_model, config), config, "cpu"), config)
    stored = PairSet(pairs_table(rows)).rows(range(len(rows)))
    losses = [learner.step(stored, 1e-2) for _ in range(12)]
    for term in ("loss", "loss_nll", "loss_student_nll"):
        assert losses[-1][term] < losses[0][term] - 1
    assert losses[-1]["loss_student_kl"] >= 0
