import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.protocols import PROTOCOLS
from pipelines.config import from_layers
from pipelines.prompts import load
from pipelines.recipes.base import Context, JudgeStep, SampleStep
from pipelines.recipes.self_taught_evaluator import JUDGE_TEMPLATE, RECIPE, Settings
from pipelines.records import Group, Pair, Sample
from pipelines.steps.constructed import constructed_pair, to_answer, to_corrupt
from pipelines.steps.make_prompts import read_prompts, with_samples
from pipelines.steps.parts import visible
from pipelines.steps.render import judge_messages
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, judgement, noise, run_recipe, sample

CONTEXT = Context(0, "self_taught_evaluator", 0)
Says = Callable[[int, int], str]  # (order, index) of a judgement -> its text


def corrupted(question: str, answer: str) -> str:
    return f"<question>\n{question}\n</question>\n<answer>\n{answer}\n</answer>"


def pair_of(prompt_id: str, says: Says, n: int = 3, **other: Any) -> Group:
    """A prompt with a baseline and a corrupted answer, judged `n` times in each order."""
    samples = [
        sample(f"{prompt_id}-w", f"answer to {prompt_id}", 0),
        sample(f"{prompt_id}-l", corrupted(f"Something like {prompt_id}?", "another answer"), 1, kind="corrupted"),
    ]
    ids = [s["sample_id"] for s in samples]
    judgements = [
        judgement(f"{prompt_id}-{order}-{i}", ids[0], says(order, i), i, sample_ids=ids, order=order)
        for order in (0, 1)
        for i in range(n)
    ]
    return group(prompt_id, samples=samples, judgements=judgements, **other)


def scripted(*verdicts: str) -> Says:
    """Six letters: of order 0, then of order 1. + is right, - is wrong, = is a tie, ? is unreadable, 2 is both."""

    def says(order: int, i: int) -> str:
        said = "".join(verdicts)[3 * order + i]
        right, wrong = ("[[B]]", "[[A]]") if order else ("[[A]]", "[[B]]")
        endings = {"+": right, "-": wrong, "=": "[[C]]", "?": "undecided", "2": f"{right} or {wrong}"}
        return f"Reasons {order}{i}.\n{endings[said]}"

    return says


def labels(pairs: list[Pair]) -> Counter[str]:
    """The right verdicts of the pairs, as the judge was shown the two."""
    return Counter(pair["chosen_text"][-3] for pair in pairs)


# Four pairs x two orders x three judgements. The first is always judged right, the last never.
ORACLE = {"p0": "+++" "+++", "p1": "+-?" "--+", "p2": "=+2" "---", "p3": "---" "?=-"}


def oracle_groups() -> list[Group]:
    return [pair_of(prompt_id, scripted(said)) for prompt_id, said in ORACLE.items()]


def test_self_taught_evaluator_paper_defaults() -> None:
    paper = Settings()
    assert paper.judgements.model_dump() == {"n": 15, "temperature": 0.7, "top_p": 0.9, "max_tokens": 4096}
    assert (paper.variant, paper.min_share, paper.num_pairs) == (["sft"], 0.0, 6)
    assert (RECIPE.iterations, RECIPE.reuse_prompts, RECIPE.protocols) == (5, True, ("additive", "boxed"))
    training = TrainingConfig(**RECIPE.training)
    assert (training.losses, training.learning_rate, training.epochs) == ({"sft": 1.0}, 1e-6, 2)
    assert (training.batch_pairs, training.start_from) == (32, "seed")
    answer, corrupt, judge = RECIPE.steps(paper, 0)
    assert isinstance(answer, SampleStep) and isinstance(corrupt, SampleStep) and isinstance(judge, JudgeStep)
    assert (answer.template, answer.kind, answer.sampling.n) == (None, "sample", 1)
    assert (corrupt.template, corrupt.kind, corrupt.split) == ("changed_question", "corrupted", "corruption")
    assert judge.protocol == "boxed" and {"sample", "corrupted"} <= set(judge.kinds)


