import copy
import json
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes.base import Context, JudgeStep, SampleStep
from pipelines.recipes.sfr_judge import JUDGES, RECIPE, Mixture, Settings
from pipelines.records import Group, Judgement, Pair
from pipelines.steps.deduction import deductions
from pipelines.steps.render import judge_messages, prompt_messages, sample_by_id
from pipelines.training.config import TrainingConfig
from pipelines.training.losses import PairBatch, combined
from tests.pipelines.planted import group, judgement, noise, run_recipe, sample

ALL = {"judge": 1, "verdict": 1, "deduction": 1}


def crit(i: int, verdict: str, order: int = 0, prompt_id: str = "p") -> Judgement:
    """A teacher's comparison that ends with this winner as shown."""
    text = f"Critique {i} of {prompt_id}.\nWinner: {verdict}"
    return judgement(
        f"{prompt_id}-{order}crit{i}", "", text, i, order=order, sample_ids=[f"{prompt_id}-a", f"{prompt_id}-b"],
        weight_version="frozen",
    )  # fmt: skip


def compared(normal: str, swapped: str = "", gold: str | None = "A", prompt_id: str = "p", **other: Any) -> Group:
    """Two given responses and a comparison for each letter (T is a tie), and the policy's guess at the responses."""
    said = [("tie" if v == "T" else v, order) for order, letters in enumerate((normal, swapped)) for v in letters]
    samples = [sample(f"{prompt_id}-{x}", f"response {x} to {prompt_id}", i, kind="given", token_ids=[])
               for i, x in enumerate("ab")]  # fmt: skip
    samples.append(sample(f"{prompt_id}-g", f"a guess at {prompt_id}", 2, kind="reconstruction"))
    judgements = [crit(i, verdict, order, prompt_id) for i, (verdict, order) in enumerate(said, 1)]
    return group(prompt_id, gold=gold, samples=samples, judgements=judgements, **other)


def assessed(texts: list[str], gold: str, prompt_id: str = "p", **other: Any) -> Group:
    """One given response and judgements with these last lines."""
    samples = [sample("y", "the response", 0, kind="given"), sample("g", "a guess", 1, kind="reconstruction")]
    judgements = [judgement(f"{prompt_id}-j{i}", "y", f"Critique {i}.\n{t}", i) for i, t in enumerate(texts)]
    return group(prompt_id, gold=gold, samples=samples, judgements=judgements, **other)


def of_kind(pairs: list[Pair], kind: str) -> list[Pair]:
    return [p for p in pairs if p["kind"] == kind]


def test_paper_defaults() -> None:
    paper = Settings()
    assert (paper.judgements.n, paper.judgements.temperature) == (20, 0.7)
    assert paper.mixture.model_dump() == {"judge": 70, "verdict": 15, "deduction": 15}
    *judges, guess = RECIPE.steps(paper, 0)
    assert [(s.protocol, s.template) for s in judges if isinstance(s, JudgeStep)] == [
        ("pairwise", "judge_pairwise"), ("likert", "judge_likert"), ("classify", "judge_classify")
    ]  # fmt: skip
    assert isinstance(guess, SampleStep) and guess.kind == "reconstruction" and guess.role == "policy"
    assert TrainingConfig(**RECIPE.training).losses == {"dpo": 1.0, "nll_prompted": 1.0}
    assert RECIPE.teaches and RECIPE.iterations == 1


@pytest.mark.parametrize(("gold", "protocol"), [("A", "pairwise"), ("tie", "pairwise"), ("3", "likert"),
                                                ("no", "classify")])  # fmt: skip
def test_each_row_is_judged_by_the_protocol_of_its_label(gold: str, protocol: str) -> None:
    row = group("p", gold=gold)
    asked = [s for s in RECIPE.steps(Settings(), 0) if isinstance(s, JudgeStep) and s.only and s.only(row)]
    assert [s.protocol for s in asked] == [protocol]


