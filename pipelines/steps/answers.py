"""Final answers of reasoning chains: finding them in a text and comparing them (IRPO, 2404.19733 section 2).

Linear in the length of the text. The last answer counts, and a placeholder of the prompt (`<answer>`) is none.
"""

import json
import re
from collections.abc import Sequence
from fractions import Fraction

from pipelines.recipes.base import Context
from pipelines.records import Group, Sample, record_id
from pipelines.steps import symbolic
from pipelines.steps.lengths import count_words

LONGEST = 300  # characters of an answer; what is longer is prose
_START = r"(?<![^\W_])"
_ANSWER = re.compile(
    _START + r"(?:(?P<final>final)[ \t]{1,3})?answer(?![^\W_])[*_ \t]{0,6}(?:[:=]|is[ \t]{0,3}:|(?P<bare>is)(?!\w))"
    r"|\\boxed[ \t]{0,3}\{|\\fbox[ \t]{0,3}\{|^[ \t]{0,3}####(?!#)",
    re.I | re.M,
)
_AMOUNT = r"[-+]?[$€£]?[ \t]*[-+]?[\d.][\d,.]*(?:/\d+)?[ \t]*(?:%|[a-z°]{0,12})\.?"
_HASHED = re.compile(rf"(?:{_AMOUNT}|\(?[a-z]\)?\.?|\\boxed\{{.*)\s*", re.I)
_AFTER_A = re.compile(rf"A:[ \t]*({_AMOUNT})", re.I)
_PLACEHOLDER = re.compile(r"[<\[{][^\d<>\[\]{}]{1,60}[>\]}]|_{2,}|\.{2,}|…|[?]+")
_SENTENCE = re.compile(r"([-+$€£]{0,2}[\d][\d,]*(?:\.\d+)?[^\s.,;:!?]{0,3})[.,;!?](?:\s.*)?")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed|fbox)[ \t]?\{([^{}]*)\}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,60}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})(?:e[-+]?[0-9]{1,2})?")
_RATIO = re.compile(
    r"([-+]?[0-9]{1,60})[ \t]*/[ \t]*([0-9]{1,60})|([-+]?)\\[dt]?frac\{([0-9]{1,60})\}\{([0-9]{1,60})\}"
)
_UNIT = re.compile(
    r"(?P<number>[-+]?[0-9.]+(?:/[0-9]+)?)[ \t]*"
    r"(?!.*\b(?:hundred|thousand|[mb]illion|trillion|dozen|percent|or|and|to|not)\b)(?:°|[a-z]+(?:[ \t]+[a-z]+){0,3})"
)
_BASED = re.compile(r"([0-9a-f]{1,60})_\{?([0-9]{1,2})\}?")  # 4210_{5}
_DEGREES = re.compile(r"\^\{?\\circ\}?|°")
_CHOICE = re.compile(r"\(?([a-z])[).:](?:\s.*)?|\(?([a-z])\)?")
_OPTION = re.compile(
    r"(?:(?:option|choice)[ \t])?(?:[(\[]?([a-z]|[0-9]{1,2})[)\].:](?:\s.*)?|([a-z]|[0-9]{1,2}))", re.S
)
_MATHEMATICAL = re.compile(r"[\d\\^+*/=<>()\[\]{}-]|\bpi\b|π|√|∞")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\b(?:sqrt|pi)\b")
_PROSE = re.compile(r"[^\W\d_]{2,}")
# What names an answer, up to the answer; and a conclusion right before the last line, which gives nothing away.
_NAMES = re.compile(
    r"\b(?:answer|option|choice)\b(?:[^\w\n]{1,4}(?:is|was|be|must|should|to|therefore|clearly|option|choice|the|that))*",
    re.I,
)
_CONCLUSION = re.compile(
    r"(?:(?<=[.!?:\n])|^)[ \t]{0,3}(?:(?:so|thus|hence|therefore|then),? )?(?:the|our) (?:(?:final|correct|right) )?"
    r"answer is:? \S{1,40}$",
    re.I,
)
_HINT = re.compile(r"\bhint(?:s|ed)?\b", re.I)
ANCHORS = 256  # answers looked at, from the last one back; a text with more is no chain of thought


def extract_answer(text: str) -> str | None:
    """The last of `Final answer: X`, `Answer: X`, `#### X` and `\\boxed{X}`, cleaned; None without one.

    `A: X` counts where it is the last line and X a number, as solutions in the form of question and answer end.
    Cleaned means: no markdown, quotes, dollar signs, closing period or thousands commas.
    """
    found = _last_answer(text)
    return found and found[0]


