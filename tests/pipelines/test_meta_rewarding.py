import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import ConfigError, resolve
from pipelines.recipes.base import Context, JudgeStep, MetaJudgeStep, SampleStep
from pipelines.recipes.meta_rewarding import RECIPE, Settings
from pipelines.records import Group
from pipelines.steps.judgements import lists_as_shown, read_group
from pipelines.steps.meta import battles, judgement_elo, meta_judge_pairs
from pipelines.steps.render import judge_messages
from tests.pipelines.planted import (
    group,
    judged_group,
    judgement,
    meta,
    planted_iteration,
    run_recipe,
    sample,
    with_meta_judge,
)

R8_FIXTURE = {
    "A": ("answer a", ["Score: 4", "Score: 5", "no verdict"]),
    "B": ("answer b", ["Score: 3", "Score: 3", "Score: 3"]),
    "C": ("answer c", ["no verdict", "no verdict", "no verdict"]),
    "D": ("answer d", ["Score: 2", "Score: 7", "Score: 1"]),
}
CONTEXT = Context(0, "meta_rewarding", 0)


def shuffled(group: Group, random: Any) -> Group:
    out = copy.deepcopy(group)
    for key in ("samples", "judgements", "meta_judgements"):
        random.shuffle(out[key])
    return out


def test_paper_defaults() -> None:
    paper = Settings()
    assert paper.samples.model_dump() == {"n": 7, "temperature": 0.8, "top_p": 0.95, "max_tokens": 1024}
    assert paper.judgements.model_dump() == {"n": 11, "temperature": 0.8, "top_p": 0.95, "max_tokens": 1024}
    assert (paper.meta_judgements.n, paper.rho) == (1, [0.0, 0.32, 0.32, 0.4])
    assert (paper.chosen_max_chars, paper.judge_chosen_max_chars) == ([2500, None], [1100, 1000])
    assert RECIPE.iterations == 4
    assert RECIPE.training["beta"] == 0.1 and RECIPE.training["learning_rate"] == 5e-6
    assert [[type(s) for s in RECIPE.steps(paper, t)] for t in (1, 2)] == [
        [SampleStep, JudgeStep, MetaJudgeStep],
        [SampleStep, JudgeStep],
    ]


def test_one_changed_value_keeps_the_papers_others() -> None:
    changed = Settings.model_validate({"samples": {"n": 2}, "rho": 0.1})
    assert (changed.samples.n, changed.samples.top_p, changed.rho) == (2, 0.95, [0.1])
    with pytest.raises(ValueError, match=r"less than 0\.5"):
        Settings.model_validate({"rho": [0.5]})


def test_r8_means_fixture() -> None:
    (read,), (pair,) = run_recipe("meta_rewarding", [judged_group(R8_FIXTURE)], rho=[0])
    assert {s["sample_id"]: s["score"] for s in read["samples"]} == {"A": 4.5, "B": 3.0, "C": None, "D": 1.5}
    assert (pair["chosen_from"], pair["rejected_from"]) == ("A", "D")
    assert (pair["chosen_score"], pair["rejected_score"]) == (4.5, 1.5)
    assert {j["judgement_id"]: j["status"] for j in read["judgements"]}["D-j1"] == "out_of_range"


def test_r8_parser_fixture() -> None:
    texts = {
        "a": ("x", ["Score: 3 for relevance ... Score: 4"]),
        "b": ("y", ["Score: 4.5/5"]),
        "c": ("z", ["**Score:** 4"]),
    }
    (read,), _ = run_recipe("meta_rewarding", [judged_group(texts)])
    assert [s["score"] for s in read["samples"]] == [4.0, 4.5, 4.0]


