import asyncio
import copy
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine import Completion
from actors.judge import Judge
from actors.policy import Policy
from actors.speaker import Speaker
from pipelines.config import from_layers
from pipelines.prompts import load
from pipelines.recipes.base import Context, JudgeStep, SampleStep
from pipelines.recipes.tpo import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.judgements import distinct_samples
from pipelines.steps.parts import visible
from pipelines.steps.render import prompt_messages
from pipelines.training.config import TrainingConfig
from pipelines.training.losses import LOSSES
from tests.pipelines.planted import group, judgement, noise, run_recipe, sample
from tests.pipelines.training.test_losses import batch

CONTEXT = Context(0, "tpo", 0)


def thinking(response: str, thought: str = "SECRET plan") -> str:
    return f"Here is my thought process:\n{thought}\nHere is my response:\n{response}"


def scored(scores: list[float], lengths: list[int], prompt_id: str = "p") -> Group:
    """Responses of these lengths, judged once by points."""
    samples = [sample(f"y{i}", thinking("abcdefghij"[i] * n), i) for i, n in enumerate(lengths)]
    judgements = [judgement(f"j{i}", f"y{i}", f"Score: {score:g}") for i, score in enumerate(scores)]
    return group(prompt_id, samples=samples, judgements=judgements)


def compared(responses: list[str], says: Any, prompt_id: str = "p") -> Group:
    """Every two responses in both orders; `says(first, second)` writes the judgement of two visible parts."""
    samples = [sample(f"{prompt_id}-y{i}", thinking(text, f"thought {i}"), i) for i, text in enumerate(responses)]
    calls = [(i, j, order) for i in range(len(responses)) for j in range(i + 1, len(responses)) for order in (0, 1)]
    judgements = []
    for i, j, order in calls:
        first, second = (responses[j], responses[i]) if order else (responses[i], responses[j])
        ids = [f"{prompt_id}-y{i}", f"{prompt_id}-y{j}"]
        name = f"{prompt_id}-{i}-{j}-{order}"
        judgements.append(judgement(name, ids[0], says(first, second), sample_ids=ids, order=order))
    return group(prompt_id, samples=samples, judgements=judgements)


def test_tpo_paper_defaults() -> None:
    paper = Settings()
    assert paper.samples.model_dump() == {"n": 8, "temperature": 0.8, "top_p": 0.95, "max_tokens": 2048}
    assert (paper.thought, paper.judging, paper.judgements.n, paper.judgements.temperature) == (
        "generic", "pairwise", 1, 0.0,
    )
    assert (paper.rho, RECIPE.iterations, RECIPE.reuse_prompts) == ([0.0], 4, False)
    training = TrainingConfig(**RECIPE.training)
    assert (training.losses, training.beta, training.learning_rate) == ({"dpo": 1.0}, 0.1, 1e-6)
    assert (training.batch_pairs, training.epochs) == (32, 10)
    sampled, judged = RECIPE.steps(paper, 0)
    assert isinstance(sampled, SampleStep) and (sampled.template, sampled.split) == ("tpo_generic", "thought")
    assert isinstance(judged, JudgeStep) and (judged.protocol, judged.kinds) == ("pairwise", ("sample",))


def test_tpo_has_a_specific_prompt_and_a_pointwise_judge() -> None:
    chosen = Settings.model_validate({"thought": "specific", "judging": "pointwise", "rho": 0.2})
    sampled, judged = RECIPE.steps(chosen, 1)
    assert isinstance(sampled, SampleStep)
    assert (sampled.template, sampled.split) == ("tpo_specific", "specific_thought")
    assert isinstance(judged, JudgeStep) and (judged.protocol, judged.template) == ("additive", "judge_additive")
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Settings.model_validate({"rho": [-0.1]})


def test_tpo_small_preset_is_a_run() -> None:
    config = from_layers("tpo", [{"prompts": "-", "preset": "small"}], "cpu")
    assert (config.prompts_limit, config.iterations, config.method.samples.n) == (200, 2, 4)
    assert config.method.samples.top_p == 0.95  # what is not named stays the paper's


def test_tpo_z_length_fixture() -> None:
    planted = scored([4, 3, 2, 1], [400, 100, 200, 300])
    expected = {0: ("y0", "y3", 1.342, -1.342), 0.5: ("y1", "y3", 1.118, -1.565), 1: ("y1", "y3", 1.789, -1.789)}
    for rho, (best, worst, high, low) in expected.items():
        (read,), (pair,) = run_recipe("tpo", [planted], rho=[rho])
        assert (pair["chosen_from"], pair["rejected_from"]) == (best, worst)
        assert (pair["chosen_score"], pair["rejected_score"]) == pytest.approx((high, low), abs=5e-4)
        assert [s["score"] for s in read["samples"]] == [4.0, 3.0, 2.0, 1.0]