def test_self_taught_evaluator_dpo_starts_from_what_it_refers_to() -> None:
    release = Settings.model_validate({"variant": ["sft", "dpo"]})
    assert RECIPE.training_at(release, 0) == {}
    later = TrainingConfig.model_validate({**RECIPE.training, **RECIPE.training_at(release, 1)})
    assert (later.losses, later.start_from) == ({"dpo": 1.0, "nll_pooled": 1.5}, "previous")
    assert (later.learning_rate, later.beta, later.max_grad_norm) == (5.5e-8, 0.1, 1.0)


def test_self_taught_evaluator_small_preset_is_a_run() -> None:
    config = from_layers("self_taught_evaluator", [{"prompts": "-", "preset": "small"}], "cpu")
    assert (config.prompts_limit, config.iterations, config.method.judgements.n) == (200, 2, 4)
    assert (config.method.responses.max_tokens, config.method.responses.temperature) == (512, 0.7)


def test_self_taught_evaluator_oracle_fixture() -> None:
    """Kept are right judgements alone, as many A as B; without a right one an input gives nothing."""
    read, rows = run_recipe("self_taught_evaluator", oracle_groups())
    sources = {row["chosen_from"] for row in rows}
    right = {
        f"{p}-{o}-{i}" for p, said in ORACLE.items() for o in (0, 1) for i in range(3) if said[3 * o + i] == "+"
    }
    assert sources <= right and len(rows) == 4
    assert labels(rows) == {"A": 2, "B": 2}  # A could be had of three inputs, B of two
    assert {s.rsplit("-", 1)[0] for s in sources} >= {"p0-1", "p1-1"}
    assert Counter(row["chosen_from"].rsplit("-", 1)[0] for row in rows).most_common(1)[0][1] == 1
    assert {row["rejected_text"] for row in rows} == {""}
    dropped = {g["prompt_id"]: g["dropped"] for g in read}
    assert (dropped["p0"], dropped["p1"], dropped["p3"]) == (None, None, "no_right_judgement")
    assert {g["prompt_id"] for g in read if not g["dropped"]} == {row["prompt_id"] for row in rows}


def test_self_taught_evaluator_rows_carry_the_share_of_right_judgements() -> None:
    _, rows = run_recipe("self_taught_evaluator", oracle_groups())
    scores = {row["chosen_from"].rsplit("-", 1)[0]: row["chosen_score"] for row in rows}
    assert scores["p0-1"] == 1.0 and scores["p1-1"] == pytest.approx(1 / 3)


def test_self_taught_evaluator_dpo_fixture() -> None:
    """Right against wrong of one input; ties and unreadable texts are wrong; no right one, no pair."""
    _, pairs = run_recipe("self_taught_evaluator", oracle_groups(), variant="dpo")
    assert {p["chosen_from"].rsplit("-", 1)[0] for p in pairs} == {
        p["rejected_from"].rsplit("-", 1)[0] for p in pairs
    } <= {"p1-0", "p1-1", "p2-0"}
    assert labels(pairs) == {"A": 2, "B": 2}  # A: two of each of two inputs, B: one input, right against two wrong
    for p in pairs:
        order, i = map(int, p["chosen_from"].split("-")[1:])
        assert ORACLE[p["prompt_id"]][3 * order + i] == "+"
        order, i = map(int, p["rejected_from"].split("-")[1:])
        assert ORACLE[p["prompt_id"]][3 * order + i] != "+"
        assert (p["chosen_score"], p["rejected_score"], p["kind"]) == (1.0, 0.0, "judge")
    read, none = run_recipe("self_taught_evaluator", [pair_of("p", scripted("+++", "+++"))], variant="dpo")
    assert (none, read[0]["dropped"]) == ([], "no_wrong_judgement")