def test_r4_position_weights_fixture() -> None:
    texts = {"y": ("only", ["a\nScore: 5", "b\nScore: 3", "c\nScore: 1"]), "z": ("other", ["Score: 3"])}
    wins = {(0, 1): "A", (1, 0): "A", (0, 2): "A", (2, 0): "B", (1, 2): "A", (2, 1): "A"}
    calls = [meta(f"y-j{min(c)}", f"y-j{max(c)}", int(c[0] > c[1]), f"Winner: {shown}") for c, shown in wins.items()]
    planted = judged_group(texts, meta_judgements=calls)
    (read,), pairs = run_recipe("meta_rewarding", [planted])
    assert RECIPE.statistics([read], Settings(), CONTEXT) == (1 / 6, 5 / 6)
    elo = {j["judgement_id"]: j["elo"] for j in read["judgements"]}
    assert [elo["y-j0"], elo["y-j1"], elo["y-j2"]] == pytest.approx([1.079, 0, -1.079], abs=5e-4)
    (pair,) = [p for p in pairs if p["kind"] == "judge"]
    assert (pair["chosen_from"], pair["rejected_from"]) == ("y-j0", "y-j2")
    assert pair["messages"] == judge_messages("judge_additive", read, read["samples"][0])
    assert (pair["chosen_text"], pair["chosen_ids"]) == ("a\nScore: 5", read["judgements"][0]["token_ids"])


def test_r4_tiers_fixture() -> None:
    responses = [(4.6, 900), (4.5, 400), (4.2, 300), (3.0, 500), (2.4, 800), (2.2, 200)]
    texts = {f"y{i}": (str(i) * chars, [f"Score: {score}"]) for i, (score, chars) in enumerate(responses)}
    for rho, ends in {0: ("y0", "y5"), 0.1: ("y1", "y4"), 0.32: ("y2", "y4"), 0.4: ("y2", "y4")}.items():
        _, (pair,) = run_recipe("meta_rewarding", [judged_group(texts)], rho=[rho])
        assert (pair["chosen_from"], pair["rejected_from"]) == ends


def test_r4_always_first_makes_no_judge_pair() -> None:
    texts = {"y": ("one", [f"{i}\nScore: {i}" for i in range(5)]), "z": ("two", ["Score: 0"])}
    for says in ("Winner: A", "Winner: B"):
        groups = [with_meta_judge(judged_group(texts), lambda first, second, says=says: says)]
        read, pairs = run_recipe("meta_rewarding", groups)
        assert len(groups[0]["meta_judgements"]) == 20
        assert [p["kind"] for p in pairs] == ["actor"]
        assert all(j["elo"] is None for j in read[0]["judgements"])


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["Winner: A", "Winner: B"]), st.integers(0, 3))
def test_d6_a_position_only_meta_judge_makes_no_judge_pair_beside_others(says: str, seed: int) -> None:
    sincere = planted_iteration(3)
    texts = {"y": ("one", [f"{i}\nScore: {i}" for i in range(5)]), "z": ("two", ["Score: 0"])}
    biased = with_meta_judge(judged_group(texts, "biased"), lambda first, second: says)
    _, pairs = run_recipe("meta_rewarding", [*sincere, biased], seed=seed)
    assert any(p["kind"] == "judge" for p in pairs)
    assert not any(p["kind"] == "judge" and p["prompt_id"] == "biased" for p in pairs)


def test_a_text_winner_is_about_what_was_shown_first() -> None:
    calls = [meta("y-j0", "y-j1", 1, "Winner: A"), meta("y-j0", "y-j1", 0, "Winner: A")]
    planted = judged_group({"y": ("one", ["x\nScore: 1", "y\nScore: 2"])}, meta_judgements=calls)
    read = RECIPE.read(planted, Settings(), CONTEXT)
    assert [m["winner"] for m in read["meta_judgements"]] == ["B", "A"]
    assert [tuple(b) for b in battles(read)] == [("y-j1", "y-j0", 1), ("y-j0", "y-j1", 1)]


def test_only_judgements_of_one_response_meet() -> None:
    texts = {"y": ("one", ["a\nScore: 1", "b\nScore: 2"]), "z": ("two", ["Score: 3"])}
    calls = [
        meta("y-j0", "y-j0", 0, "Winner: A"),
        meta("y-j0", "z-j0", 0, "Winner: A"),
        meta("y-j0", "y-j1", 0, "none"),
    ]
    assert battles(RECIPE.read(judged_group(texts, meta_judgements=calls), Settings(), CONTEXT)) == []