def test_tpo_rho_is_one_value_per_iteration() -> None:
    planted = scored([4, 3, 2, 1], [400, 100, 200, 300])
    ends = [run_recipe("tpo", [planted], iteration=t, rho=[0.0, 0.5])[1][0]["chosen_from"] for t in (0, 1, 2)]
    assert ends == ["y0", "y1", "y1"]


def test_tpo_equal_lengths_leave_the_scores_and_equal_scores_make_no_pair() -> None:
    _, (pair,) = run_recipe("tpo", [scored([1, 4, 2], [50, 50, 50])], rho=[0.5])
    assert (pair["chosen_from"], pair["rejected_from"]) == ("y1", "y0")
    (read,), pairs = run_recipe("tpo", [scored([3, 3, 3], [10, 50, 90])], rho=[0.5])
    assert (pairs, read["dropped"]) == ([], "tied_scores")  # the shortest is not better for that alone


def test_tpo_pairs_hold_thoughts_and_responses_under_the_thought_prompt() -> None:
    planted = scored([5, 1], [20, 20])
    _, (pair,) = run_recipe("tpo", [planted], iteration=1)
    assert pair["messages"] == prompt_messages(planted, "tpo_generic") != planted["messages"]
    assert (pair["chosen_text"], pair["rejected_text"]) == tuple(s["text"] for s in planted["samples"])
    assert (pair["chosen_ids"], pair["rejected_ids"]) == tuple(s["token_ids"] for s in planted["samples"])
    assert (pair["kind"], pair["weight"], pair["iteration"]) == ("actor", 1.0, 1)


def test_tpo_lengths_are_of_the_response_alone() -> None:
    """A long thought costs nothing, a long response does."""
    planted = scored([3, 3.5, 1], [40, 40, 40])
    for s, thought in zip(planted["samples"], ["short", "long " * 400, "short"], strict=True):
        s["text"] = thinking(s["text"][-40:], thought)
    _, (pair,) = run_recipe("tpo", [planted], rho=[1.0])
    assert pair["chosen_from"] == "y1"


def test_tpo_comparisons_become_elo() -> None:
    def longer(first: str, second: str) -> str:
        return f"Winner: {'A' if len(first) > len(second) else 'B'}"

    planted = compared(["a" * 30, "b" * 10, "c" * 20, "d" * 40], longer)
    (read,), (pair,) = run_recipe("tpo", [planted])
    score = {s["sample_id"]: s["score"] for s in read["samples"]}
    assert sorted(score, key=lambda i: -(score[i] or 0)) == ["p-y3", "p-y0", "p-y2", "p-y1"]
    assert (pair["chosen_from"], pair["rejected_from"]) == ("p-y3", "p-y1")
    _, (pair,) = run_recipe("tpo", [planted], rho=[1.5])
    assert len(pair["chosen_text"]) < len(pair["rejected_text"])  # a judge of length is defeated


@pytest.mark.parametrize("says", ["Winner: A", "Winner: B"])
def test_tpo_a_judge_of_positions_makes_no_pair(says: str) -> None:
    responses: list[str] = ["response" + " word" * i for i in range(5)]
    groups = [compared(responses, lambda *_: says, f"p{p}") for p in range(3)]
    for rho in (0.0, 0.5):
        read, pairs = run_recipe("tpo", groups, rho=[rho])
        assert pairs == [] and {g["dropped"] for g in read} == {"tied_scores"}


def test_tpo_swapping_what_is_shown_swaps_nothing_in_the_pair() -> None:
    planted = compared(["aa", "b", "ccc"], lambda first, second: f"Winner: {'A' if first > second else 'B'}")
    swapped = copy.deepcopy(planted)
    for j in swapped["judgements"]:
        j["sample_ids"] = j["sample_ids"][::-1]
        j["text"] = {"Winner: A": "Winner: B", "Winner: B": "Winner: A"}[j["text"]]
    expected = [(p["chosen_from"], p["rejected_from"]) for p in run_recipe("tpo", [planted])[1]]
    assert [(p["chosen_from"], p["rejected_from"]) for p in run_recipe("tpo", [swapped])[1]] == expected
    assert expected == [("p-y2", "p-y0")]


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([], "too_few_samples"),
        ([thinking("a"), "no marker", "Here is my thought process: cut off"], "too_few_samples"),
        ([thinking("a"), thinking("a")], "too_few_samples"),
    ],
)
def test_tpo_outputs_without_a_response_are_dropped(texts: list[str], reason: str) -> None:
    samples = [sample(f"y{i}", text, i) for i, text in enumerate(texts)]
    judgements = [judgement(f"j{i}", f"y{i}", f"Score: {i}") for i in range(len(texts))]
    (read,), pairs = run_recipe("tpo", [group("p", samples=samples, judgements=judgements)])
    assert (pairs, read["dropped"]) == ([], reason)


