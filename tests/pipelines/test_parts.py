import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.steps.parts import SPLITTERS, changed_question, split, split_again, visible
from tests.pipelines.planted import group, sample

GENERIC = "Here is my thought process:\nAdd them up.\nHere is my response:\nIt is 4."
# What can stand in either part without being a marker itself.
words = st.text(alphabet="abc <>.:'*\n/[]", min_size=1, max_size=40).filter(lambda text: any(c in "abc" for c in text))


@pytest.mark.parametrize(
    ("splitter", "text", "shown"),
    [
        ("thought", GENERIC, "It is 4."),
        ("thought", GENERIC.replace("Here is", "Here's"), "It is 4."),
        ("thought", GENERIC.replace("Here is", "here’s").replace("my r", "My R"), "It is 4."),  # noqa: RUF001
        ("thought", "Hm. **Here is my response:** It is 4.", "It is 4."),
        ("thought", "Hm. **Here is my response**: It is 4.", "It is 4."),
        ("thought", "Hm. Here is my response: **It** is 4.", "**It** is 4."),
        ("thought", "Draft: 4. Fine.\n<R>It is 4.", "It is 4."),  # of the other prompt's form
        ("specific_thought", "Draft: 4. Fine.\n<R> It is 4. ", "It is 4."),
        ("specific_thought", f"{GENERIC}\nToo long.\n<R>4", "4"),
        ("corruption", "<question>What is 2+3?</question>\n<answer>\nIt is 5.\n</answer>", "It is 5."),
        ("corruption", "Sure.\n<Question>Q?</Question> <Answer>5</Answer>\nI changed a number.", "5"),
    ],
)
def test_the_visible_part_is_what_follows_the_marker(splitter: str, text: str, shown: str) -> None:
    made = split(sample("s", text), "sample", splitter)
    assert (made["kind"], visible(made), made["text"]) == ("sample", shown, text)
    assert text.startswith(made["thought"] or "?")


@pytest.mark.parametrize(
    ("splitter", "text"),
    [
        ("thought", "It is 4."),
        ("thought", ""),
        ("thought", "Here is my thought process:\nAdd them up."),  # cut off
        ("thought", "Here is my thought process:\nA generic type is <R>.\nIt is 4."),
        ("thought", "Here is my response:\n \n"),
        ("thought", f"{GENERIC}\nHere is my thought process: not quite."),  # more thoughts would be shown
        ("thought", "A function has the type Supplier<R>."),
        ("specific_thought", GENERIC),
        ("specific_thought", "Draft: 4. <R>"),
        ("corruption", "It is 5."),
        ("corruption", "<answer>5</answer>"),
        ("corruption", "<question> </question><answer>5</answer>"),
        ("corruption", "<question>Q?</question><answer>5"),  # cut off
        ("corruption", "<question>Q?</question><answer>\n...\n</answer>"),
        ("corruption", "<answer>5</answer><question>Q?</question>"),
    ],
)
def test_without_its_marker_a_text_is_of_another_kind(splitter: str, text: str) -> None:
    made = split(sample("s", text), "sample", splitter)
    assert (made["kind"], made["thought"], made["text"]) == ("sample_unsplit", None, text)


def test_a_marker_that_a_thought_quotes_hides_the_thought_still() -> None:
    text = "Here is my thought process:\nI end with 'Here is my response:' and SECRET.\nHere is my response:\nIt is 4."
    assert visible(split(sample("s", text), "sample", "thought")) == "It is 4."
    assert visible(split(sample("s", "Use <R> once. SECRET <R> 4"), "sample", "specific_thought")) == "4"


def test_what_is_said_after_an_answer_in_tags_is_not_shown() -> None:
    text = "<question>Q?</question>\n<answer>5</answer>\nIt answers another question."
    made = split(sample("s", text), "corrupted", "corruption")
    assert (visible(made), changed_question(made["thought"] or "")) == ("5", "Q?")


def test_a_sample_without_a_hidden_part_is_shown_as_it_is() -> None:
    assert visible(sample("s", " as it is \n")) == " as it is \n"


def test_samples_of_a_kind_are_split_again_and_others_stay() -> None:
    stale = [
        sample("a", GENERIC, 0, thought="stale", kind="sample_unsplit"),
        sample("b", "It is 4.", 1, thought="It", kind="sample"),
        sample("c", GENERIC, 2, kind="given"),
    ]
    read = split_again(group("p", samples=stale), "sample", "thought")
    assert [s["kind"] for s in read["samples"]] == ["sample", "sample_unsplit", "given"]
    assert [s["thought"] for s in read["samples"]] == [GENERIC[: -len("\nIt is 4.")], None, None]
    assert split_again(read, "sample", "thought") == read
    assert stale[0]["thought"] == "stale"


FORMS = {
    "thought": "Here is my thought process: {} Here is my response: {}",
    "specific_thought": "{}\n<R>{}",
    "corruption": "<question>{}</question><answer>{}</answer>",
}


@pytest.mark.parametrize("splitter", SPLITTERS)
@given(hidden=words, shown=words)
def test_text_and_parts_belong_together(splitter: str, hidden: str, shown: str) -> None:
    made = split(sample("s", FORMS[splitter].format(hidden, shown)), "sample", splitter)
    assert visible(made) == shown.strip()
    assert hidden in (made["thought"] or "")


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize("piece", ["Here is my response: ", "**Here is my ", "<R>", "<question>", "</answer>x"])
def test_reading_is_linear_in_the_length(splitter: str, piece: str) -> None:
    made = split(sample("s", piece * 30_000), "sample", splitter)
    assert made["text"] == piece * 30_000