def test_r13_pairs_fixture() -> None:
    """Gold A and crit1 -> A, crit2 -> B, crit3 -> A."""
    (read,), pairs = run_recipe("sfr_judge", [compared("ABA")])
    assert [(p["chosen_from"][3:], p["rejected_from"][3:]) for p in of_kind(pairs, "judge")] == [
        ("crit1", "crit2"), ("crit3", "crit2")
    ]  # fmt: skip
    assert [(p["chosen_text"], p["rejected_text"]) for p in of_kind(pairs, "verdict")] == [("Winner: A", "Winner: B")]
    (deduced,) = of_kind(pairs, "deduction")
    assert deduced["chosen_text"] == "[Response A]\nresponse a to p\n\n[Response B]\nresponse b to p"
    assert deduced["rejected_from"] == "p-g" and deduced["chosen_from"] in {s["sample_id"] for s in read["samples"]}
    assert len(pairs) == 4 and read["dropped"] is None


def test_r13_mixture_holds_over_a_thousand_pairs() -> None:
    rows = [compared("AB" * 4 + "T", "BA" * 4, "A", f"p{i}") for i in range(160)]
    _, pairs = run_recipe("sfr_judge", rows)
    counts = Counter(p["kind"] for p in pairs)
    assert len(pairs) >= 1000 and counts["deduction"] == 160
    assert all(abs(counts[kind] / len(pairs) - share) < 0.002 for kind, share in
               {"judge": 0.7, "verdict": 0.15, "deduction": 0.15}.items())  # fmt: skip


def test_each_form_asks_its_own_question_about_the_same_responses() -> None:
    planted = compared("A", "AB", gold="B")
    read, pairs = run_recipe("sfr_judge", [planted])
    a, b = (sample_by_id(planted, f"p-{x}") for x in "ab")
    assert {p["messages"][0]["content"] for p in of_kind(pairs, "judge")} == {
        judge_messages("judge_pairwise", planted, b, a)[0]["content"]
    }
    (bare,) = of_kind(pairs, "verdict")
    assert bare["messages"] == judge_messages("verdict_pairwise", planted, b, a)
    assert (bare["chosen_text"], bare["rejected_text"]) == ("Winner: A", "Winner: B")  # b was shown first and is better
    (deduced,) = of_kind(pairs, "deduction")
    (asked,) = deductions(read[0], Context(0, "sfr_judge", 0))
    assert deduced["messages"] == prompt_messages(planted, "deduction", **asked)
    shown = deduced["messages"][0]["content"]
    assert "Critique 2 of p." in shown and "response a to p" not in shown
    assert deduced["chosen_text"].startswith("[Response A]\nresponse b to p")  # in the order the judge saw them


@pytest.mark.parametrize(
    ("texts", "gold", "right", "wrong"),
    [
        (["Score: 4", "Score: 2", "Score: 5", "Score: 4"], "4", "Score: 4", {"Score: 2", "Score: 5"}),
        (["Verdict: yes", "Verdict: no", "Verdict: yes"], "yes", "Verdict: yes", {"Verdict: no"}),
        (["Verdict: yes", "Verdict: no", "Verdict: yes"], "no", "Verdict: no", {"Verdict: yes"}),
    ],
)
def test_scores_and_classes_make_the_same_three_kinds(texts: list[str], gold: str, right: str, wrong: set[str]) -> None:
    planted = assessed(texts, gold, meta=json.dumps({"criterion": "It rhymes."}))
    _, pairs = run_recipe("sfr_judge", [planted], mixture=ALL | {"judge": 2, "verdict": 2})
    assert all(p["chosen_text"].endswith(right) for p in of_kind(pairs, "judge"))
    assert {p["rejected_text"].splitlines()[-1] for p in of_kind(pairs, "judge")} <= wrong
    assert {(p["chosen_text"], p["rejected_text"]) for p in of_kind(pairs, "verdict")} <= {(right, w) for w in wrong}
    (deduced,) = of_kind(pairs, "deduction")
    assert (deduced["chosen_text"], deduced["rejected_text"]) == ("the response", "a guess")
    assert deduced["chosen_from"] == "y"
    assert all("It rhymes." in p["messages"][0]["content"] for p in pairs)
    likert = texts[0].startswith("Score")
    assert all(("(very poor)" in p["messages"][0]["content"]) == likert for p in of_kind(pairs, "verdict"))


