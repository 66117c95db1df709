"""What every role is shown. Stages that ask a model and recipes that build pairs use the same functions.

A pair's `messages` must be, token for token, what the model saw when it wrote the two continuations, so nothing outside
this module builds a conversation.
"""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.prompts import load
from pipelines.records import Group, Judgement, Message, Sample
from pipelines.steps.parts import visible

_SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}


def prompt_messages(group: Group, template: str | None = None, **variables: Any) -> list[Message]:
    """The conversation the policy answers: the group's own, its last user turn put through `template` if there is one.

    `variables` are what the template reads beside `prompt` (a sample step's `shown`; its "key" is not read). Raises
    ValueError when a template is asked for and the conversation has no user turn, and jinja2.UndefinedError for a
    variable that is missing.
    """
    messages = [Message(role=m["role"], content=m["content"]) for m in group["messages"]]
    if template is None:
        return messages
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        raise ValueError(f"prompt {group['prompt_id']}: no user message to put into template {template!r}")
    messages[last] = Message(role="user", content=load(template).render(**variables, prompt=messages[last]["content"]))
    return messages


def transcript(messages: list[Message]) -> str:
    """A conversation as the text a judge reads: the bare question of a single user turn, else labelled turns."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"{_SPEAKERS.get(m['role'], m['role'])}: {m['content']}" for m in messages)


def judge_messages(template: str, group: Group, *shown: Sample, **more: Any) -> list[Message]:
    """What the judge is asked about one sample, or about two in the order shown; the judge sees the bare question.

    Templates get `prompt`, `response` or `response_a` and `response_b` (the visible parts), `gold` (text or None),
    `meta` (the row's other columns), of these `criteria` and `reference` (None where the row has none), and `more`: the
    protocol's own `variables`. Raises jinja2.UndefinedError for what a template reads and the row lacks.
    """
    meta = json.loads(group["meta"])
    variables = {"prompt": transcript(group["messages"]), "gold": group["gold"], "meta": meta, **more}
    variables |= {name: meta.get(name) for name in ("criteria", "reference")}
    if len(shown) == 1:
        text = load(template).render(**variables, response=visible(shown[0]))
    elif len(shown) == 2:
        text = load(template).render(**variables, response_a=visible(shown[0]), response_b=visible(shown[1]))
    else:
        raise ValueError(f"prompt {group['prompt_id']}: a judge reads one or two samples, got {len(shown)}")
    return [Message(role="user", content=text)]


def template_for(template: str, meta: Mapping[str, Any]) -> tuple[str, str | None]:
    """A judge's template with the parts that a row's `criteria` and `reference` call for, and the row's gold answer.

    A template that shows criteria or a gold answer by itself gets no such part; its gold answer is the reference.
    """
    source = load(template).source
    parts = ["criteria"] if "criteria" in meta and "{{ criteria }}" not in source else []
    if "reference" not in meta:
        return "+".join([template, *parts]), None
    if "{{ gold }}" in source:
        return "+".join([template, *parts]), meta["reference"]
    return "+".join([template, *parts, "reference"]), None


def meta_messages(template: str, group: Group, first: Judgement, second: Judgement) -> list[Message]:
    """What the meta-judge is asked about two judgements of one sample, in the order shown (R4, 2407.19594 section 2).

    Raises ValueError when they judge different samples or a sample the group does not have.
    """
    if first["sample_ids"] != second["sample_ids"] or len(first["sample_ids"]) != 1:
        raise ValueError(
            f"judgements {first['judgement_id']} and {second['judgement_id']} are not of one and the same sample"
        )
    sample = sample_by_id(group, first["sample_ids"][0])
    text = load(template).render(
        prompt=transcript(group["messages"]), response=visible(sample), judgement_a=first["text"],
        judgement_b=second["text"], meta=json.loads(group["meta"]),
    )
    return [Message(role="user", content=text)]


def sample_by_id(group: Group, sample_id: str) -> Sample:
    """The sample with this id; raises ValueError when the group has none."""
    for sample in group["samples"]:
        if sample["sample_id"] == sample_id:
            return sample
    raise ValueError(f"prompt {group['prompt_id']}: no sample {sample_id}")