def test_tpo_an_unsplit_output_is_neither_chosen_nor_rejected_nor_judged() -> None:
    planted = scored([4, 2, 3], [30, 30, 30])
    for name, score in (("best", 5), ("worst", 0)):
        planted["samples"].append(sample(name, f"{name} without a marker", 9))
        planted["judgements"].append(judgement(f"j-{name}", name, f"Score: {score}"))
    (read,), (pair,) = run_recipe("tpo", [planted])
    assert (pair["chosen_from"], pair["rejected_from"]) == ("y0", "y1")
    _, judged = RECIPE.steps(Settings(), 0)
    assert isinstance(judged, JudgeStep)
    assert [s["sample_id"] for s in distinct_samples(read, judged.kinds)] == ["y0", "y1", "y2"]


def test_tpo_a_response_of_the_row_is_in_no_pair() -> None:
    """It was not written under the thought prompt."""
    planted = scored([4, 2], [30, 30])
    planted["samples"].append(sample("given", "Without a thought.", 2, kind="given"))
    planted["judgements"].append(judgement("j-given", "given", "Score: 5"))
    _, (pair,) = run_recipe("tpo", [planted])
    assert (pair["chosen_from"], pair["rejected_from"]) == ("y0", "y1")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["Score: 3", "mute"], "one_readable_score"),
        (["Score: 9", "mute"], "no_readable_score"),
        (["Score: 3", "Score: 3"], "tied_scores"),
    ],
)
def test_tpo_dropped_prompts_say_why(said: list[str], reason: str) -> None:
    planted = scored([0, 0], [10, 20])
    for j, text in zip(planted["judgements"], said, strict=True):
        j["text"] = text
    (read,), pairs = run_recipe("tpo", [planted])
    assert (pairs, read["dropped"]) == ([], reason)
    (read,), pairs = run_recipe("tpo", [{**scored([4, 1], [9, 9]), "dropped": "prompt_too_long"}])
    assert (pairs, read["dropped"]) == ([], "prompt_too_long")


class Recorder:
    """Speaks from a list and keeps what it was asked."""

    def __init__(self, texts: list[str]):
        self.texts, self.asked = texts, []

    async def reply(self, messages: Any, sampling: Any, seed: Any, request_id: str, version: Any) -> list[Completion]:
        self.asked.append(messages[-1]["content"])
        texts = self.texts[: sampling.n]
        return [Completion(i, text, [len(text), 2], "stop", seed + i, "v0") for i, text in enumerate(texts)]


@pytest.mark.parametrize("thought", ["generic", "specific"])
@pytest.mark.parametrize("judging", ["pairwise", "pointwise"])
def test_tpo_masking_no_thought_reaches_a_judge(thought: str, judging: str) -> None:
    outputs = [
        "Here is my thought process:\nSECRET one.\nHere is my response:\nFirst.",
        "SECRET draft, SECRET evaluation.\n<R>Second.",
        "Here's my thought process: 'Here is my response:' comes after SECRET.\nHere's my response: Third.",
        "SECRET without any marker",
        "Here is my thought process: SECRET, and cut off",
        "Here is my response: Fourth. Here is my thought process: SECRET again.",
    ]
    if thought == "specific":
        outputs.append("SECRET, not <R> yet.\nHere is my response: SECRET.\n<R>\nFifth.")
    chosen = Settings.model_validate({"thought": thought, "judging": judging, "samples": {"n": len(outputs)}})
    sampled, judged = RECIPE.steps(chosen, 0)
    assert isinstance(sampled, SampleStep) and isinstance(judged, JudgeStep)
    policy, judge = Recorder(outputs), Recorder(["Winner: A\nScore: 3"])

    async def run() -> Group:
        made = await Policy(cast(Speaker, policy)).sample(group("p"), sampled, CONTEXT, "v0")
        found = group("p", samples=made)
        shown = distinct_samples(found, judged.kinds)
        pairs = [([a, b], order) for a in shown for b in shown if a["index"] < b["index"] for order in (0, 1)]
        calls = pairs if judging == "pairwise" else [([s], 0) for s in shown]
        for some, order in calls:
            found["judgements"] += await Judge(cast(Speaker, judge)).judge(found, some, judged, CONTEXT, "v0", order)
        return found

    found = asyncio.run(run())
    assert judge.asked and not [text for text in judge.asked if "SECRET" in text or "<R>" in text]
    assert [s["text"] for s in found["samples"]] == outputs
    assert {s["n_chars"] for s in found["samples"] if s["kind"] == "sample"} == {
        len(visible(s)) for s in found["samples"] if s["kind"] == "sample"
    }
    read = RECIPE.read(found, chosen, CONTEXT)
    assert [s["kind"] for s in read["samples"]] == [s["kind"] for s in found["samples"]]