def test_meta_judge_reads_the_most_disputed_response() -> None:
    texts = {"calm": ("one", ["Score: 3"] * 3), "disputed": ("two", ["Score: 1", "Score: 5", "mute", "Score: 3"])}
    read = RECIPE.read(judged_group(texts), Settings(), CONTEXT)
    pairs = [(a["judgement_id"], b["judgement_id"]) for a, b in meta_judge_pairs(read, CONTEXT)]
    assert pairs == [("disputed-j0", "disputed-j1"), ("disputed-j0", "disputed-j3"), ("disputed-j1", "disputed-j3")]
    assert (
        meta_judge_pairs(RECIPE.read(judged_group({"y": ("one", ["Score: 3", "mute"])}), Settings(), CONTEXT), CONTEXT)
        == []
    )


def test_paper_count_of_meta_calls() -> None:
    texts = {f"y{i}": (f"r{i}", [f"Score: {(i + j) % 6}" for j in range(11)]) for i in range(7)}
    assert len(meta_judge_pairs(RECIPE.read(judged_group(texts), Settings(), CONTEXT), CONTEXT)) * 2 == 110


def test_repeated_responses_are_one_response() -> None:
    texts = {"a": ("same", ["Score: 5"]), "b": ("same ", ["Score: 0"]), "c": ("other", ["Score: 3"])}
    (read,), (pair,) = run_recipe("meta_rewarding", [judged_group(texts)])
    assert (pair["chosen_from"], pair["rejected_from"]) == ("a", "c")
    assert [s["score"] for s in read["samples"]] == [5.0, None, 3.0]
    (dropped,), none = run_recipe("meta_rewarding", [judged_group({k: texts[k] for k in "ab"})])
    assert not none and dropped["dropped"] == "too_few_samples"


def test_an_empty_response_is_in_no_pair() -> None:
    """Neither as the worst or the best response, nor as the one whose judgements meet."""
    texts = {"a": ("x", ["Score: 4", "Score: 5"]), "b": ("y", ["Score: 2"]), "e": ("", ["Score: 0", "Score: 5"])}
    planted = with_meta_judge(judged_group(texts), lambda first, second: "Winner: A")
    assert {m["judgement_a"] for m in planted["meta_judgements"]} == {"a-j0"}
    for said in ("Score: 0", "Score: 5"):
        _, (pair,) = run_recipe("meta_rewarding", [judged_group({**texts, "e": ("", [said])})], rho=[0])
        assert (pair["chosen_from"], pair["rejected_from"]) == ("a", "b")
    (read,), pairs = run_recipe("meta_rewarding", [judged_group({"a": texts["a"], "e": texts["e"]})])
    assert (pairs, read["dropped"]) == ([], "too_few_samples")


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({}, "too_few_samples"),
        ({"a": ("x", ["mute"]), "b": ("y", ["Score: 9"])}, "no_readable_score"),
        ({"a": ("x", ["Score: 3"]), "b": ("y", ["mute"])}, "one_readable_score"),
        ({"a": ("x", ["Score: 3"]), "b": ("y", ["Score: 3"])}, "tied_scores"),
        ({"a": ("x" * 2501, ["Score: 5"]), "b": ("y", ["Score: 3"])}, "chosen_too_long"),
    ],
)
def test_dropped_prompts_say_why(texts: dict, reason: str) -> None:
    (read,), pairs = run_recipe("meta_rewarding", [judged_group(texts)])
    assert (pairs, read["dropped"]) == ([], reason)


def test_length_cap_of_responses_holds_in_the_first_iteration_only() -> None:
    texts = {"a": ("x" * 2501, ["Score: 5"]), "b": ("y", ["Score: 3"])}
    assert len(run_recipe("meta_rewarding", [judged_group(texts)], iteration=1)[1]) == 1


@pytest.mark.parametrize(
    ("iteration", "chars", "kept"), [(0, 1100, 1), (0, 1101, 0), (1, 1000, 1), (1, 1001, 0), (2, 9, 0)]
)
def test_judge_pairs_have_a_length_cap_and_two_iterations(iteration: int, chars: int, kept: int) -> None:
    long = "x" * (chars - 9) + "\nScore: 5"
    calls = [meta("y-j0", "y-j1", 0, "Winner: A"), meta("y-j0", "y-j1", 1, "Winner: B")]
    texts = {"y": ("one", [long, "b\nScore: 1"]), "z": ("two", ["Score: 0"])}
    planted = judged_group(texts, meta_judgements=calls)
    _, pairs = run_recipe("meta_rewarding", [planted], iteration=iteration)
    assert sum(p["kind"] == "judge" for p in pairs) == kept


