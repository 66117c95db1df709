"""What the judge's interface accepts, what it refuses, and that it needs no model library to say so."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from actors.protocols import PROTOCOLS
from serve.models import UNASKABLE, JudgementReply, JudgementRequest

USER = {"role": "user", "content": "2 + 2?"}
GOOD: dict[str, Any] = {"prompt": "2 + 2?", "responses": ["4", "5"]}


def parse(**changes: Any) -> JudgementRequest:
    body = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return JudgementRequest.model_validate(body)


def problem(**changes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        parse(**changes)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.value.errors())


def test_defaults():
    request = parse()
    assert (request.votes, request.both_orders, request.temperature) == (1, True, 0.7)
    assert (request.max_tokens, request.seed, request.structured, request.protocol) == (512, None, False, None)


@pytest.mark.parametrize("changes", [{"messages": [USER]}, {"prompt": None}])
def test_prompt_and_messages_exclude_each_other(changes):
    assert "give exactly one of `prompt` and `messages`" in problem(**changes)


def test_messages_end_with_the_user_whom_the_responses_answer():
    conversation = [{"role": "system", "content": "Be short."}, USER]
    assert len(parse(prompt=None, messages=conversation).messages or []) == 2
    answered = [*conversation, {"role": "assistant", "content": "4"}]
    assert "must end with a user turn" in problem(prompt=None, messages=answered)
    assert "messages: List should have at least 1 item" in problem(prompt=None, messages=[])
    assert "messages.0.role" in problem(prompt=None, messages=[{"role": "tool", "content": "x"}])
    assert "messages.0.content" in problem(prompt=None, messages=[{"role": "user", "content": ""}])
    assert "messages: List should have at most 100" in problem(prompt=None, messages=[USER] * 101)


@pytest.mark.parametrize("count", [1, 3])
def test_the_pairwise_protocol_needs_two(count):
    assert "compares exactly two `responses`" in problem(protocol="pairwise", responses=["4"] * count)
    assert parse(protocol="additive", responses=["4"] * count).protocol == "additive"


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("votes", 1, 32), ("temperature", 0, 2), ("max_tokens", 16, 4096), ("seed", 0, 2**31 - 1)],
)
def test_numbers_have_limits(field, low, high):
    assert [getattr(parse(**{field: value}), field) for value in (low, high)] == [low, high]
    assert field in problem(**{field: low - 1})
    assert field in problem(**{field: high + 1})


@pytest.mark.parametrize(
    ("responses", "named"),
    [([], "responses"), (["4"] * 17, "responses"), (["4", ""], "responses.1"), (["x" * 200_001], "responses.0"),
     ("4", "responses"), (["\ud800"], "responses.0")],
)
def test_responses_have_limits(responses, named):
    assert problem(responses=responses).startswith(f"{named}: ")


def test_unknown_keys_are_refused_and_named():
    assert problem(vote=3) == "vote: Extra inputs are not permitted"
    extra = {**USER, "name": "eve"}
    assert problem(prompt=None, messages=[extra]) == "messages.0.name: Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "pairwize"}, "did you mean pairwise?"),
        ({"protocol": "rubric:5-1"}, "a scale goes from a lower to a higher number"),
        ({"protocol": "fast_score:0-10"}, "use a scale within 0-9"),
        ({"protocol": "claim"}, "judges no responses"),
        ({"protocol": "boxed", "responses": ["4"]}, "the boxed protocol compares exactly two"),
        ({"protocol": "fast_pairwise", "votes": 2}, "takes one vote"),
        ({"protocol": "yes_no", "structured": True}, "writes no reasons"),
        ({"criteria": "short", "scenario": "code_generation"}, "not both"),
        ({"scenario": "poetry slam"}, "no such scenario"),
        ({"reference": ""}, "reference: String should have at least 1 character"),
        ({"disagreement": "coin"}, "disagreement: "),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(changes, said):
    assert said in problem(**changes)


@pytest.mark.parametrize("name", [*sorted(set(PROTOCOLS) - set(UNASKABLE)), "rubric:0-10", "fast_score:0-9"])
def test_every_other_protocol_can_be_asked(name):
    assert parse(protocol=name).asked == name


def test_a_reply_names_one_version():
    assert JudgementReply.model_fields["weight_version"].is_required()


def test_the_models_load_neither_torch_nor_vllm_nor_ray():
    code = "import sys, serve.models, serve.verdict; print([m for m in ('torch', 'vllm', 'ray') if m in sys.modules])"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
