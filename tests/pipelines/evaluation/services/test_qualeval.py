"""Weak attributes end to end: recorded affinities, an oracle that knows each task's topic, and prompts for a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ConfigError
from pipelines.steps.make_prompts import read_prompts
from pipelines.steps.rows import InputError
from tests.pipelines.evaluation.services.told import evaluate, judging, rows_file, tag

TOPICS = ["algebra", "geometry", "reading tables"]


def names_file(folder: Path, names: list[str]) -> str:
    path = folder / "names.json"
    path.write_text(json.dumps(names), encoding="utf-8")
    return str(path)


def recorded() -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "correct": correct, "affinities": a} for i, (correct, a) in
            enumerate([(True, [5, 4]), (False, [5, 1]), (True, [5, 4]), (False, [5, 2])])]  # fmt: skip


def test_recorded_affinities_are_assigned_without_asking(tmp_path: Path) -> None:
    """Priors 20 : 11 want 2.6 and 1.4 items, so 3 and 1 within the slack: 5 + 5 + 5 + 4."""
    out = tmp_path / "weak.jsonl"
    result = evaluate("qualeval", rows_file(tmp_path, recorded()), attributes=names_file(tmp_path, ["a", "b"]),
                      per_item=1, prompts_out=str(out), prompts=2)  # fmt: skip
    rows = {row["attribute"]: row for row in result.tables["attributes"]}
    assert (rows["a"]["items"], rows["a"]["score"], rows["a"]["weight"]) == (3, pytest.approx(1 / 3), 1.0)
    assert (rows["b"]["items"], rows["b"]["score"], rows["b"]["weight"]) == (1, 1.0, 0.0)
    assert rows["a"]["prior"] == pytest.approx(20 / 31)
    assert result.estimates["affinity of an assignment"].value == 19 / 4 and result.judge is None
    assert "widened from 0.1" in result.notes[0]
    prompts = read_prompts(str(out)).groups  # what `appellate run prompts=FILE` reads
    assert len(prompts) == 2 and {json.loads(p["meta"])["attribute"] for p in prompts} == {"a"}


def oracle(text: str, index: int) -> str:
    """Lists the topics of the tasks shown, and scores 5 for the task's own topic, else 1."""
    if "The tasks are only examples" in text:
        return "\n".join(f"- {topic}" for topic in TOPICS if f"about {topic}" in text)
    task = tag(text, "answer") if "<answer>\n" in text else tag(text, "task")
    if "<attribute>\n" in text:
        return f"Seen.\nScore: {5 if 'about ' + tag(text, 'attribute') in task else 1}"
    names = [line.partition(". ")[2] for line in text.split("<task>")[0].split("\n") if line[:1].isdigit()]
    return "\n".join(f"{i}. Seen. Score: {5 if f'about {n}' in task else 1}" for i, n in enumerate(names, 1))


def tasks(count: int = 12) -> list[dict[str, Any]]:
    return [{"prompt": f"Task {i} is about {TOPICS[i % 3]}.", "score": [0.2, 0.9, 0.5][i % 3], "gold": str(i)}
            for i in range(count)]  # fmt: skip


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_model_finds_the_topics_and_where_scores_are_low(one_by_one: bool, tmp_path: Path) -> None:
    out, weak = tmp_path / "affinities.jsonl", tmp_path / "weak.jsonl"
    judge, engine = judging(oracle)
    data = rows_file(tmp_path, tasks())
    result = evaluate("qualeval", data, judge, one_by_one=one_by_one, per_item=1, affinities_out=str(out),
                      prompts_out=str(weak), prompts=4)  # fmt: skip
    report = result.tables["attributes"]
    assert [(row["attribute"], row["items"], row["score"]) for row in report] == [
        ("algebra", 4, pytest.approx(0.2)), ("reading tables", 4, pytest.approx(0.5)),
        ("geometry", 4, pytest.approx(0.9))]  # fmt: skip
    assert [row["weight"] for row in report] == pytest.approx([7 / 11, 4 / 11, 0])
    found = [json.loads(p["meta"])["attribute"] for p in read_prompts(str(weak)).groups]
    assert sorted(found) == ["algebra"] * 3 + ["reading tables"]
    assert read_prompts(str(weak)).groups[0]["gold"] is not None
    again = evaluate("qualeval", out, attributes=str(tmp_path / "affinities.attributes.json"), per_item=1)
    shown = [{k: v for k, v in row.items() if k != "weight"} for row in again.tables["attributes"]]
    assert shown == [{k: v for k, v in row.items() if k != "weight"} for row in report]
    assert len(engine.asked) == 3 + (36 if one_by_one else 12)