def test_bare_verdicts_are_not_the_teachers_tokens() -> None:
    _, pairs = run_recipe("sfr_judge", [compared("ABA")])
    assert all(p["chosen_ids"] == p["rejected_ids"] == [] for p in of_kind(pairs, "verdict"))
    assert all(p["chosen_ids"] == [] and p["rejected_ids"] for p in of_kind(pairs, "deduction"))
    assert len({p["pair_id"] for p in pairs}) == len(pairs)


def test_e_a_judge_of_positions_makes_no_pairs() -> None:
    rows = [compared("AAA", "AAA", gold, f"p{i}") for i, gold in enumerate(["A", "B", "tie"] * 4)]
    read, pairs = run_recipe("sfr_judge", rows)
    assert pairs == [] and all(g["dropped"] for g in read)


def test_a_judge_that_is_always_right_leaves_deduction_pairs() -> None:
    _, pairs = run_recipe("sfr_judge", [compared("AA", "BB")])
    assert [p["kind"] for p in pairs] == ["deduction"]


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (compared("ABA", gold=None), "no_label"),
        (compared("ABA", gold="first"), "no_label"),
        (compared(""), "no_readable_judgement"),
        (compared("BBT"), "no_right_judgement"),
        (compared("AA"), "no_wrong_judgement"),
        (assessed(["Score: 3"], "A"), "no_right_judgement"),
        ({**compared("ABA"), "dropped": "prompt_too_long"}, "prompt_too_long"),
    ],
)
def test_dropped_rows_say_why(planted: Group, reason: str) -> None:
    (read,), pairs = run_recipe("sfr_judge", [planted])
    assert (pairs, read["dropped"]) == ([], reason)


def test_a_form_can_be_left_out() -> None:
    settings = Settings.model_validate({"mixture": {"deduction": 0}})
    assert settings.mixture == Mixture(judge=70, verdict=15, deduction=0)
    assert len(RECIPE.steps(settings, 0)) == len(JUDGES)
    _, pairs = run_recipe("sfr_judge", [compared("ABA")], mixture={"judge": 1, "verdict": 1, "deduction": 0})
    assert {p["kind"] for p in pairs} == {"judge", "verdict"}


def test_a_guess_that_is_the_response_itself_is_no_pair() -> None:
    planted = assessed(["Score: 4", "Score: 1"], "4")
    planted["samples"][1]["text"] = "the response\n"
    _, pairs = run_recipe("sfr_judge", [planted])
    assert of_kind(pairs, "deduction") == [] and of_kind(pairs, "judge")


def test_unreadable_and_adversarial_judgements_are_on_neither_side() -> None:
    planted = compared("A")
    texts = ['It says "Winner: B".', "Winner: A or B", "Winner: C", "> Winner: B", "INCORRECT", ""]
    planted["judgements"] += [{**crit(10 + i, "A"), "text": text} for i, text in enumerate(texts)]
    planted["judgements"].append({**crit(30, "B"), "status": "truncated"})
    (read,), pairs = run_recipe("sfr_judge", [planted])
    assert (pairs, read["dropped"]) == ([], "no_wrong_judgement")
    yes = assessed(["Verdict: yes", "Verdict: INCORRECT", "INCORRECT", "Verdict: yes or no"], "yes")
    assert of_kind(run_recipe("sfr_judge", [yes])[1], "judge") == []


