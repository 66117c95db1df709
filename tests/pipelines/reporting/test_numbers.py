"""The numbers of a report on planted groups and events, worked out by hand."""

from collections import Counter
from typing import Any

import pytest

from pipelines.records import Group, pairs_table
from pipelines.reporting.facts import group_facts, pair_shapes
from pipelines.reporting.numbers import distribution, iteration_numbers, length_correlation, thinned, training
from pipelines.reporting.problems import find_problems
from pipelines.reporting.timeline import costs, stages, state, updates
from tests.pipelines.planted import group, judgement, meta, run_recipe, sample
from tests.pipelines.reporting.planted_runs import plant


def compared(name: str, order: int, verdict: str | None) -> Any:
    status = "ok" if verdict else "ambiguous"
    return judgement(name, "y", "", sample_ids=["y", "z"], order=order, verdict=verdict, status=status)


def planted() -> Group:
    """Two scored samples, one cut off without a score; every sort of judgement."""
    samples = [
        sample("y", "one two three", 0, score=4.0), sample("z", "one", 1, score=1.0),
        sample("x", "cut", 2, finish_reason="length", kind="hot", thought=None),
    ]
    judgements = [
        judgement("1", "y", "", value=4.0, status="ok", elo=0.5), judgement("2", "z", "", status="missing"),
        compared("3", 0, "A"), compared("4", 1, "B"), compared("5", 0, "tie"), compared("6", 1, None),
    ]
    metas = [
        meta("1", "2", 0, "", winner="A", status="ok"), meta("1", "2", 1, "", winner="A", status="ok"),
        meta("2", "1", 0, "", winner="tie", status="ok"), meta("2", "1", 1, "", status="truncated"),
    ]
    return group("p", samples=samples, judgements=judgements, meta_judgements=metas, dropped="tied_scores")


def test_the_facts_of_a_group_are_counts() -> None:
    fact = group_facts(planted())
    assert (fact.prompt_id, fact.prompt, fact.dropped) == ("p", "Question p?", "tied_scores")
    assert fact.samples == (("sample", 4.0, 3, 13), ("sample", 1.0, 1, 3), ("hot", None, 1, 3))
    assert fact.scores == [4.0, 1.0]
    assert fact.elo == (0.5,)
    counts = {name: count for name, count in fact.counts.items() if count}
    assert counts == {
        "samples": 3, "truncated": 1, "tokens": 18, "judgement.ok": 4, "judgement.missing": 1, "judgement.ambiguous": 1,
        "compared": 3, "tied": 1, "decided": 2, "first": 2,  # A in order 0, B in order 1: both were shown first
        "both": 1, "flips": 1,  # the majority of order 0 is a tie, of order 1 it is B
        "meta.ok": 3, "meta.truncated": 1, "meta_tied": 1, "meta_decided": 2, "meta_first": 1,
    }


def test_a_group_that_is_not_selected_yet_has_the_scores_of_its_judgements() -> None:
    raw = {**planted(), "samples": [{**s, "score": None} for s in planted()["samples"]]}
    assert [s.score for s in group_facts(raw).samples] == [4.0, None, None]  # ty: ignore[invalid-argument-type]


def test_thoughts_are_not_counted_as_length() -> None:
    hidden = sample("y", "think: well. Four", thought="think: well. ")
    assert group_facts(group("p", samples=[hidden])).samples[0].chars == len("Four")


def test_an_iteration_adds_up_its_groups() -> None:
    facts = [group_facts(planted()), group_facts(group("q", samples=[sample("w", "a b", score=2.0)]))]
    marks: dict[str, Any] = {"train": {"steps": 1}, "sync": {"version": "v1"}}
    n = iteration_numbers(0, facts, {}, Counter(actor=2), [], marks)
    assert (n["groups"], n["samples"], n["truncated"], n["tokens"]) == (2, 4, 1, 20)
    assert n["kinds"] == {"hot": 1, "sample": 3}
    assert (n["scored"], n["mean_score"], n["mean_words"]) == (3, pytest.approx(7 / 3), pytest.approx(7 / 4))
    assert n["judge"] == {
        "total": 6, "statuses": {"ok": 4, "missing": 1, "ambiguous": 1, "out_of_range": 0, "truncated": 0},
        "tied": 1, "decided": 2, "first_position_rate": 1.0,
    }
    assert (n["meta_judge"]["first_position_rate"], n["meta_judge"]["tied"]) == (0.5, 1)
    assert (n["flips"], n["both"], n["dropped"], n["pairs"]) == (1, 1, {"tied_scores": 1}, {"actor": 2})
    assert n["sync"] == {"version": "v1"}


def test_an_iteration_of_nothing_has_no_rates() -> None:
    n = iteration_numbers(3, [], {}, Counter(), [], {})
    assert (n["groups"], n["mean_score"], n["judge"]["first_position_rate"]) == (0, None, None)
    assert n["length_correlation"] == {"r": None, "n": 0}
    assert find_problems([n], None, []) == []


