import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import from_layers
from pipelines.prompts import load
from pipelines.recipes.base import JudgeStep, SampleStep
from pipelines.recipes.self_rewarding import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.make_prompts import read_prompts
from pipelines.steps.render import judge_messages
from pipelines.training.config import TrainingConfig
from tests.pipelines.planted import group, judged_group, rule_judge, run_recipe, sample

FIXTURE = {
    "A": ("answer a", ["Score: 4", "Score: 5", "no verdict"]),
    "B": ("answer b", ["Score: 3", "Score: 3", "Score: 3"]),
    "C": ("answer c", ["no verdict", "no verdict", "no verdict"]),
    "D": ("answer d", ["Score: 2", "Score: 7", "Score: 1"]),
}


def given_group(meta: dict[str, Any] | None = None, *texts: str) -> Group:
    samples = [sample(f"g{i}", t, i, kind="given", token_ids=[], weight_version="given") for i, t in enumerate(texts)]
    return group("p", samples=samples, meta=json.dumps(meta or {}))


def test_self_rewarding_paper_defaults() -> None:
    paper = Settings()
    assert paper.samples.model_dump() == {"n": 4, "temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    assert paper.judgements.model_dump() == {"n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    assert (paper.questions.n, paper.questions.temperature, paper.questions.top_p) == (1, 0.6, 0.9)
    assert (paper.rho, RECIPE.iterations, RECIPE.reuse_prompts) == (0.0, 3, False)
    training = TrainingConfig(**RECIPE.training)
    assert (training.losses, training.beta) == ({"dpo": 1.0}, 0.1)
    assert (training.learning_rate, training.batch_pairs) == (1e-6, 16)
    sampled, judged = RECIPE.steps(paper, 0)
    assert isinstance(sampled, SampleStep) and sampled.template is None
    assert isinstance(judged, JudgeStep) and (judged.protocol, judged.template) == ("additive", "judge_additive")


def test_self_rewarding_seeds_first_and_prefers_then() -> None:
    paper = Settings(seed_rows="seeds.jsonl")
    assert [RECIPE.rows(paper, t) for t in range(3)] == ["seeds.jsonl", None, None]
    assert [len(RECIPE.steps(paper, t)) for t in range(3)] == [0, 2, 2]
    assert RECIPE.training_at(paper, 0) == {"loss": "sft", "learning_rate": 5.5e-6}
    assert RECIPE.training_at(paper, 1) == {}
    new = [RECIPE.new_prompts(paper, t) for t in range(4)]
    assert new[0] is None
    assert [n.count for n in new[1:] if n] == [5000, 8000, 8000]
    assert new[1] and (new[1].shots, new[1].generated_shots, new[1].with_seeds) == (8, 2, False)
    unseeded = Settings(new_prompts=[7, 9])
    assert [n and n.count for n in (RECIPE.new_prompts(unseeded, t) for t in range(3))] == [7, 9, 9]
    assert RECIPE.training_at(unseeded, 0) == {} and RECIPE.rows(unseeded, 0) is None
    assert RECIPE.new_prompts(Settings(new_prompts=[0]), 1) is None


def test_self_rewarding_small_preset_is_a_run() -> None:
    config = from_layers("self_rewarding", [{"prompts": "-", "preset": "small"}], "cpu")
    assert (config.prompts_limit, config.iterations, config.method.new_prompts) == (200, 2, [200])


def test_self_rewarding_means_fixture() -> None:
    (read,), (pair,) = run_recipe("self_rewarding", [judged_group(FIXTURE)])
    assert {s["sample_id"]: s["score"] for s in read["samples"]} == {"A": 4.5, "B": 3.0, "C": None, "D": 1.5}
    assert (pair["chosen_from"], pair["rejected_from"]) == ("A", "D")
    assert (pair["chosen_score"], pair["rejected_score"], pair["kind"]) == (4.5, 1.5, "actor")
    assert pair["messages"] == read["messages"]
    assert {j["judgement_id"]: j["status"] for j in read["judgements"]}["D-j1"] == "out_of_range"


def test_self_rewarding_all_equal_fixture() -> None:
    texts = {name: (f"answer {name}", ["Score: 3", "Score: 5"]) for name in "abcd"}
    (read,), pairs = run_recipe("self_rewarding", [judged_group(texts)])
    assert (pairs, read["dropped"]) == ([], "tied_scores")


def test_self_rewarding_parser_fixture() -> None:
    texts = {
        "a": ("v", ["Score: 3 for relevance ... Score: 4"]),
        "b": ("w", ["Score: 4.5/5"]),
        "c": ("x", ["**Score:** 4"]),
        "d": ("y", ["Score: <4>"]),
        "e": ("z", ["Start at 0 and add points, 0 to 5.\nScore: <total points>"]),
    }
    (read,), _ = run_recipe("self_rewarding", [judged_group(texts)])
    assert [s["score"] for s in read["samples"]] == [4.0, 4.5, 4.0, 4.0, None]


def test_self_rewarding_an_unreadable_candidate_is_never_the_rejected_one() -> None:
    for mute in (["no verdict"] * 3, ["Score: -1"] * 3, [""] * 3):
        _, (pair,) = run_recipe("self_rewarding", [judged_group({**FIXTURE, "C": ("answer c", mute)})])
        assert "C" not in (pair["chosen_from"], pair["rejected_from"])


def test_self_rewarding_one_bad_prompt_leaves_the_others() -> None:
    bad = judged_group({"a": ("x", ["mute"]), "b": ("y", ["mute"])}, "bad")
    read, pairs = run_recipe("self_rewarding", [judged_group(FIXTURE, "p1"), bad, judged_group(FIXTURE, "p2")])
    assert [p["prompt_id"] for p in pairs] == ["p1", "p2"]
    assert [g["dropped"] for g in read] == [None, "no_readable_score", None]


def test_self_rewarding_length_tiers_are_a_switch() -> None:
    texts = {"long": ("x" * 900, ["Score: 5"]), "short": ("y" * 90, ["Score: 4.5"]), "bad": ("z" * 99, ["Score: 1"])}
    chosen = [run_recipe("self_rewarding", [judged_group(texts)], rho=rho)[1][0]["chosen_from"] for rho in (0, 0.2)]
    assert chosen == ["long", "short"]


def test_self_rewarding_seed_instructions_are_imitated() -> None:
    planted = given_group(None, "a good answer", "another one", " a good answer")
    (read,), rows = run_recipe("self_rewarding", [planted], seed_rows="seeds.jsonl")
    assert [(r["kind"], r["chosen_text"], r["rejected_text"], r["rejected_ids"]) for r in rows] == [
        ("actor", "a good answer", "", []),
        ("actor", "another one", "", []),
    ]
    assert {json.dumps(r["messages"]) for r in rows} == {json.dumps(planted["messages"])}
    assert read["dropped"] is None
    assert run_recipe("self_rewarding", [planted])[1] == rows  # records tell, as a replay has no seed file


def test_self_rewarding_seed_evaluations_are_asked_as_the_judge_is() -> None:
    judgement = "Relevant and complete, but curt.\nScore: 3"
    planted = given_group({"judgement": judgement}, "the judged answer")
    _, (row,) = run_recipe("self_rewarding", [planted])
    assert (row["kind"], row["chosen_text"], row["chosen_score"]) == ("judge", judgement, 3.0)
    assert row["messages"] == judge_messages("judge_additive", planted, planted["samples"][0])
    assert row["chosen_ids"] == []
    (read,), rows = run_recipe("self_rewarding", [given_group({"judgement": "I liked it."}, "the judged answer")])
    assert (rows, read["dropped"]) == ([], "unreadable_judgement")


def test_self_rewarding_seed_rows_are_read_from_a_file(tmp_path: Any) -> None:
    rows = [
        {"prompt": "Name a colour.", "response": "Red."},
        {"prompt": "Name a colour.", "response": "Red.", "judgement": "Right.\nScore: 5"},
        {"prompt": "Name a fruit."},
    ]
    source = tmp_path / "seeds.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    read, made = run_recipe("self_rewarding", read_prompts(str(source)).groups, seed_rows=str(source))
    assert [r["kind"] for r in made] == ["actor", "judge"]
    assert [g["dropped"] for g in read] == [None, None, "too_few_samples"]


def test_self_rewarding_rows_with_responses_can_be_prompts_too() -> None:
    """The seed rows of a run are often its prompts: what they gave is not imitated again when it was answered."""
    planted = judged_group(FIXTURE)
    planted["samples"].append(sample("g", "given", 9, kind="given"))
    _, (pair,) = run_recipe("self_rewarding", [planted])
    assert (pair["chosen_from"], pair["rejected_from"]) == ("A", "D")


def test_self_rewarding_e_more_judgements_find_the_better_answer_more_often() -> None:
    def accuracy(n: int) -> float:
        groups = []
        for p in range(120):
            texts = {
                f"{p}-y{i}": (f"response {i}", [rule_judge(1.5 + 0.5 * i, 2.5, p, i, j) for j in range(n)])
                for i in range(4)
            }
            groups.append(judged_group(texts, f"p{p}"))
        _, pairs = run_recipe("self_rewarding", groups)
        return sum(p["chosen_text"] > p["rejected_text"] for p in pairs) / len(pairs)

    assert accuracy(1) < accuracy(3) < accuracy(11)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["Score: 1", "Score: 3", "Score: 4.5", "?", "Score: 9"]), max_size=3)),
    st.randoms(),
)
def test_self_rewarding_d2_d3_d4_pairs_are_the_ends_of_the_readable_means(said: list[list[str]], random: Any) -> None:
    planted = judged_group({f"y{i}": (f"response {i}", texts) for i, texts in enumerate(said)})
    (read,), pairs = run_recipe("self_rewarding", [planted])
    scores = [s["score"] for s in read["samples"] if s["score"] is not None]
    assert bool(pairs) == (len(set(scores)) > 1)
    for pair in pairs:
        assert (pair["chosen_score"], pair["rejected_score"]) == (max(scores), min(scores))
    readable = [[t for t in texts if t not in ("?", "Score: 9")] for texts in said]
    cleaned = judged_group({f"y{i}": (f"response {i}", texts) for i, texts in enumerate(readable)})
    assert run_recipe("self_rewarding", [cleaned])[1] == pairs
    mixed = copy.deepcopy(planted)
    random.shuffle(mixed["samples"])
    random.shuffle(mixed["judgements"])
    assert run_recipe("self_rewarding", [mixed])[1] == pairs


def test_self_rewarding_the_generator_sees_the_examples() -> None:
    text = load("self_rewarding_prompt").render(examples=["Name a colour.", "Write a poem\nabout rain."])
    assert text.index("Task 1:\nName a colour.") < text.index("Task 2:\nWrite a poem\nabout rain.")