def test_stale_derived_fields_are_read_again_and_truncation_is_kept() -> None:
    stale = group(
        samples=[sample("a", "x", 0, score=0.0), sample("b", "y", 1, score=5.0)],
        judgements=[
            judgement("1", "a", "Score: 5", status="missing", value=1.0),
            judgement("2", "b", "nothing", status="ok", value=5.0, elo=9.0),
            judgement("3", "b", "Score: 1", status="out_of_range"),
            judgement("4", "a", "Score: 0", status="truncated", value=0.0),
        ],
        dropped="tied_scores",
    )
    (read,), (pair,) = run_recipe("meta_rewarding", [stale])
    assert [(j["status"], j["value"], j["elo"]) for j in read["judgements"]] == [
        ("ok", 5.0, None),
        ("missing", None, None),
        ("ok", 1.0, None),
        ("truncated", None, None),
    ]
    assert (pair["chosen_from"], pair["rejected_from"], read["dropped"]) == ("a", "b", None)


def test_a_prompt_that_a_stage_gave_up_stays_dropped() -> None:
    (read,), pairs = run_recipe("meta_rewarding", [group(dropped="prompt_too_long")])
    assert (read["dropped"], pairs) == ("prompt_too_long", [])


def test_pairs_wait_for_the_reference() -> None:
    _, pairs = run_recipe("meta_rewarding", planted_iteration())
    assert {p["kind"] for p in pairs} == {"actor", "judge"}
    for p in pairs:
        assert (p["weight"], p["prompt_ids"], p["template_hash"]) == (1.0, [], None)
        assert (p["ref_logp_chosen"], p["ref_logp_rejected"], p["ref_version"]) == (None, None, None)
    assert len({p["pair_id"] for p in pairs}) == len(pairs)


def test_d2_both_sides_differ_in_text_and_score() -> None:
    _, pairs = run_recipe("meta_rewarding", planted_iteration())
    for p in pairs:
        assert p["chosen_text"] != p["rejected_text"] and p["weight"] > 0
        assert p["chosen_score"] is not None and p["rejected_score"] is not None
        assert p["chosen_score"] > p["rejected_score"]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_d3_an_unreadable_judgement_changes_no_pair(data: st.DataObject) -> None:
    groups = planted_iteration(4)
    _, pairs = run_recipe("meta_rewarding", groups)
    noisy = copy.deepcopy(groups)
    unreadable = st.sampled_from(
        ["", "no verdict", "Score: 3-4", "Score: 9", "Score: <total points>", 'He says "Score: 0"']
    )
    for g in noisy:
        for s in g["samples"]:
            text = data.draw(unreadable)
            g["judgements"].append(judgement(f"mute-{s['sample_id']}", s["sample_id"], text, 99))
            cut = judgement(f"cut-{s['sample_id']}", s["sample_id"], "Score: 0", 98, status="truncated")
            g["judgements"].insert(0, cut)
        a, b = g["meta_judgements"][0]["judgement_a"], g["meta_judgements"][0]["judgement_b"]
        g["meta_judgements"].append(meta(a, b, 0, data.draw(st.sampled_from(["", "Winner: A or B", "Winner: C"]))))
        g["meta_judgements"].append(meta(a, g["judgements"][-1]["judgement_id"], 0, "Winner: B"))
    assert run_recipe("meta_rewarding", noisy)[1] == pairs


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 5))
def test_d4_the_order_of_arrival_changes_nothing(random, seed: int) -> None:
    groups = planted_iteration(4)
    _, pairs = run_recipe("meta_rewarding", groups, seed=seed)
    mixed = [shuffled(g, random) for g in groups]
    random.shuffle(mixed)
    _, again = run_recipe("meta_rewarding", mixed, seed=seed)
    assert sorted(pairs, key=lambda p: p["pair_id"]) == sorted(again, key=lambda p: p["pair_id"])