@given(st.text("ABT", max_size=4), st.text("ABT", max_size=4), st.sampled_from(["A", "B", "tie"]), st.randoms())
def test_pairs_prefer_the_label_whatever_the_order_of_records(normal: str, swapped: str, gold: str, rng: Any) -> None:
    rows = [compared(normal, swapped, gold), compared("AB", "BA", "A", "q")]
    read, pairs = run_recipe("sfr_judge", rows)
    shuffled = copy.deepcopy(rows)
    for row in shuffled:
        row["judgements"] = rng.sample(row["judgements"], len(row["judgements"]))
        row["judgements"].append({**crit(99, "A", prompt_id=row["prompt_id"]), "text": "I cannot say."})
    key = [(p["pair_id"], p["chosen_text"], p["rejected_text"]) for p in pairs]
    assert [(p["pair_id"], p["chosen_text"], p["rejected_text"])
            for p in run_recipe("sfr_judge", shuffled)[1]] == key  # fmt: skip
    said = {j["judgement_id"]: j["verdict"] for g in read for j in g["judgements"]}
    golds = {"p": gold, "q": "A"}
    for p in pairs:
        assert p["chosen_text"] != p["rejected_text"] and (p["chosen_score"] or 0) > (p["rejected_score"] or 0)
        if p["kind"] != "deduction":
            assert said[p["chosen_from"]] == golds[p["prompt_id"]] != said[p["rejected_from"]]


def test_reading_twice_changes_nothing() -> None:
    first, pairs = run_recipe("sfr_judge", [compared("ABA", "BA"), assessed(["Score: 4", "Score: 1"], "4", "q")])
    assert run_recipe("sfr_judge", first) == (first, pairs)


def test_r13_a_toy_judge_learns_that_the_longer_list_wins_in_both_forms() -> None:
    """Its verdict is sigmoid(weight * how much longer the first list is), with one weight for each form."""
    rows = []
    for i in range(60):
        items = [int(2 + 6 * noise("items", i, x)) for x in "ab"]
        if items[0] == items[1]:
            continue
        teacher = "".join("A" if noise("teacher", i, j) < 0.5 else "B" for j in range(6))
        row = compared(teacher, teacher[::-1], "A" if items[0] > items[1] else "B", f"p{i}")
        for response, n in zip(row["samples"], items, strict=False):
            response["text"] = "- item\n" * n
        rows.append(row)
    _, pairs = run_recipe("sfr_judge", rows)
    pairs = [p for p in pairs if p["kind"] != "deduction"]
    lists = [p["messages"][0]["content"].split("<response_b>") for p in pairs]
    longer = torch.tensor([float(first.count("- item") - second.count("- item")) for first, second in lists])
    bare = torch.tensor([p["kind"] == "verdict" for p in pairs]).long()
    sides = [p["chosen_text"] for p in pairs], [p["rejected_text"] for p in pairs]
    signs = torch.tensor([[1.0 if text.endswith("A") else -1.0 for text in texts] for texts in sides])
    settings = TrainingConfig(**RECIPE.training)

    def logps(weights: torch.Tensor) -> torch.Tensor:
        return F.logsigmoid(signs * weights[bare] * longer)

    def right(weights: torch.Tensor, form: int) -> float:
        return float(((weights[form] * longer[bare == form] > 0) == (signs[0][bare == form] > 0)).float().mean())

    start = torch.tensor([-0.3, -0.3])
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=1.0)
    ones, zeros = torch.ones(len(pairs)), torch.zeros(len(pairs))
    for _ in range(200):
        (chosen, rejected), (ref_chosen, ref_rejected) = logps(weights), logps(start)
        batch = PairBatch(
            chosen, rejected, ref_chosen, ref_rejected, prompt_tokens=100 * ones, chosen_tokens=ones,
            rejected_tokens=ones, chosen_head=zeros, rejected_head=zeros, ref_chosen_head=zeros,
            ref_rejected_head=zeros, weight=ones, batch_pairs=len(pairs), batch_chosen_tokens=len(pairs), kl_chosen=0.0,
            kl_rejected=0.0,
        )  # fmt: skip
        optimizer.zero_grad()
        combined(batch, settings)["loss"].mean().backward()
        optimizer.step()
    for form in (0, 1):
        assert right(start, form) == 0.0 and right(weights.detach(), form) == 1.0
