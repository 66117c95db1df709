"""What a run would ask of its prompts, rendered before any actor starts: templates, chat formats and lengths."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

from jinja2 import UndefinedError

from actors.chat import ChatFormat, ChatFormatError
from actors.protocols import PROTOCOLS
from pipelines.config import RunConfig
from pipelines.prompts import load
from pipelines.recipes.base import Context, JudgeStep, SampleStep, Step
from pipelines.records import Group, Message
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.make_prompts import InputError, given_sample
from pipelines.steps.render import judge_messages, prompt_messages

Asked = tuple[str, list[Message], bool]  # the role, what it is asked, and whether nothing is still to come into it


def check_groups(
    config: RunConfig, groups: list[Group], steps: Iterable[Step], context: Context, chats: dict[str, ChatFormat],
    source: str,
) -> None:
    """Render what `steps` ask of the groups as their rows gave them; raises InputError that names the row.

    `chats` are the models' chat formats. A judge's templates are also filled with an empty response where a row
    gives none, so that a column they need and the row lacks is named.
    """
    distinct = list(dict.fromkeys(steps))
    for template in {step.template for step in distinct if step.template}:
        load(template)
    for row, group in enumerate(groups, 1):
        where = f"{source}: prompt {row} ({group['messages'][-1]['content'][:40]!r}...)"
        for step in distinct:
            try:
                for role, messages, whole in _asked(group, step, context):
                    _check_length(config, chats, role, messages, whole, where)
            except ChatFormatError as error:
                raise InputError(f"{where}: {error}") from error
            except UndefinedError as error:
                needs = f"its template {step.template} needs what the row does not have: {error.message}"
                raise InputError(f"{where}: {needs}") from error


def _asked(group: Group, step: Step, context: Context) -> Iterable[Asked]:
    if isinstance(step, SampleStep):
        shown: list[dict[str, Any]] = [{}] if step.shown is None else step.shown(group, context)
        for variables in shown:
            yield step.role, prompt_messages(group, step.template, **variables), True
    elif isinstance(step, JudgeStep) and (step.only is None or step.only(group)):
        protocol = PROTOCOLS[step.protocol]
        responses = protocol.responses
        given = distinct_samples(group, step.kinds)
        complete = len(given) >= responses
        if not complete:
            given = [given_sample(group["prompt_id"], index, "given", "") for index in range(responses)]
        for samples in combinations(given, responses):
            yield step.role, judge_messages(step.template, group, *samples, **protocol.variables), complete


def _check_length(
    config: RunConfig, chats: dict[str, ChatFormat], role: str, messages: list[Message], whole: bool, where: str
) -> None:
    model = config.roles[role]
    limit = config.models[model].max_model_len
    length = len(chats[model].render(messages))
    if whole and length >= limit:
        asked = "" if role == "policy" else f" as the {role.replace('_', '-')} is asked"
        raise InputError(
            f"{where} has {length} tokens{asked}, the model takes {limit} with the answer; "
            f"shorten it or raise models.{model}.max_model_len"
        )
