import hashlib

import jinja2
import pytest

from actors.verdicts import parse_pairwise, parse_score
from pipelines.prompts import FOLDER, load, names
from pipelines.steps.answers import extract_answer
from pipelines.steps.render import judge_messages, meta_messages, prompt_messages, transcript
from tests.pipelines.planted import group, judgement, sample

VARIABLES = {
    "judge_additive": {"prompt": "PROMPT", "response": "RESPONSE"},
    "judge_pairwise": {"prompt": "PROMPT", "response_a": "RESPONSE ONE", "response_b": "RESPONSE TWO"},
    "meta_judge": {
        "prompt": "PROMPT",
        "response": "RESPONSE",
        "judgement_a": "JUDGED ONE",
        "judgement_b": "JUDGED TWO",
    },
    "irpo_question": {"prompt": "PROMPT"},
}
FINAL_LINES = {"judge_additive": "Score: <total points>", "judge_pairwise": "Winner: tie", "meta_judge": "Winner: tie",
               "irpo_question": "Final answer: <answer>"}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_is_shown_once_and_the_final_line_comes_last(name: str) -> None:
    text = load(name).render(**VARIABLES[name])
    for value in set(VARIABLES[name].values()) - {"RESPONSE"}:
        assert text.count(value) == 1
    assert FINAL_LINES[name] in text.splitlines()[-1]


@pytest.mark.parametrize("name", VARIABLES)
def test_a_missing_variable_is_an_error(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        load(name).render()


@pytest.mark.parametrize("name", VARIABLES)
def test_the_hash_is_that_of_the_file(name: str) -> None:
    assert load(name).hash == hashlib.sha256((FOLDER / f"{name}.jinja").read_bytes()).hexdigest()[:16]
    assert load(name) is load(name)


def test_unknown_templates_are_named() -> None:
    assert set(VARIABLES) <= set(names())
    with pytest.raises(ValueError, match=r"no prompt template named '../config'.*judge_additive"):
        load("../config")


def test_text_is_inserted_and_never_run() -> None:
    hostile = "{{ 7 * 7 }} {% for x in y %} <b>&"
    assert hostile in load("judge_additive").render(prompt="p", response=hostile)


def test_the_rubric_is_shared_by_all_prompts_of_a_run() -> None:
    one, other = (load("judge_additive").render(prompt=p, response="r") for p in ("first", "second"))
    assert one.index("first") == other.index("second") and one[: one.index("first")] == other[: other.index("second")]
    rules = [line for line in one.splitlines() if line[:2] in {"1.", "2.", "3.", "4.", "5."}]
    assert len(rules) == 5
    assert all(rule in load("meta_judge").source for rule in rules)  # the meta-judge sees the rubric of the judge


def test_an_echoed_prompt_is_no_verdict_and_no_answer() -> None:
    assert parse_score(load("judge_additive").render(prompt="p", response="r")).status == "missing"
    for name in ("judge_pairwise", "meta_judge"):
        assert parse_pairwise(load(name).render(**VARIABLES[name])).status == "missing"
    assert extract_answer(load("irpo_question").render(prompt="p")) is None


def test_the_last_user_turn_is_put_into_the_template_and_earlier_turns_stay() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "one"},
             {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]  # fmt: skip
    asked = group("p", messages=turns)
    shown = prompt_messages(asked, "irpo_question")
    assert shown[:3] == turns[:3]
    assert "three" in shown[3]["content"] and shown[3]["content"] != "three"
    assert prompt_messages(asked) == turns == asked["messages"]
    with pytest.raises(ValueError, match="no user message"):
        prompt_messages(group("p", messages=turns[:1]), "irpo_question")


def test_judges_read_a_transcript() -> None:
    assert transcript([{"role": "user", "content": "bare"}]) == "bare"
    assert (
        transcript([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        == "User: a\n\nAssistant: b"
    )


def test_judge_and_meta_judge_see_what_they_are_shown_in_that_order() -> None:
    one, two = sample("one", "FIRST RESPONSE"), sample("two", "SECOND RESPONSE")
    asked = group("p", samples=[one, two])
    (message,) = judge_messages("judge_pairwise", asked, two, one)
    assert message["content"].index("SECOND") < message["content"].index("FIRST RESPONSE")
    a, b = judgement("a", "one", "VERDICT ONE"), judgement("b", "one", "VERDICT TWO")
    (message,) = meta_messages("meta_judge", asked, b, a)
    assert message["content"].index("VERDICT TWO") < message["content"].index("VERDICT ONE")
    assert "FIRST RESPONSE" in message["content"]
    with pytest.raises(ValueError, match="one and the same sample"):
        meta_messages("meta_judge", asked, a, judgement("c", "two", "x"))
    with pytest.raises(ValueError, match="one or two"):
        judge_messages("judge_additive", asked)
