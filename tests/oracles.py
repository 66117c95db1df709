"""Oracle actors: engines that know the truth, so that what a method makes of their replies can be worked out by hand.

They stand behind the Engine protocol as vLLM does: token ids in, completions out, sample i drawn with the request's
seed plus i. An oracle finds the prompt, and the texts shown with it, in what it reads, and says its verdict in the form
of the step's protocol; the product's own roles ask and read. A token is a character here, so requests can be read.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from actors.chat import ChatFormat
from actors.engine import Completion, Request
from actors.protocols import VerdictForm
from pipelines.recipes.base import MetaJudgeStep, SampleStep, Step
from pipelines.records import Group
from pipelines.steps.answers import gold_answer
from pipelines.steps.parts import SPLITTERS

END = "\x03"  # ends a turn
BEST = 5.0  # planted quality is a number from 0 to BEST
CUT = "\x04"  # ends a reply that the limit cut off
VERSION = "v0"


class Letters:
    """A tokenizer of one token a character, with a chat template: what ChatFormat needs of one."""

    chat_template = "turns"
    all_special_tokens = (END,)
    added_tokens_decoder = {ord(END): SimpleNamespace(content=END, special=True)}  # noqa: RUF012
    eos_token_id = ord(END)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return ord(token)

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return "".join(map(chr, token_ids)).replace(END, "")

    def apply_chat_template(self, messages: list[Any], **_: Any) -> str:
        return "".join(f"{m['role']}:\n{m['content']}{END}\n" for m in messages) + "assistant:\n"


CHAT = ChatFormat(Letters())


@dataclass(frozen=True)
class Known:
    """A text that was made or given, and how good it is."""

    text: str
    quality: float


@dataclass
class Truth:
    """What the oracles of one run know: its prompts, how good each text is, and everything that was asked."""

    groups: list[Group]
    answers: dict[str, dict[str, float]] = field(default_factory=dict)  # prompt id -> text as judged -> quality
    judgements: dict[str, dict[str, float]] = field(default_factory=dict)
    asked: list[tuple[Step, Request, list[Completion]]] = field(default_factory=list)

    def about(self, text: str) -> Group:
        """The group whose prompt stands in `text`, the longest; of rows with the same one, that whose texts do too."""
        for prompt, groups in self._by_prompt:
            if prompt in text:
                return max(groups, key=lambda group: self._standing(group, text)) if groups[1:] else groups[0]
        raise AssertionError(f"no prompt of this run stands in {text!r}")

    @cached_property
    def _by_prompt(self) -> list[tuple[str, list[Group]]]:
        found: dict[str, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group["messages"][-1]["content"].strip(), []).append(group)
        return sorted(found.items(), key=lambda item: -len(item[0]))

    def _standing(self, group: Group, text: str) -> int:
        return sum(len(self.shown(table, group, text)) for table in (self.answers, self.judgements))

    def note(self, table: dict[str, dict[str, float]], group: Group, text: str, quality: float) -> None:
        """Remember how good a text is."""
        if text.strip():
            table.setdefault(group["prompt_id"], {})[text.strip()] = quality

    def shown(self, table: dict[str, dict[str, float]], group: Group, text: str) -> list[Known]:
        """The known texts that stand in `text`, in order; one that is part of another does not count."""
        found = []
        for known, quality in table.get(group["prompt_id"], {}).items():
            at = text.find(known)
            if at >= 0:
                found.append((at, -len(known), Known(known, quality)))
        kept: list[Known] = []
        end = 0
        for at, length, known in sorted(found, key=lambda item: item[:2]):
            if at >= end:
                kept.append(known)
                end = at - length
        return kept


# ---- what an oracle says

WRITTEN: dict[str, Callable[[str, str], str]] = {  # texts that a splitter splits, from their hidden and visible parts
    "thought": "Here is my thought process:\n{}\nHere is my response:\n{}".format,
    "specific_thought": "{}\n<R>{}".format,
    "corruption": "<question>{}</question>\n<answer>{}</answer>".format,
}


Opinion = Callable[[list[Known], random.Random], list[float] | None]  # how good each text seems; None: nothing is said
Writer = Callable[[Group, random.Random], tuple[str, float]]  # a response and its quality


def rule(spread: float = 0.0) -> Opinion:
    """Planted quality plus uniform noise of at most `spread`."""
    return lambda shown, chance: [k.quality + spread * chance.uniform(-1, 1) for k in shown]


def place(shown: list[Known], chance: random.Random) -> list[float]:
    """The first is best, whatever it says."""
    return [BEST - i for i in range(len(shown))]


def length(shown: list[Known], chance: random.Random) -> list[float]:
    """Longer is better: a point for every 40 characters."""
    return [len(k.text) / 40 for k in shown]


def biased(spread: float, per_character: float) -> Opinion:
    """Planted quality, noise, and a bonus for length."""
    return lambda shown, chance: [
        k.quality + spread * chance.uniform(-1, 1) + per_character * len(k.text) for k in shown
    ]


def confused(right_a: float, right_b: float) -> Opinion:
    """Of two, names the better one with probability `right_a` when it stands first, `right_b` when second."""

    def opinion(shown: list[Known], chance: random.Random) -> list[float]:
        a, b = (k.quality for k in shown)
        return [a, b] if chance.random() < (right_a if a > b else right_b) else [b, a]

    return opinion


def mute(rate: float, other: Opinion) -> Opinion:
    """Says nothing readable in `rate` of its replies, and else what the other says."""
    return lambda shown, chance: None if chance.random() < rate else other(shown, chance)


def answers(right: float = 0.6, wrongs: int = 3, words: int = 30) -> Writer:
    """Answers the known answer with probability `right`, else one of `wrongs` others; quality and length are random."""

    def write(group: Group, chance: random.Random) -> tuple[str, float]:
        gold = gold_answer(group) or "7"
        off = 0 if chance.random() < right else chance.randint(1, wrongs)
        answer = str(int(gold) + off) if gold.isdecimal() else (gold if not off else f"none {off}")
        filler = " word" * chance.randint(0, words)
        return f"Way {chance.randrange(16**6):06x}{filler}.\nFinal answer: {answer}", chance.uniform(1, BEST)

    return write


@dataclass(frozen=True)
class Cast:
    """Who plays which role, and the rate of replies that are empty, cut off, repeated or out of form."""

    policy: Writer = field(default_factory=answers)
    judge: Opinion = field(default_factory=rule)
    meta_judge: Opinion = field(default_factory=rule)
    spoilt: float = 0.0


# ---- engines


class Oracle:
    """The Engine protocol over a rule; subclasses write the replies of one step."""

    def __init__(self, step: Step, truth: Truth, cast: Cast):
        self.step, self.truth, self.cast = step, truth, cast

    async def generate(self, request: Request) -> list[Completion]:
        text = CHAT.decode(request.prompt_ids)
        group = self.truth.about(text)
        made = [self._complete(request, group, text, i) for i in range(request.n)]
        self.truth.asked.append((self.step, request, made))
        return made

    def _complete(self, request: Request, group: Group, text: str, index: int) -> Completion:
        seed = None if request.seed is None else request.seed + index
        chance = random.Random(seed)
        reply, quality = self.reply(group, text, chance, chance.random() < self.cast.spoilt)
        cut = len(reply) >= request.max_tokens or reply.endswith(CUT)
        reply = reply.removesuffix(CUT)[: request.max_tokens]
        self.note(group, reply, quality)
        token_ids = CHAT.encode(reply) if cut else CHAT.turn(reply)
        return Completion(index, reply, token_ids, "length" if cut else "stop", seed, VERSION)

    def reply(self, group: Group, text: str, chance: random.Random, spoil: bool) -> tuple[str, float]:
        """A reply to what was read, and its quality; CUT at its end says that the limit was reached."""
        raise NotImplementedError

    def note(self, group: Group, reply: str, quality: float) -> None:
        """Remember the reply for those who judge it."""
        raise NotImplementedError

    async def abort(self, request_id: str) -> None:
        """Replies are there at once."""

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        return [[-1.0] * len(response) for response in responses]

    async def load_weights(self, path: str) -> None:
        """The truth does not change."""

    async def check_health(self) -> None:
        """Always well."""

    async def shutdown(self) -> None:
        """Nothing to end."""


class PolicyOracle(Oracle):
    """Writes responses, in the form that the step's splitter reads."""

    step: SampleStep

    def reply(self, group: Group, text: str, chance: random.Random, spoil: bool) -> tuple[str, float]:
        response, quality = self.cast.policy(group, chance)
        if spoil:
            return chance.choice(["", "I do not know.", response, response[: len(response) // 2] + CUT]), quality
        if self.step.split:
            response = WRITTEN[self.step.split](f"hidden {chance.randrange(16**6):06x}", response)
        return response, quality / BEST if self.step.split == "corruption" else quality

    def note(self, group: Group, reply: str, quality: float) -> None:
        parts = SPLITTERS[self.step.split](reply) if self.step.split else ("", reply)
        if parts:
            self.truth.note(self.truth.answers, group, parts[1], quality)


class JudgeOracle(Oracle):
    """Says how good the shown texts seem, in the form of a protocol."""

    def __init__(self, step: Step, truth: Truth, cast: Cast, form: VerdictForm, count: int, opinion: Opinion):
        super().__init__(step, truth, cast)
        self.form, self.count, self.opinion = form, count, opinion

    async def generate(self, request: Request) -> list[Completion]:
        if not request.structured:
            return await super().generate(request)
        text = CHAT.decode(request.prompt_ids)
        group, chance = self.truth.about(text), random.Random(request.seed)
        seems, real = self._seems(group, text, chance)
        said = verdict(self.form, seems or [chance.uniform(0, BEST) for _ in real]).removeprefix(self.form.lead)
        self.note(group, f"{text.rpartition('assistant:')[2]} {said}", self._quality(said, real))
        return [Completion(0, f" {said}", CHAT.turn(f" {said}"), "stop", request.seed, VERSION)]

    async def score(self, prompt_ids: list[int], responses: list[list[int]]) -> list[list[float]]:
        """Of each choice as what comes first: the likelier, the nearer it is to how good the text seems.

        Of two texts the choice is the better one, by its margin.
        """
        text = CHAT.decode(prompt_ids)
        chance = random.Random(text)  # a weighed reply has no seed
        self.truth.asked.append((self.step, Request("weighed", prompt_ids), []))
        seems, _ = self._seems(self.truth.about(text), text, chance)
        if seems is None or chance.random() < self.cast.spoilt:
            return [[-math.inf] for _ in responses]
        most = len(self.form.choices) - 1
        share = seems[0] / BEST if self.count == 1 else 0.5 + (seems[1] - seems[0]) / (2 * BEST)
        centre = most * min(1.0, max(0.0, share))
        far = [abs(self.form.choices.index(CHAT.decode(response)) - centre) for response in responses]
        total = math.fsum(math.exp(-distance) for distance in far)
        return [[-distance - math.log(total)] for distance in far]

    def reply(self, group: Group, text: str, chance: random.Random, spoil: bool) -> tuple[str, float]:
        reasons = f"Reasons {chance.randrange(16**6):06x}."
        seems, real = self._seems(group, text, chance)
        if seems is None:
            return reasons, -BEST
        said = verdict(self.form, seems)
        if spoil:
            spoilt = ("", f' It claims "{said}".', f"\n{self.form.lead}99", f" So{CUT}")
            return reasons + chance.choice(spoilt), -BEST
        return f"{reasons}\n{said}", self._quality(said.removeprefix(self.form.lead), real)

    def _seems(self, group: Group, text: str, chance: random.Random) -> tuple[list[float] | None, list[float]]:
        """How good what is shown seems, and is."""
        meta = isinstance(self.step, MetaJudgeStep)
        shown = self.truth.shown(self.truth.judgements if meta else self.truth.answers, group, text)
        assert len(shown) == self.count, f"{self.count} texts to judge expected, {len(shown)} found in {text!r}"
        return self.opinion(shown, chance), [known.quality for known in shown]

    def _quality(self, said: str, real: list[float]) -> float:
        """Of a judgement: by how many choices it misses the truth, negated."""
        choices = self.form.choices
        return -float(abs(choices.index(said) - choices.index(verdict(self.form, real).removeprefix(self.form.lead))))

    def note(self, group: Group, reply: str, quality: float) -> None:
        if not isinstance(self.step, MetaJudgeStep):  # nobody judges those
            self.truth.note(self.truth.judgements, group, reply, quality)


def verdict(form: VerdictForm, seems: list[float]) -> str:
    """The choice that fits: of the scale's steps for one text, of first, second and tie for two."""
    choices = form.choices
    if len(seems) == 2:
        return form.lead + choices[0 if seems[0] > seems[1] else 1 if seems[1] > seems[0] else 2]
    share = min(1.0, max(0.0, seems[0] / BEST))
    if len(choices) == 2:
        return form.lead + choices[0 if share >= 0.5 else 1]  # yes, no
    return form.lead + choices[round(share * (len(choices) - 1))]