def test_what_the_models_own_answer_is_about_is_held_against_the_task(tmp_path: Path) -> None:
    rows = [{**row, "response": f"It is about {TOPICS[0]}."} for row in tasks(6)]
    result = evaluate("qualeval", rows_file(tmp_path, rows), judging(oracle)[0], per_item=1)
    found = {row["attribute"]: row["divergence"] for row in result.tables["attributes"]}
    assert found == pytest.approx({"algebra": 4 / 6, "geometry": 2 / 6, "reading tables": 2 / 6})


def test_an_incomplete_list_is_asked_for_again_and_then_abstains(tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    def forgetful(text: str, index: int) -> str:
        if "Answer with one numbered line" not in text:
            return oracle(text, index)
        task = tag(text, "task")
        seen[task] = seen.get(task, 0) + 1
        return "1. Score: 3" if "Task 0" in task or seen[task] == 1 else oracle(text, index)

    result = evaluate("qualeval", rows_file(tmp_path, tasks()), judging(forgetful)[0], retries=2, per_item=1)
    assert result.abstentions == {"affinities missing": 1} and seen["Task 0 is about algebra.\n\nAnswer: 0"] == 3
    assert sum(row["items"] for row in result.tables["attributes"]) == 11


def test_long_lists_of_names_are_shortened_in_rounds(tmp_path: Path) -> None:
    def many(text: str, index: int) -> str:
        if "The tasks are only examples" in text:
            chunk = tag(text, "task").split()[1]
            return "\n".join(f"{word} {chunk}" for word in ["counting", "weighing", "sorting", "naming"])
        if "Shorten the list" in text:
            return "counting 4\ninvented"
        return oracle(text, index)

    judge, engine = judging(many)
    result = evaluate("qualeval", rows_file(tmp_path, tasks(10)), judge, candidates=3, keep=2)
    assert len(result.tables["attributes"]) == 2
    assert not any("invented" in text for text in engine.asked if "Shorten" not in text)


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        ([{"prompt": "p"}], {}, InputError, "affinities: is missing"),
        ([{"prompt": "p", "affinities": [6]}], {}, InputError, "not from 1 to 5"),
        ([{"prompt": "p", "affinities": [3]}], {}, ConfigError, "attributes=FILE is needed"),
        ([{"prompt": "p", "affinities": [3]}], {"attributes": ["a", "b"]}, InputError, "item 1 has 1 affinities to 2"),
        ([{"prompt": "p", "affinities": [3, 3]}], {"attributes": ["a", "a"]}, InputError, "names an attribute twice"),
    ],
)
def test_recorded_rows_that_cannot_be_used(
    rows: list[dict], settings: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if "attributes" in settings:
        settings = {"attributes": names_file(tmp_path, settings["attributes"])}
    with pytest.raises(error, match=message):
        evaluate("qualeval", rows_file(tmp_path, rows), **settings)


def test_a_model_that_says_nothing_readable(tmp_path: Path) -> None:
    data = rows_file(tmp_path, tasks(4))
    with pytest.raises(InputError, match="listed no sub-tasks"):
        evaluate("qualeval", data, judging(lambda text, i: "")[0])
    with pytest.raises(InputError, match="no item has a readable affinity to all 3 attributes"):
        evaluate("qualeval", data, judging(lambda text, i: "Hm.")[0], attributes=names_file(tmp_path, TOPICS))


def test_rows_without_scores_say_so(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "affinities": [1 + i, 5 - i]} for i in range(4)]
    result = evaluate("qualeval", rows_file(tmp_path, rows), attributes=names_file(tmp_path, ["a", "b"]))
    assert result.estimates["score"].value is None and any("no row has a score" in note for note in result.notes)