def test_d10_reading_and_selecting_twice_is_the_same() -> None:
    groups = planted_iteration(4)
    before = json.dumps(groups)
    first, pairs = run_recipe("meta_rewarding", groups)
    assert json.dumps(groups) == before  # nothing is changed in place
    second, again = run_recipe("meta_rewarding", first)
    assert (second, again) == (first, pairs)


def test_elo_is_of_the_selected_response_that_was_compared() -> None:
    texts = {"calm": ("one", ["a\nScore: 3", "b\nScore: 4"]), "wild": ("two", ["c\nScore: 0", "d\nScore: 5"])}
    read = RECIPE.read(
        judged_group(texts, meta_judgements=[meta("calm-j0", "calm-j1", 0, "Winner: A")]), Settings(), CONTEXT
    )
    assert set(judgement_elo(read, (0.5, 0.5), CONTEXT)) == {"calm-j0", "calm-j1"}


def test_d3_unreadable_comparisons_move_the_judge_pair_to_no_other_response() -> None:
    texts = {"calm": ("one", ["a\nScore: 3", "b\nScore: 4"]), "wild": ("two", ["c\nScore: 0", "d\nScore: 5"])}
    calm = [meta("calm-j0", "calm-j1", 0, "Winner: A"), meta("calm-j0", "calm-j1", 1, "Winner: B")]
    wild = [meta("wild-j0", "wild-j1", 0, "Winner: B"), meta("wild-j0", "wild-j1", 1, "Winner: A")]
    (read,), pairs = run_recipe("meta_rewarding", [judged_group(texts, meta_judgements=calm + wild)])
    assert [p["chosen_from"] for p in pairs if p["kind"] == "judge"] == ["wild-j1"]
    mute = [{**m, "text": "no verdict"} for m in wild]
    (read,), pairs = run_recipe("meta_rewarding", [judged_group(texts, meta_judgements=calm + mute)])
    assert [p["kind"] for p in pairs] == ["actor"]
    assert judgement_elo(read, (0.5, 0.5), CONTEXT) == {}


def test_a_transformers_judge_has_no_structured_outputs():
    words = ["prompts=p.jsonl", "models.actor.engine=transformers", "method.structured=true"]
    with pytest.raises(ConfigError, match=r"method\.structured: needs judges on engine=vllm"):
        resolve("meta_rewarding", words, "cpu")


def test_records_that_name_the_first_shown_first_are_read_alike() -> None:
    """(a, b, 0) and (b, a, 1): the names are swapped already, so `order` must not swap them again."""
    ours = [("x", "y", 0), ("x", "y", 1)]
    theirs = [("x", "y", 0), ("y", "x", 1)]
    assert not lists_as_shown(ours)
    assert not lists_as_shown([("x", "y", 0), ("y", "x", 0)])
    assert not lists_as_shown([])
    assert lists_as_shown(theirs)


@given(st.lists(st.sampled_from(["Winner: A", "Winner: B", "Winner: tie", "?"]), min_size=6, max_size=6))
def test_both_ways_of_recording_an_order_give_the_same_battles(texts: list[str]) -> None:
    def group(swap_names: bool) -> Group:
        made: Any = {"prompt_id": "p", "iteration": 0, "messages": [], "gold": None, "meta": "{}", "dropped": None}
        made["samples"] = [{"sample_id": "s", "index": 0, "kind": "sample", "text": "t"}]
        made["judgements"] = [
            {"judgement_id": name, "sample_ids": ["s"], "order": 0, "index": i, "text": f"Score: {i}"}
            for i, name in enumerate("abc")
        ]
        calls = [(a, b, order) for a, b in ("ab", "ac", "bc") for order in (0, 1)]
        made["meta_judgements"] = [
            {"meta_id": str(i), "judgement_a": b if order and swap_names else a,
             "judgement_b": a if order and swap_names else b, "order": order, "text": text}
            for i, ((a, b, order), text) in enumerate(zip(calls, texts, strict=True))
        ]
        return made

    def key(battle: Any) -> tuple[str, str, int]:
        return (battle.first, battle.second, battle.result)

    assert sorted(map(key, battles(read_group(group(False))))) == sorted(map(key, battles(read_group(group(True)))))
