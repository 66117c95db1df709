"""An evaluation of a real model from the command line: a result, and nothing else, on standard output."""

import json

import pytest

from tests.e2e.commands import run_cli

pytestmark = pytest.mark.slow


def test_a_model_judges_in_both_orders_and_the_result_is_json_alone(tmp_path) -> None:
    rows = [{"prompt": f"Name the number after {n}.", "response_a": str(n + 1), "response_b": "A tree.", "label": "A"}
            for n in range(4)]
    data, kept = tmp_path / "rows.jsonl", tmp_path / "kept.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["eval", "judge-accuracy", "--data", str(data), "--judge", "smollm2-135m-instruct", "--profile", "cpu"]
    result = run_cli(*words, "--json", "--out", str(kept), "fast=true")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert found == json.loads(kept.read_text())
    assert (found["rows"], found["judge"], found["weight_version"]) == (4, "smollm2-135m-instruct", "v0")
    assert found["estimates"]["readable"] == {**found["estimates"]["readable"], "value": 1.0, "n": 8}
    assert not result.stderr.strip()