@pytest.mark.parametrize(("num_pairs", "count"), [(1, 2), (3, 6), (6, 12), (99, 50)])
def test_self_taught_evaluator_dpo_takes_up_to_num_pairs_of_an_input(num_pairs: int, count: int) -> None:
    planted = pair_of("p", lambda o, i: f"Reason {i}.\n[[{'AB'[(i % 2) ^ o]}]]", n=10)
    _, pairs = run_recipe("self_taught_evaluator", [planted], variant=["dpo"], num_pairs=num_pairs)
    assert len(pairs) == count == len({p["pair_id"] for p in pairs})
    assert labels(pairs) == {"A": count // 2, "B": count // 2}


def test_self_taught_evaluator_dpo_rejects_ties_and_unreadable_texts_too() -> None:
    _, pairs = run_recipe("self_taught_evaluator", [pair_of("p", scripted("+?=", "+2-"))], variant="dpo")
    assert sorted(p["rejected_from"] for p in pairs) == ["p-0-1", "p-0-2", "p-1-1", "p-1-2"]
    empty = pair_of("p", lambda o, i: scripted("+?=", "+2-")(o, i) if i < 2 else "", n=3)
    _, pairs = run_recipe("self_taught_evaluator", [empty], variant="dpo")
    assert sorted(p["rejected_from"] for p in pairs) == ["p-0-1", "p-1-1"]  # a side needs a token


def test_self_taught_evaluator_swap_flips_the_expected_verdict() -> None:
    shown = {"+": ("[[A]]", "[[B]]"), "-": ("[[B]]", "[[A]]")}
    planted = pair_of("p", scripted("+++", "+++"))
    for j in planted["judgements"]:
        assert j["text"].endswith(shown["+"][j["order"]])
    _, rows = run_recipe("self_taught_evaluator", [planted])
    assert [row["chosen_text"][-5:] for row in rows] == ["[[A]]", "[[B]]"]
    swapped = copy.deepcopy(planted)
    for j in swapped["judgements"]:
        j["order"] = 1 - j["order"]  # the same texts about the two in the other order
    (read,), none = run_recipe("self_taught_evaluator", [swapped])
    assert (none, read["dropped"]) == ([], "no_right_judgement")


@pytest.mark.parametrize("letter", ["A", "B"])
def test_self_taught_evaluator_a_judge_of_positions_is_right_half_the_time_and_teaches_nothing(letter: str) -> None:
    groups = [pair_of(f"p{i}", lambda o, i: f"Reason {o}{i}.\n[[{letter}]]") for i in range(5)]
    for variant in ("sft", "dpo"):
        read, pairs = run_recipe("self_taught_evaluator", groups, variant=variant)
        assert pairs == []
        right = [j["verdict"] == "A" for g in read for j in g["judgements"]]  # the first listed is the better one
        assert sum(right) * 2 == len(right)


def test_self_taught_evaluator_prompts_are_what_the_judge_saw() -> None:
    planted = pair_of("p", scripted("+++", "+++"))
    (read,), rows = run_recipe("self_taught_evaluator", [planted])
    better, worse = read["samples"]
    assert [row["messages"] for row in rows] == [
        judge_messages(JUDGE_TEMPLATE, read, better, worse),
        judge_messages(JUDGE_TEMPLATE, read, worse, better),
    ]
    (message,) = rows[0]["messages"]
    assert "another answer" in message["content"] and "Something like" not in message["content"]
    assert rows[0]["chosen_ids"] == next(
        j["token_ids"] for j in read["judgements"] if j["judgement_id"] == rows[0]["chosen_from"]
    )


@pytest.mark.parametrize(("min_share", "kept"), [(0.0, 4), (0.3, 4), (0.5, 2), (2 / 3, 2), (0.7, 0), (1.0, 0)])
def test_self_taught_evaluator_too_few_right_judgements_teach_nothing(min_share: float, kept: int) -> None:
    groups = [pair_of("p", scripted("++-", "+2+")), pair_of("q", scripted("+??", "-+-"))]
    read, rows = run_recipe("self_taught_evaluator", groups, min_share=min_share)
    assert len(rows) == kept
    if not kept:
        assert {g["dropped"] for g in read} == {"too_few_right_judgements"}


def test_self_taught_evaluator_what_balance_left_out_is_said() -> None:
    read, rows = run_recipe("self_taught_evaluator", [pair_of("p", scripted("+++", "---"))])
    assert (rows, read[0]["dropped"]) == ([], "unbalanced_verdicts")


def changed(name: str, **other: Any) -> Group:
    planted = pair_of("p", scripted("+++", "+++"))
    for s in planted["samples"]:
        if s["kind"] == name:
            s.update(other)  # ty: ignore[invalid-argument-type]
    return planted


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (group("p"), "no_response"),
        ({**pair_of("p", scripted("+++", "+++")), "judgements": []}, "no_judgement"),
        ({**pair_of("p", scripted("+++", "+++")), "dropped": "prompt_too_long"}, "prompt_too_long"),
        (changed("corrupted", text="<answer>another answer</answer>"), "no_corrupted_response"),
        (changed("corrupted", text=corrupted("question  P?", "another answer")), "unchanged_question"),
        (changed("corrupted", text=corrupted("What else?", "Answer to p")), "same_responses"),
        (changed("sample", text=""), "no_response"),
    ],
)
def test_self_taught_evaluator_dropped_prompts_say_why(planted: Group, reason: str) -> None:
    (read,), rows = run_recipe("self_taught_evaluator", [planted])
    assert (rows, read["dropped"]) == ([], reason)