def plain_answer(text: str, lead: str = "Final answer: ") -> str | None:
    """The answer of a text whose last line is `lead` to the letter and an answer without markup; None of any other.

    Stricter than `extract_answer`: what is rewarded is then also the form that was asked for.
    """
    answer = text.strip().rsplit("\n", 1)[-1]
    if not answer.startswith(lead):
        return None
    answer = answer.removeprefix(lead)
    return answer if 0 < len(answer) <= LONGEST and answer == clean(answer) else None


def gives_away(text: str, gold: str) -> bool:
    """Whether a rationale says what the answer is before it concludes: it argues from the answer (R15, 2404.07017).

    "Since the answer is C ..." and "option C fits" give it away, and so does a word about a hint. A number that is only
    computed does not, nor a last sentence that says the answer once more.
    """
    found = _last_answer(text)
    reasons = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text[:found[1] if found else None].rstrip())
    concluded = _CONCLUSION.search(reasons, max(0, len(reasons) - LONGEST))
    reasons = reasons[:concluded.start() if concluded else None]
    answer = re.escape(clean(gold))
    if re.fullmatch("[A-Za-z]", gold):  # an option is a capital or stands in parentheses: "a" is an article
        answer = rf"(?:{gold.upper()}|\({gold.lower()}\))"
    named = re.compile(rf"[^\w\n]{{0,4}}?(?:{answer if len(gold) == 1 else f'(?i:{answer})'})(?!\w|[.,]\d)")
    return bool(_HINT.search(reasons)) or any(named.match(reasons, m.end()) for m in _NAMES.finditer(reasons))


def same_answer(a: str, b: str) -> bool:
    """Whether two answers say the same; `b` is the gold one, which decides how `a` is understood.

    Equal as normalised text, as exact numbers (1/2 = 0.5, 18 dollars = 18 and 18 = 18 dollars), as the letter of a
    choice, as numbers to one base, or else as expressions by math-verify, which cannot hang or raise here. Two
    different plain numbers are never equal.
    """
    left, right = _normal(a), _normal(b)
    if not left or not right:
        return False
    if left == right:
        return True
    x, y = _exact(left), _exact(right)
    if x is not None and y is not None:
        return x == y
    if re.fullmatch("[a-z]", right):
        choice = _CHOICE.fullmatch(left)
        return bool(choice) and right in choice.groups()
    unit, wanted = _UNIT.fullmatch(left), _UNIT.fullmatch(right)
    if y is not None and unit:
        return _exact(unit["number"]) == y
    if x is not None and wanted:  # the question names the unit
        return _exact(wanted["number"]) == x
    based, base = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if based and base:
        return based.groups() == base.groups()
    return _expression(a) and _expression(b) and symbolic.equal(clean(b), clean(a))


def read_choice(answer: str, labels: Sequence[str], texts: Sequence[str]) -> str | None:
    """The label that an answer to a question with options names, as the option's own text does too; None without one.

    "B", "(b)", "B) Paris", "option B" and "Paris" are label B, where Paris is one option's text alone.
    """
    plain = _normal(answer)
    named = _OPTION.fullmatch(plain)
    for label in labels:
        if named and label.casefold() in (named[1], named[2]):
            return label
    fitting = [label for label, text in zip(labels, texts, strict=True) if _normal(text) == plain]
    return fitting[0] if len(fitting) == 1 else None


def bare_choice(text: str, labels: Sequence[str], texts: Sequence[str]) -> str | None:
    """The label of the option that a text's last line is and nothing else: "B", "Paris", or "B) Paris" as listed.

    "B) is wrong" is no such line, nor is a label with another option's text.
    """
    line = text.strip().rsplit("\n", 1)[-1]
    label = read_choice(line, labels, texts) if len(line) <= LONGEST else None
    if label is None:
        return None
    plain, own = _normal(line), _normal(texts[labels.index(label)])
    rest = re.sub(rf"^(?:(?:option|choice) )?[(\[]?{re.escape(label.casefold())}(?:[)\].:]\s*|$)", "", plain)
    return label if rest in ("", own) else None


def clean(answer: str) -> str:
    """The bare answer: markup, quotes, currency, thousands commas and the closing period taken off."""
    text = answer.strip()
    for _ in range(4):  # wrappers nest: **$\boxed{5}$.**
        before = text
        text = text.strip("*_`\"'“”‘’ \t\n").rstrip(".!,;:")  # noqa: RUF001
        text = _WRAPPED.sub(r"\1", text).removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
        text = re.sub(r"\\?[$€£]", "", text).replace("\\,", "").replace("{,}", ",").replace("\\!", "").strip()
        if text == before:
            break
    return _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text.replace("−", "-"))  # noqa: RUF001


