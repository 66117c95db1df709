"""Correlations against scipy, by level, of recorded columns and of oracles."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from actors.speaker import Speaker
from pipelines.config import ConfigError
from pipelines.evaluation.base import Result, read_settings
from pipelines.evaluation.correlation import MEASURES, correlation
from pipelines.evaluation.judges.comparisons import Comparison
from pipelines.evaluation.judges.correlations import Scored, correlation_estimates
from pipelines.evaluation.judges.judge_correlation import JudgeCorrelation, drawn, read_items
from pipelines.evaluation.judges.live import live_judge
from pipelines.evaluation.sources import Judging, NoSpeaker
from pipelines.steps.rows import InputError
from tests.oracles import mute, rule
from tests.pipelines.evaluation.judges.judges import judging_of, write_rows


def run(data: str, judging: Any, *words: str) -> Result:
    return asyncio.run(JudgeCorrelation().run(data, judging, read_settings(JudgeCorrelation, list(words))))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_the_statistics_are_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.asarray(pairs, float).T
    if x.std() == 0 or y.std() == 0:
        assert {correlation(measure, x, y) for measure in MEASURES} == {None}
        return
    assert correlation("pearson", x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert correlation("spearman", x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert correlation("kendall", x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_levels_by_hand() -> None:
    items = [Scored("d1", "s", 1, 10), Scored("d1", "t", 2, 20), Scored("d1", "u", 3, 30),
             Scored("d2", "s", 1, 30), Scored("d2", "t", 2, 20), Scored("d2", "u", 3, 10),
             Scored("d3", "s", 2, 5), Scored("d3", "t", 2, 6), Scored("d3", "u", 2, None)]  # fmt: skip
    found = correlation_estimates(items)
    assert (found["summary spearman"].value, found["summary spearman"].n) == (0.0, 2)  # d3's gold does not vary
    assert found["dataset spearman"].n == 8
    means = [(4 / 3, 15.0), (2.0, 46 / 3), (3.0, 20.0)]  # of s, t, u
    assert found["system pearson"].value == pytest.approx(stats.pearsonr(*zip(*means, strict=True)).statistic)
    assert found["system spearman"].value == 1.0


def test_nothing_readable_and_nothing_that_varies_have_no_correlation() -> None:
    assert correlation_estimates([Scored("d", None, 1, None)])["spearman"].why == "no readable score"
    flat = correlation_estimates([Scored(str(i), None, i, 3.0) for i in range(5)])
    assert flat["dataset pearson"].value is None and flat["dataset pearson"].why
    assert "system pearson" not in flat and "summary pearson" not in flat


def test_recorded_columns_of_summeval(shared_data: Path) -> None:
    data = str(shared_data / "summeval/summaries.parquet")
    result = run(data, None, "gold=coherence", "score=relevance")
    rows = pq.read_table(data).to_pylist()
    gold, scores = ([row[name] for row in rows] for name in ("coherence", "relevance"))
    found = {name: estimate.value for name, estimate in result.estimates.items()}
    assert found["dataset spearman"] == pytest.approx(stats.spearmanr(gold, scores).statistic)
    assert found["dataset kendall"] == pytest.approx(stats.kendalltau(gold, scores).statistic)
    by_doc: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_doc.setdefault(row["doc_id"], []).append(i)
    mean = np.mean([stats.spearmanr([gold[i] for i in d], [scores[i] for i in d]).statistic for d in by_doc.values()])
    assert found["summary spearman"] == pytest.approx(mean)
    by_system: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_system.setdefault(row["system"], []).append(i)
    means = [[np.mean([side[i] for i in s]) for s in by_system.values()] for side in (gold, scores)]
    assert found["system pearson"] == pytest.approx(stats.pearsonr(*means).statistic)
    assert (result.rows, result.estimates["summary spearman"].n, result.estimates["system kendall"].n) == (1120, 70, 16)
    low, high = result.estimates["system spearman"].interval or (2, -2)
    assert low < found["system spearman"] < high  # ty: ignore[unsupported-operator]
    assert sum(row["given"] for row in result.tables["scores"]) == 1120


def test_summeval_is_shown_the_article_and_drawn_by_document(shared_data: Path) -> None:
    data = str(shared_data / "summeval/summaries.parquet")
    items, gold = read_items(data, read_settings(JudgeCorrelation, ["gold=fluency"]))
    assert gold == "fluency" and len(items) == 1120
    assert items[0].prompt.startswith("Summarise this article") and len(items[0].prompt) > 1000
    some = drawn(items, 40, 0)
    assert len(some) == 48 and len({item.group for item in some}) == 3
    assert drawn(items, 40, 0) == some != drawn(items, 40, 1)


@pytest.mark.parametrize("words", [[], ["fast=true"], ["protocol=rubric:0-10"], ["protocol=single"]])
def test_a_judge_who_knows_correlates(tmp_path: Path, words: list[str]) -> None:
    texts = [(f"Question {i}?", f"{'good' if i % 2 else 'poor'} reply {i}") for i in range(12)]
    rows = [{"prompt": prompt, "response": text, "gold": i % 2} for i, (prompt, text) in enumerate(texts)]
    data, settings = write_rows(tmp_path / "rows.jsonl", rows), read_settings(JudgeCorrelation, words)
    made = [Comparison(i, prompt, text, "", "A") for i, (prompt, text) in enumerate(texts)]
    result = asyncio.run(JudgeCorrelation().run(data, judging_of(made, rule(), settings), settings))
    assert result.estimates["dataset spearman"].value == pytest.approx(1.0)
    assert (result.judge, result.weight_version, result.abstentions) == ("oracle", "v0", {})
    assert result.estimates["scores at the most frequent"].value == 0.5
    quiet = asyncio.run(JudgeCorrelation().run(data, judging_of(made, mute(1.0, rule()), settings), settings))
    assert quiet.abstentions == {"missing": 12} and quiet.estimates["spearman"].n == 0


@pytest.mark.parametrize(
    ("rows", "words", "error", "message"),
    [
        ([{"prompt": "p", "response": "r"}], [], ConfigError, "give --judge"),
        ([{"prompt": "p", "response": "r", "x": 1}], ["score=x"], InputError, "no column of gold scores"),
        ([{"prompt": "p", "response": "r", "gold": 1}], ["score=x"], InputError, "no column of scores called x"),
        ([{"gold": "4", "score": 1}], ["score=score"], InputError, "gold: is text"),
        ([{"gold": 4, "score": 1}], ["score=score", "protocol=pairwise"], ConfigError, "compares two"),
    ],
)  # fmt: skip
def test_what_cannot_be_correlated_is_named(
    tmp_path: Path, rows: list[Any], words: list[str], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        run(write_rows(tmp_path / "rows.jsonl", rows), None, *words)


async def test_a_live_judge_scores_texts_one_by_one(tmp_path: Path) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        (text,) = body["responses"]
        vote = {"responses": [0], "order": 0, "status": "ok", "score": float(len(text)), "verdict": None}
        return httpx.Response(200, json={"votes": [vote], "weight_version": "v2"})

    rows = [{"prompt": f"p{i}", "response": "x" * i, "gold": i * i} for i in range(1, 5)]
    data, settings = write_rows(tmp_path / "rows.jsonl", rows), read_settings(JudgeCorrelation, ["protocol=additive"])
    async with live_judge("http://judge.test", httpx.MockTransport(handler)) as live:
        judging = Judging(live.name, "v2", cast(Speaker, NoSpeaker(live.name)), live)
        result = await JudgeCorrelation().run(data, judging, settings)
    assert result.estimates["dataset spearman"].value == 1.0
    assert (result.weight_version, result.judge) == ("v2", "http://judge.test")
