"""Instructions about lengths and counts that a program can check: those of IFEval (2311.07911). Pure.

What is counted, and with which relation, follows IFEval's definitions. Two of its counts use NLTK's models, which are
replaced by rules here: sentences (abbreviations and initials do not end one) and words in capitals.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Arguments = Mapping[str, Any]

RELATIONS: dict[str, Callable[[int, int], bool]] = {
    "at least": lambda count, wanted: count >= wanted,
    "less than": lambda count, wanted: count < wanted,
}
NEAR = 80  # characters around a full stop that are looked at
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"[^\W_]+(?:[-'’.&][^\W_]+)*")  # noqa: RUF001
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*_]*+(?=\s|$)")  # noqa: RUF001
_BEFORE = re.compile(r"(?:^|[\s(\[\"'“‘*_])([^\s(\[\"'“‘*_]*)$")  # noqa: RUF001
_ABBREVIATIONS = re.compile(
    "mr|mrs|ms|dr|prof|sr|jr|st|vs|etc|e\\.g|i\\.e|cf|al|inc|ltd|co|corp|no|vol|pp|fig|gen|sen|rep|gov|capt|col|lt|sgt|"
    "rev|hon|mt|ave|blvd|dept|est|approx|a\\.m|p\\.m|u\\.s|u\\.k|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec", re.I
)
_ENDS_TOO = re.compile(r"etc|inc|ltd|co|corp|jr|sr|[ap]\.m|u\.[sk]", re.I)  # abbreviations that may end a sentence
_PARAGRAPH = re.compile(r"\s?\*\*\*\s?")
_STAR = re.compile(r"^[^\S\n]*\*[^*].*$", re.M)
_DASH = re.compile(r"^[^\S\n]*-.*$", re.M)
_HIGHLIGHT = re.compile(r"\*([^\n*]*)\*")
_STRONG = re.compile(r"\*\*([^\n*]*)\*\*")


def count_all_words(text: str) -> int:
    """Runs of letters, digits and underscores: "it's" is two words, as IFEval counts them."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Sentences: what ends in . ! ? or …, not in an abbreviation, an initial or a list's number; a rest counts as one.

    A line break alone ends no sentence, as in NLTK's English model, which IFEval uses.
    """
    count, start, looked, worded = 0, 0, 0, False
    for end in _END.finditer(text):
        worded = worded or bool(_WORD.search(text, looked, end.start()))
        looked = end.end()
        if worded and _ends_sentence(text, start, end):  # an ellipsis may lead in
            count, start, worded = count + 1, end.end(), False
    return count + (worded or bool(_WORD.search(text, looked)))


def _ends_sentence(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the stop `end` ends the sentence that began at `start`."""
    after = text[end.end():end.end() + NEAR].lstrip(" \t\n\r\"'“‘(*_")  # noqa: RUF001
    if end[0][0] != ".":
        return not after[:1].islower()
    before = _BEFORE.search(text[max(start, end.start() - NEAR):end.start()])
    word = before[1] if before else ""
    lead = text[start:end.start() - len(word)] if end.start() - start < NEAR else "prose"
    if word.isdigit() and not lead.strip(" \t\n\r*_#-"):
        return False  # "1." in front of an item
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # an initial
    if _ABBREVIATIONS.fullmatch(word):
        return not after or (bool(_ENDS_TOO.fullmatch(word)) and after[0].isupper())
    return not after[:1].islower()


def number_words(text: str, relation: str, num_words: int) -> bool:
    """`length_constraints:number_words`."""
    return RELATIONS[relation](count_all_words(text), num_words)


def number_sentences(text: str, relation: str, num_sentences: int) -> bool:
    """`length_constraints:number_sentences`."""
    return RELATIONS[relation](count_sentences(text), num_sentences)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """`length_constraints:number_paragraphs`: exactly so many, between dividers ***, and none is blank."""
    parts = _PARAGRAPH.split(text)
    if not parts[0].strip():
        parts = parts[1:]
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return all(part.strip() for part in parts) and len(parts) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """`length_constraints:nth_paragraph_first_word`: exactly so many paragraphs between blank lines, and the word.

    Blank ones do not count as paragraphs, but they keep their place when the n-th is looked up, as in IFEval.
    """
    parts = text.split("\n\n")
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = parts[nth_paragraph - 1].split()
    bare = words[0].lstrip("'").lstrip('"') if words else ""
    return re.split(r"[.,?!'\"]", bare, maxsplit=1)[0].lower() == first_word.lower() if bare else False


def number_placeholders(text: str, num_placeholders: int) -> bool:
    """`detectable_content:number_placeholders`: at least so many [placeholders], each within a line."""
    count = 0
    for line in text.split("\n"):
        start = line.find("[")
        while start >= 0 and (end := line.find("]", start)) >= 0:
            count, start = count + 1, line.find("[", end)
    return count >= num_placeholders


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    """`detectable_format:number_bullet_lists`: exactly so many lines that begin with * or -."""
    return len(_STAR.findall(text)) + len(_DASH.findall(text)) == num_bullets


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """`detectable_format:number_highlighted_sections`: at least so many *highlights*; **strong** ones count too."""
    found = [*_HIGHLIGHT.findall(text), *_STRONG.findall(text)]
    return sum(bool(inner.strip()) for inner in found) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """`detectable_format:multiple_sections`: at least so many marks such as "Section 1"."""
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)) >= num_sections


def keyword_frequency(text: str, relation: str, keyword: str, frequency: int) -> bool:
    """`keywords:frequency`: occurrences in any case, also within words."""
    return RELATIONS[relation](len(re.findall(re.escape(keyword.strip()), text, re.I)), frequency)


def letter_frequency(text: str, let_relation: str, letter: str, let_frequency: int) -> bool:
    """`keywords:letter_frequency`: occurrences of one character in any case."""
    return RELATIONS[let_relation](text.lower().count(letter.strip().lower()), let_frequency)


def capital_word_frequency(text: str, capital_relation: str, capital_frequency: int) -> bool:
    """`change_case:capital_word_frequency`: words without a small letter, such as I and COVID-19."""
    return RELATIONS[capital_relation](sum(word.isupper() for word in _TOKEN.findall(text)), capital_frequency)


CHECKS: dict[str, Callable[..., bool]] = {
    "length_constraints:number_words": number_words,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "keywords:frequency": keyword_frequency,
    "keywords:letter_frequency": letter_frequency,
    "change_case:capital_word_frequency": capital_word_frequency,
}


def follows(response: str, instruction: str, arguments: Arguments) -> bool:
    """Strict: whether a response follows an instruction of CHECKS; an empty one follows none.

    Raises TypeError where an argument is missing, and KeyError for an unknown instruction or relation.
    """
    return bool(response.strip()) and CHECKS[instruction](response, **arguments)


def variants(response: str) -> list[str]:
    """The eight readings that the loose criterion allows: without first line, last line or both, and without asterisks.

    2311.07911 section 2.2: what introduces or ends a response, and markdown, shall not fail it.
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def follows_loosely(response: str, instruction: str, arguments: Arguments) -> bool:
    """Loose: whether one of the `variants` of a response follows the instruction."""
    return any(follows(variant, instruction, arguments) for variant in variants(response))