def test_self_taught_evaluator_makes_its_pair_of_a_prompt() -> None:
    asked = group("p")
    assert to_answer(asked, CONTEXT) == [{"key": "baseline"}]
    assert to_corrupt(asked, CONTEXT) == []
    answered = group("p", samples=[sample("w", "an answer", 0)])
    assert to_answer(answered, CONTEXT) == []
    assert to_corrupt(answered, CONTEXT) == [{"key": "w", "response": "an answer"}]
    unsplit = sample("l", "I cannot do that.", 1, kind="corrupted_unsplit")
    assert to_corrupt({**answered, "samples": [*answered["samples"], unsplit]}, CONTEXT)  # it is asked for again
    made = RECIPE.read({**answered, "samples": [*answered["samples"], {**unsplit, "text": corrupted("Q?", "5")}]},
                       Settings(), CONTEXT)  # fmt: skip
    assert to_corrupt(made, CONTEXT) == []
    assert [visible(s) for s in constructed_pair(made)] == ["an answer", "5"]  # ty: ignore[invalid-argument-type]


def test_self_taught_evaluator_judges_the_same_pairs_again() -> None:
    """A later iteration has the pairs of the first: only what could not be used is asked for again."""
    assert RECIPE.reuse_prompts and RECIPE.keep_samples
    earlier, _ = run_recipe("self_taught_evaluator", [pair_of("p", scripted("+++", "+++")), group("q")])
    fresh = [group("p", iteration=1), group("q", iteration=1), group("new", iteration=1)]
    again = with_samples(fresh, earlier)
    assert again[0] == {**fresh[0], "samples": earlier[0]["samples"]}
    assert [to_answer(g, CONTEXT) + to_corrupt(g, CONTEXT) for g in again] == [[], *[[{"key": "baseline"}]] * 2]


def test_self_taught_evaluator_rows_may_bring_their_pair(tmp_path: Any) -> None:
    source = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "2+3?", "chosen": "5", "rejected": "6"}, {"prompt": "2+4?", "response": "6"}]
    source.write_text("\n".join(map(json.dumps, rows)))
    brought, half = read_prompts(str(source)).groups
    assert (to_answer(brought, CONTEXT), to_corrupt(brought, CONTEXT), to_answer(half, CONTEXT)) == ([], [], [])
    assert [shown["response"] for shown in to_corrupt(half, CONTEXT)] == ["6"]
    ids = [s["sample_id"] for s in brought["samples"]]
    brought["judgements"] = [
        judgement(f"j{o}", ids[0], f"Reason.\n[[{'AB'[o]}]]", sample_ids=ids, order=o) for o in (0, 1)
    ]
    _, made = run_recipe("self_taught_evaluator", [brought])
    assert [row["chosen_from"] for row in made] == ["j0", "j1"]


def test_self_taught_evaluator_construction_the_worse_answer_is_to_the_changed_question() -> None:
    """A scripted model answers a changed question; a simple judge of relevance then prefers the baseline."""
    topics = ["rivers", "poems", "bridges", "apples", "engines"]
    asks = ["longest", "oldest", "cheapest", "heaviest"]
    preferred = closer = total = 0
    for p in range(60):
        topic = topics[p % 5]
        one, other = (asks[int(4 * noise(p, i))] for i in (0, 1))
        if one == other:
            continue
        question, question_changed = (f"Which of the {topic} is the {ask}?" for ask in (one, other))
        planted = group("p", messages=[{"role": "user", "content": question}])
        planted["samples"] = [
            sample("w", f"The {one} of the {topic} is number {p}.", 0),
            sample("l", corrupted(question_changed, f"The {other} of the {topic} is number {p + 1}."), 1,
                   kind="corrupted"),
        ]  # fmt: skip
        better, worse = constructed_pair(RECIPE.read(planted, Settings(), CONTEXT))

        def overlap(response: Sample, asked: str) -> int:
            return len(set(visible(response).lower().strip(".").split()) & set(asked.lower().strip("?").split()))

        total += 1
        closer += overlap(worse, question_changed) > overlap(worse, question)  # ty: ignore[invalid-argument-type]
        preferred += overlap(better, question) > overlap(worse, question)  # ty: ignore[invalid-argument-type]
    assert total > 30 and closer == total and preferred > 0.9 * total