def scored(*samples: tuple[float, int]) -> Any:
    texts = [sample(str(i), "a" * chars, i, score=score) for i, (score, chars) in enumerate(samples)]
    return group_facts(group("p", samples=texts))


def test_length_correlation_is_within_prompts() -> None:
    """Between the prompts longer is better, within them shorter is."""
    both = [scored((1.0, 20), (2.0, 10)), scored((4.0, 200), (5.0, 190))]
    assert length_correlation(both) == {"r": pytest.approx(-1.0), "n": 4}
    assert length_correlation([scored((1.0, 10), (1.0, 20), (1.0, 30))])["r"] is None
    assert length_correlation([scored((1.0, 10))]) == {"r": None, "n": 0}


def test_distributions_share_their_bins() -> None:
    few = distribution([[1.0, 2.0, 2.0], [], [4.0]])
    assert few is not None
    assert (few["values"], few["edges"], few["counts"]) == (True, [1, 2, 4], [[1, 2, 0], [0, 0, 0], [0, 0, 1]])
    assert few["quantiles"] == [[1.2, 1.5, 2.0, 2.0, 2.0], None, [4.0] * 5]
    assert (few["means"], few["n"]) == ([pytest.approx(5 / 3), None, 4.0], [3, 0, 1])
    many = distribution([[float(i) for i in range(100)], [99.0]])
    assert many is not None
    assert (many["values"], len(many["edges"]), many["counts"][0]) == (False, 21, [5] * 20)
    assert many["counts"][1] == [0] * 19 + [1]
    assert distribution([[], []]) is None