def gold_answer(group: Group) -> str | None:
    """The known answer of a prompt, without the reasoning it may stand in; None where `gold` is absent or blank."""
    gold = (group["gold"] or "").strip()
    return extract_answer(gold) or gold or None


def gold_chains(group: Group, context: Context) -> list[Sample]:
    """The human solution of a prompt as a sample (R6 adds it to the right chains): recorded, or `gold_chain` in meta.

    A chain that does not end with the gold answer gets it as a last line, as the paper trains chain and answer.
    """
    recorded = [s for s in group["samples"] if s["kind"] == "gold_chain"]
    chain = json.loads(group["meta"] or "{}").get("gold_chain")
    gold = gold_answer(group)
    if recorded or not isinstance(chain, str) or not chain.strip() or gold is None:
        return recorded
    found = extract_answer(chain)
    text = chain if found and same_answer(found, gold) else f"{chain.rstrip()}\nFinal answer: {gold}"
    place = (context.run_seed, context.recipe, context.iteration, group["prompt_id"], "gold_chain")
    return [
        Sample(
            sample_id=record_id(*place), index=1 + max((s["index"] for s in group["samples"]), default=-1),
            kind="gold_chain", text=text, thought=None, answer=None, token_ids=[], finish_reason="stop",
            n_chars=len(text), n_words=count_words(text), n_tokens=0, seed=0, weight_version="gold", score=None,
            votes=None,
        )
    ]


def _last_answer(text: str) -> tuple[str, int] | None:
    """The last answer that can be read, and where its anchor stands."""
    ended = text.rstrip()
    start = ended.rfind("\n") + 1
    after = _AFTER_A.fullmatch(ended, start) if len(ended) - start <= LONGEST else None
    if after and (answer := _usable(after[1])):
        return answer, start
    for match in reversed(list(_ANSWER.finditer(text))[-ANCHORS:]):
        answer = _read(text, match)
        if answer:
            return answer, match.start()
    return None


def _read(text: str, match: re.Match[str]) -> str | None:
    """The answer that stands at an anchor; None where there is none."""
    end = match.end()
    if match[0].endswith("{"):
        return _usable(_braced(text, end))
    line = text[end:end + LONGEST + 1].split("\n", 1)
    value = line[0].strip(" \t*_`")
    if match[0].endswith("#"):
        return _usable(value) if _HASHED.fullmatch(value) else None  # "#### Step 1" is a heading
    if match["bare"] and not match["final"]:
        return None  # "the answer is obvious" explains; "the final answer is 4" and "the answer is: 4" decide
    value = re.sub(r"^(?:is\b|:)[ \t:*]*", "", value)
    if not value and len(line) > 1:
        value = line[1].strip().split("\n", 1)[0]
    boxed = re.search(r"\\(?:boxed|fbox)[ \t]{0,3}\{", value)
    if boxed:
        return _usable(_braced(value, boxed.end()))
    sentence = _SENTENCE.fullmatch(value)
    return _usable(sentence[1] if sentence else value)


def _usable(value: str | None) -> str | None:
    if not value or len(value) > LONGEST or _PLACEHOLDER.fullmatch(value.strip(" \t*_`\"'.")):
        return None
    return clean(value) or None


def _braced(text: str, start: int) -> str | None:
    """What stands from `start` to the brace that closes the one before it."""
    depth = 1
    for i in range(start, min(len(text), start + LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    return None


def _normal(answer: str) -> str:
    text = " ".join(_DEGREES.sub(" degrees ", clean(answer).casefold()).split())
    text = text.replace("\\%", "%").replace("\\ ", " ").replace("\\left", "").replace("\\right", "")
    if re.fullmatch(r"\([^(),]*\)", text):
        text = text[1:-1].strip()
    return text.removesuffix("%").strip() if _NUMBER.fullmatch(text.removesuffix("%").strip()) else text


def _expression(answer: str) -> bool:
    """Whether a text can be one mathematical expression: it is short, and has signs of mathematics and no words."""
    bare = _COMMAND.sub(" ", answer)
    return len(answer) <= LONGEST and bool(_MATHEMATICAL.search(answer)) and not _PROSE.search(bare)


def _exact(text: str) -> Fraction | None:
    """The number a plain decimal or ratio names."""
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    ratio = _RATIO.fullmatch(text)
    if ratio is None:
        return None
    over, under = (ratio[1], ratio[2]) if ratio[1] else (ratio[3] + ratio[4], ratio[5])
    return Fraction(int(over), int(under)) if int(under) else None