def test_tpo_causal_thoughts_that_lead_to_better_responses_become_likely() -> None:
    """Quality depends on the thought alone and the judge sees the response alone; DPO must raise the good thought."""
    texts = {"good": "Five apples, as 2 + 3 = 5.", "bad": "Apples are a fruit."}
    groups = []
    for p in range(30):
        thoughts = ["good" if noise("thought", p, i) < 0.4 else "bad" for i in range(6)]
        samples = [sample(f"{p}-{i}", thinking(f"{texts[t]} ({p}.{i})", t), i) for i, t in enumerate(thoughts)]
        judgements = [
            judgement(f"{p}-{i}", s["sample_id"], f"Score: {5 if 'Five' in s['text'] else 1}")
            for i, s in enumerate(samples)
        ]
        groups.append(group(f"p{p}", samples=samples, judgements=judgements))
    _, pairs = run_recipe("tpo", groups)
    assert len(pairs) > 20

    def thought(text: str) -> int:
        return int("\ngood\n" in text)

    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # of thinking "bad" and "good"
    before = torch.softmax(logits.detach(), 0)[1]
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(20):
        logp = torch.log_softmax(logits, 0)
        # The response given its thought has the same probability in policy and reference.
        chosen = torch.stack([logp[thought(pair["chosen_text"])] for pair in pairs])
        rejected = torch.stack([logp[thought(pair["rejected_text"])] for pair in pairs])
        reference = [float(torch.log(before))] * len(pairs)
        pairs_now = replace(batch(ref_chosen=reference, ref_rejected=reference), chosen=chosen, rejected=rejected)
        loss = LOSSES["dpo"](pairs_now, TrainingConfig(**RECIPE.training)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.softmax(logits.detach(), 0)[1] > before + 0.05


def test_tpo_e_length_control_takes_the_judges_bias_out() -> None:
    """A judge that likes length picks long responses; more rho makes the chosen ones shorter beside the rejected."""
    groups = []
    for p in range(40):
        lengths = [20 + int(200 * noise("length", p, i)) for i in range(6)]
        scores = [min(5.0, max(0.0, n / 50 + noise("quality", p, i))) for i, n in enumerate(lengths)]
        groups.append(scored([round(s, 2) for s in scores], lengths, f"p{p}"))

    def excess(rho: float) -> float:
        _, pairs = run_recipe("tpo", groups, rho=[rho])
        return sum(len(p["chosen_text"]) - len(p["rejected_text"]) for p in pairs) / len(pairs)

    found = [excess(rho) for rho in (0, 0.5, 1, 1.5)]
    assert found == sorted(found, reverse=True) and found[0] > 100 and found[-1] < 0


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_tpo_e_a_mute_judge_does_not_bias_the_pairs(rate: float) -> None:
    groups = []
    for p in range(80):
        def says(first: str, second: str, p: int = p) -> str:
            lost = noise("mute", p, first, second) < rate
            return "I compared." if lost else f"I compared.\nWinner: {'A' if first > second else 'B'}"

        groups.append(compared([f"{quality} of {p}" for quality in "dacb"], says, f"p{p}"))
    _, pairs = run_recipe("tpo", groups)
    assert len(pairs) > 70
    best = sum("\nd of" in p["chosen_text"] for p in pairs)
    worst = sum("\na of" in p["rejected_text"] for p in pairs)
    assert min(best, worst) > 0.75 * len(pairs)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), min_size=2, max_size=6), st.floats(0, 1), st.randoms()
)
def test_tpo_d2_d4_a_pair_prefers_something_in_any_order_of_arrival(
    responses: list[tuple[int, int]], rho: float, random: Any
) -> None:
    planted = scored([score for score, _ in responses], [n for _, n in responses])
    (read,), pairs = run_recipe("tpo", [planted], rho=[rho])
    assert bool(pairs) != bool(read["dropped"])
    for pair in pairs:
        assert (pair["chosen_score"] or 0) > (pair["rejected_score"] or 0)
        assert pair["chosen_text"] != pair["rejected_text"]
    mixed = copy.deepcopy(planted)
    random.shuffle(mixed["samples"])
    random.shuffle(mixed["judgements"])
    assert run_recipe("tpo", [mixed], rho=[rho])[1] == pairs
    assert run_recipe("tpo", [read], rho=[rho]) == ([read], pairs)


@pytest.mark.parametrize("name", ["tpo_generic", "tpo_specific"])
def test_tpo_the_prompt_shows_the_request_once_and_names_its_markers(name: str) -> None:
    text = load(name).render(prompt="REQUEST")
    assert text.count("REQUEST") == 1
    marker = "Here is my response:" if name == "tpo_generic" else "<R>"
    assert marker in text.splitlines()[-1]