def test_self_taught_evaluator_one_parser_for_all_texts() -> None:
    """Both verdicts in a text are none, whichever comes first; a tie is no winner."""
    texts = ["[[A]] at first, but [[B]]", "[[C]]", "[[A]] and again [[A]]", "A is better", "[[D]]"]
    planted = pair_of("p", lambda o, i: texts[i], n=5)
    (read,), _ = run_recipe("self_taught_evaluator", [planted])
    found = [(j["verdict"], j["status"]) for j in read["judgements"] if j["order"] == 0]
    assert found == [(None, "ambiguous"), ("tie", "ok"), ("A", "ok"), (None, "missing"), (None, "out_of_range")]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(alphabet="+-=?2", min_size=6, max_size=6), max_size=6), st.sampled_from(["sft", "dpo"]),
    st.floats(0, 1), st.randoms(),
)
def test_self_taught_evaluator_d2_d4_d10(said: list[str], variant: str, min_share: float, random: Any) -> None:
    planted = [pair_of(f"p{i}", scripted(text)) for i, text in enumerate(said)]
    options: dict[str, Any] = {"variant": variant, "min_share": min_share, "num_pairs": 2}
    read, pairs = run_recipe("self_taught_evaluator", planted, **options)
    assert labels(pairs)["A"] == labels(pairs)["B"]
    for pair in pairs:
        order, i = map(int, pair["chosen_from"].split("-")[1:])
        text = said[int(pair["prompt_id"][1:])]
        assert text[3 * order + i] == "+"
        assert pair["chosen_text"] != pair["rejected_text"]
    assert all(bool(g["dropped"]) != any(p["prompt_id"] == g["prompt_id"] for p in pairs) for g in read)
    mixed = copy.deepcopy(planted)
    for one in mixed:
        random.shuffle(one["samples"])
        random.shuffle(one["judgements"])
    random.shuffle(mixed)
    _, again = run_recipe("self_taught_evaluator", mixed, **options)
    assert sorted(again, key=lambda p: p["pair_id"]) == sorted(pairs, key=lambda p: p["pair_id"])
    assert run_recipe("self_taught_evaluator", read, **options) == (read, pairs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="+-?", min_size=6, max_size=6), min_size=1, max_size=5))
def test_self_taught_evaluator_d3_unreadable_judgements_change_no_row(said: list[str]) -> None:
    planted = [pair_of(f"p{i}", scripted(text)) for i, text in enumerate(said)]
    bare = copy.deepcopy(planted)
    for one in bare:
        one["judgements"] = [j for j in one["judgements"] if "undecided" not in j["text"]]
    rows = [run_recipe("self_taught_evaluator", groups)[1] for groups in (planted, bare)]
    with_them, without = ([(row["pair_id"], row["chosen_text"]) for row in some] for some in rows)
    assert with_them == without


def test_self_taught_evaluator_prompts_show_everything_once_and_end_with_their_form() -> None:
    text = load("changed_question").render(prompt="QUESTION", response="ANSWER")
    assert text.count("QUESTION") == text.count("ANSWER") == 1
    assert "</answer>" in text.splitlines()[-1]
    shown = load(JUDGE_TEMPLATE).render(prompt="QUESTION", response_a="FIRST", response_b="SECOND")
    assert shown.index("QUESTION") < shown.index("FIRST") < shown.index("SECOND")
    assert "[[A]]" in shown.splitlines()[-1] and "[[B]]" in shown.splitlines()[-1]
    assert PROTOCOLS["boxed"].read(shown, False).status == "ambiguous"  # an echo of the prompt is no verdict