def test_long_curves_are_means_of_neighbours() -> None:
    assert thinned([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [[1, 2.0], [2, 5.0]]
    assert thinned([(0, 1.0)]) == [[0, 1.0]]
    assert thinned([]) == []


def step(number: int, loss: float | None, **other: Any) -> dict[str, Any]:
    return {"step": number, "loss": loss, "skipped": 0.0, "tokens": 10.0, "seconds": 2.0, **other}


def test_training_counts_each_step_once_and_keeps_what_went_wrong() -> None:
    metrics = [
        {"event": "start", "steps": 4, "first_step": 0}, step(0, 0.7), step(1, 9.9), step(2, 9.9),
        {"event": "start", "steps": 4, "first_step": 1}, step(1, 0.6),
        step(2, None, skipped=1.0, bad_pair_ids="pair-x"), step(3, 0.5, peak_memory_gib=2.0),
        {"event": "validation", "steps": 4, "loss": 0.55}, {"event": "validation", "steps": 4, "loss": None},
        {"event": "left_out", "reason": "too long", "count": 3}, {"event": "error", "message": "boom"},
    ]
    found = training(metrics)
    assert found["curves"] == {"loss": [[0, 0.7], [1, 0.6], [3, 0.5]]}
    assert (found["steps"], found["planned"], found["starts"], found["tokens"]) == (4, 4, 2, 40)
    assert found["skipped"] == [{"step": 2, "pair_ids": "pair-x"}]
    assert (found["validation"], found["errors"], found["peak_memory_gib"]) == ([[4, 0.55]], ["boom"], 2.0)
    numbers = iteration_numbers(0, [], {}, Counter(), metrics, {})
    titles = [(p.serious, p.title) for p in find_problems([numbers], None, [])]
    assert titles == [
        (True, "1 steps were not finite and not taken"), (True, "Training reported an error"),
        (False, "3 pairs were not trained on"),
    ]


# ---- stages


def event(at_s: int, kind: str, /, **fields: Any) -> dict[str, Any]:
    return {"time": f"2026-11-22T08:{at_s // 60:02d}:{at_s % 60:02d}.000+00:00", "kind": kind, **fields}


KILLED = [
    event(0, "models_ready"), event(1, "stage_started", iteration=0, stage="groups"), event(31, "bad_rows"),
    event(100, "models_ready"), event(101, "stage_started", iteration=0, stage="groups"),
    event(121, "stage_done", iteration=0, stage="groups", groups=10, already_there=6, tokens=400),
    event(121, "stage_started", iteration=0, stage="train"),
]
DONE = [
    event(181, "stage_done", iteration=0, stage="train", steps=5, seconds=50.0, tokens_per_s=20.0),
    event(182, "stage_started", iteration=0, stage="sync"),
    event(190, "stage_done", iteration=0, stage="sync", version="v1",
          models={"actor": {"prepare_s": 0.5, "load_s": 1}}),
]


def test_a_killed_stage_ends_at_the_last_event_before_the_next_start() -> None:
    first, second, third = stages(KILLED)
    assert (first["state"], first["seconds"], first["made"]) == ("killed", 30.0, {})
    assert (second["state"], second["seconds"], second["made"]) == ("done", 20.0, {"groups": 4, "tokens": 400})
    assert (third["state"], third["seconds"]) == ("running", None)
    failed = stages([*KILLED, event(130, "failed", error="x")])[-1]
    assert (failed["state"], failed["seconds"]) == ("failed", 9.0)


def test_costs_add_attempts_and_rate_those_that_made_tokens() -> None:
    groups, train, sync = costs(stages(KILLED + DONE))
    assert groups == {
        "stage": "groups", "attempts": 2, "seconds": 50.0, "share": 50 / 118, "tokens": 400, "tokens_per_s": 20.0
    }
    assert (train["seconds"], train["tokens"], train["tokens_per_s"]) == (60.0, 1000, 1000 / 60)
    assert (sync["seconds"], sync["tokens"], sync["tokens_per_s"]) == (8.0, None, None)
    assert updates(DONE) == [{"iteration": 0, "version": "v1", "model": "actor", "prepare_s": 0.5, "load_s": 1}]


def test_the_state_of_a_run() -> None:
    failed = [event(1, "failed", error="x")]
    assert [state(failed, True, False), state([], False, True), state(failed, False, False)] == [
        "finished", "running", "failed"
    ]
    assert state(KILLED, False, False) == "stopped"


# ---- problems


def numbers(**changes: Any) -> dict[str, Any]:
    """An iteration without any problem, but for the changes."""
    facts = [group_facts(g) for g in (scored_group(f"p{i}") for i in range(40))]
    return {**iteration_numbers(0, facts, {}, Counter(actor=40), [], {}), **changes}


def scored_group(name: str) -> Group:
    return group(name, samples=[sample(f"{name}y", "abc", 0, score=1.0), sample(f"{name}z", "abd", 1, score=2.0)])


def health(ok: int, missing: int = 0, decided: int = 0, rate: float | None = None) -> dict[str, Any]:
    by_status = {"ok": ok, "missing": missing, "ambiguous": 0, "out_of_range": 0, "truncated": 0}
    return {"total": ok + missing, "statuses": by_status, "tied": 0, "decided": decided, "first_position_rate": rate}


@pytest.mark.parametrize(
    ("changes", "title", "serious"),
    [
        ({"judge": health(85, 15)}, "15% of judgements cannot be read", False),
        ({"meta_judge": health(4, 6)}, "60% of meta-judgements cannot be read", True),
        ({"judge": health(100, 0, 100, 0.8)}, "Judgements favour a position", False),
        ({"flips": 20, "both": 40}, "50% of verdicts flip with the order", False),
        ({"length_correlation": {"r": 0.7, "n": 80}}, "Scores follow length", False),
        ({"truncated": 40}, "50% of samples are cut off", False),
        ({"pairs": {}, "dropped": {"tied_scores": 40}}, "No pair was made", True),
        ({"dropped": {"tied_scores": 25}}, "62% of prompts made no pair", False),
        ({"dropped": {"tied_scores": 38}}, "95% of prompts made no pair", True),
        ({"shapes": {"actor": {"chosen_chars_mean": 150.0, "rejected_chars_mean": 100.0}}},
         "Chosen actor texts are 1.5 times as long", False),
        ({"sync": {"judge_after": {"error": "no answer"}}}, "The live judge did not answer after the update", False),
    ],
)
def test_each_problem_is_found(changes: dict[str, Any], title: str, serious: bool) -> None:
    assert find_problems([numbers()], None, []) == []
    (problem,) = find_problems([numbers(**changes)], None, [])
    assert (problem.title, problem.serious, problem.iteration) == (title, serious, 0)


def test_few_observations_are_no_finding() -> None:
    few = {"judge": health(5, 0, 5, 1.0), "flips": 3, "both": 3, "length_correlation": {"r": 0.9, "n": 5}}
    assert find_problems([numbers(**few)], None, []) == []


def test_a_run_that_failed_and_one_that_was_resumed() -> None:
    failed = event(9, "failed", error="disk full")
    begun = event(10, "stage_started", iteration=0, stage="train")
    (problem,) = find_problems([], None, [failed])
    assert (problem.serious, problem.title, problem.detail) == (True, "The run failed", "disk full")
    (problem,) = find_problems([], None, [failed, begun])
    assert (problem.serious, problem.title) == (False, "The run failed and was resumed")


def test_scores_at_the_top_and_growing_samples() -> None:
    spread = distribution([[5.0] * 38 + [1.0, 2.0]])
    assert [p.title for p in find_problems([numbers()], spread, [])] == ["95% of scores are the highest"]
    grown = [numbers(mean_words=100.0), numbers(mean_words=160.0)]
    assert [p.title for p in find_problems(grown, None, [])] == ["Samples grew 1.6 times as long"]


def test_numbers_of_pairs_equal_what_selection_made() -> None:
    selected, pairs = run_recipe("meta_rewarding", [plant(n, 0) for n in range(8)])
    shapes = pair_shapes(pairs_table(pairs))
    actor = [p for p in pairs if p["kind"] == "actor"]
    margins = [(p["chosen_score"] or 0.0) - (p["rejected_score"] or 0.0) for p in actor]
    assert shapes["actor"]["margin_mean"] == pytest.approx(sum(margins) / len(actor))
    scores = sorted(score for g in selected for s in g["samples"] if (score := s.get("score")) is not None)
    assert sorted(score for g in selected for score in group_facts(g).scores) == scores
