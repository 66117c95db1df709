import json

from pipelines.steps.accounting import accounting
from tests.pipelines.planted import judged_group, judgement, meta, run_recipe


def test_d9_everything_is_counted() -> None:
    said = ["a\nScore: 5", "b\nScore: 3", "Score: 3-4", "Score: 9", "none"]
    calls = [meta("y-j0", "y-j1", 0, "Winner: A"), meta("y-j0", "y-j1", 1, "Winner: A"),
             meta("y-j0", "y-j1", 0, "Winner: tie"), meta("y-j0", "y-j1", 1, "none")]  # fmt: skip
    planted = judged_group({"y": ("long", said), "z": ("no", ["Score: 1"])}, "p1", meta_judgements=calls)
    planted["judgements"].append(judgement("cut", "z", "Score:", status="truncated"))
    tied = judged_group({"y": ("one", ["Score: 3"]), "z": ("two", ["Score: 3"])}, "p2")
    report = accounting(*run_recipe("meta_rewarding", [planted, tied]))
    assert report["groups"] == 2
    assert report["judgements"]["total"] == 9
    assert report["judgements"]["counts"] == {"ok": 5, "missing": 1, "ambiguous": 1, "out_of_range": 1, "truncated": 1}
    assert report["judgements"]["rates"]["ok"] == 5 / 9
    assert report["meta_judgements"]["counts"]["missing"] == 1
    assert (report["meta_judgements"]["ties"], report["meta_judgements"]["first_position_rate"]) == (1, 1.0)
    assert (report["tied_prompts"], report["dropped"], report["pairs"]) == (1, {"tied_scores": 1}, {"actor": 1})
    assert report["by_kind"] == {
        "actor": {
            "chosen_chars_mean": 4.0,
            "rejected_chars_mean": 2.0,
            "margin_mean": 3.0,
            "margin_histogram": {"3": 1},
        }
    }
    assert json.loads(json.dumps(report)) == report


def test_distinct_samples_without_a_judgement_are_counted() -> None:
    texts = {"a": ("one", ["Score: 3", "mute"]), "b": ("two", []), "b'": ("two ", []), "c": ("three", ["mute"])}
    unread = judged_group({"d": ("one", []), "e": ("two", [])}, "q")
    compared = judged_group({"f": ("one", []), "g": ("two", []), "h": ("three", [])}, "r")
    compared["judgements"].append(judgement("fg", "f", "Winner: A", sample_ids=["f", "g"]))
    assert accounting([judged_group(texts), unread, compared], [])["unjudged_samples"] == 1 + 2 + 1
    assert accounting([unread], [])["unjudged_samples"] is None  # as in a method without a judge


def test_nothing_has_no_rates() -> None:
    report = accounting([], [])
    assert report["judgements"]["rates"]["ok"] is None
    assert report["meta_judgements"]["first_position_rate"] is None
    assert (report["pairs"], report["dropped"], report["by_kind"]) == ({}, {}, {})
