import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.abilities.constraints import (
    CHECKS,
    count_all_words,
    count_sentences,
    follows,
    follows_loosely,
    variants,
)

SENTENCES = {
    "": 0,
    "   \n": 0,
    "One.": 1,
    "One. Two! Three?": 3,
    "no full stop": 1,
    "One. and then": 1,
    "Dr. Smith met Mr. Jones at 3 p.m. on Main St. yesterday.": 1,
    "He left at 5 p.m. She stayed.": 2,
    "We like tea, coffee, etc. They like water.": 2,
    "J. R. R. Tolkien wrote it. So did I. Yes.": 3,
    "It costs 3.50 dollars. It is worth it.": 2,
    "Really?! Yes... and no.": 2,
    "Wait... Now go.": 2,
    'He said "Stop." Then he ran.': 2,
    "(It rained.) We stayed.": 2,
    "1. Wash it. \n2. Dry it.": 2,
    "A heading\n\nA sentence. Another one.": 2,
    "See e.g. Paris. It is big.": 2,
    "Visit www.example.com. It works.": 2,
    "**Bold.** Next one.": 2,
}
LENGTH = "length_constraints:"
FIXTURES = [
    (LENGTH + "number_words", {"relation": "at least", "num_words": 3}, "it's me", True),
    (LENGTH + "number_words", {"relation": "at least", "num_words": 4}, "it's me", False),
    (LENGTH + "number_words", {"relation": "less than", "num_words": 3}, "it's me", False),
    (LENGTH + "number_words", {"relation": "less than", "num_words": 4}, "it's me", True),
    (LENGTH + "number_sentences", {"relation": "less than", "num_sentences": 2}, "One. Two.", False),
    (LENGTH + "number_sentences", {"relation": "at least", "num_sentences": 2}, "One. Two.", True),
    (LENGTH + "number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", True),
    (LENGTH + "number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb\n***", True),
    (LENGTH + "number_paragraphs", {"num_paragraphs": 2}, "a\n***\n\n***\nb", False),
    (LENGTH + "number_paragraphs", {"num_paragraphs": 2}, "a\n\nb", False),
    (LENGTH + "number_paragraphs", {"num_paragraphs": 1}, "a\n\nb", True),
    (LENGTH + "nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
     "A tree.\n\n'Elm', it is", True),
    (LENGTH + "nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
     "A tree.\n\nElms are", False),
    (LENGTH + "nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "elm"},
     "Elm.\n\nb\n\nc", False),
    (LENGTH + "nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "b"},
     "a\n\n\n\nb", False),  # the blank one keeps its place
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "To [name], [street]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "To [name\n]", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b\ntext", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b\n* c", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "**bold**\n* a", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and * *", False),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     "SECTION 1\na\nSECTION 2\nb", True),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     "Section 1\nSECTION 2", False),
    ("keywords:frequency", {"relation": "at least", "keyword": "war", "frequency": 2}, "War and warfare", True),
    ("keywords:frequency", {"relation": "less than", "keyword": "war", "frequency": 2}, "War and warfare", False),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "Q", "let_frequency": 2}, "Quiet queue", True),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "!", "let_frequency": 2}, "a!b!", False),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 3},
     "I have COVID-19, OK?", True),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 2}, "Hi YOU", True),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 2}, "I AM", False),
]


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences(text: str) -> None:
    assert count_sentences(text) == SENTENCES[text]


@pytest.mark.parametrize(("instruction", "arguments", "text", "expected"), FIXTURES)
def test_instructions(instruction: str, arguments: dict, text: str, expected: bool) -> None:
    assert follows(text, instruction, arguments) is expected


def test_every_check_has_fixtures_for_both_outcomes() -> None:
    assert {(f[0], f[3]) for f in FIXTURES} == {(name, outcome) for name in CHECKS for outcome in (True, False)}


def test_an_empty_response_follows_nothing() -> None:
    few = {"relation": "less than", "num_words": 10}
    assert not follows(" \n", LENGTH + "number_words", few)
    assert not follows_loosely("", LENGTH + "number_words", few)


def test_the_eight_readings() -> None:
    assert variants("*a*\nb\nc") == ["*a*\nb\nc", "b\nc", "*a*\nb", "b", "a\nb\nc", "b\nc", "a\nb", "b"]
    assert set(variants("one")) == {"one", ""}


def test_loose_lets_an_introduction_pass() -> None:
    text = "Sure, here is what you asked me to write for you:\nShort and good."
    few = {"relation": "less than", "num_words": 5}
    assert not follows(text, LENGTH + "number_words", few)
    assert follows_loosely(text, LENGTH + "number_words", few)
    bullets = {"num_bullets": 1}
    assert follows_loosely("**Sure:**\n* one\n- two", "detectable_format:number_bullet_lists", bullets)


@given(st.text(alphabet="aB. *-\n[]!", max_size=60), st.sampled_from([(f[0], f[1]) for f in FIXTURES]))
def test_loose_is_never_stricter(text: str, case: tuple[str, dict]) -> None:
    assert follows_loosely(text, *case) or not follows(text, *case)


@given(st.text(alphabet="aA. ?\n\"')", max_size=80))
def test_there_are_no_more_sentences_than_words_and_none_without(text: str) -> None:
    assert bool(count_sentences(text)) == bool(count_all_words(text))
    assert count_sentences(text) <= count_all_words(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", [". ", "a. ", '."', "A.", "*", "[", "***", "\n\n", "-\n", "Dr. "])
def test_a_hundred_thousand_characters_are_checked(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    for name, arguments, _, _ in FIXTURES:
        follows(text, name, arguments)
