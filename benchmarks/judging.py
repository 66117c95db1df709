"""What a judge without a rationale costs in accuracy and saves in time, on labelled pairs.

    python -m benchmarks.judging --data llmbar.jsonl --rows 40

The same checkpoint, in one engine, judges the same rows in both orders twice: writing its reasons (held to a readable
verdict), and by the probabilities of its first token. Writes benchmarks/results/judging-NAME.json and prints it as one
JSON line; `seconds_ratio` is the time with reasons over that without.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.evaluation import ROOT, machine, write
from pipelines.evaluation.base import Result
from pipelines.evaluation.judges.judge_accuracy import AccuracySettings, JudgeAccuracy
from pipelines.evaluation.sources import Judging, open_judge
from pipelines.manifest import made_with

SHOWN = ("accuracy", "accuracy_ties_half", "right_in_both_orders", "flip_rate", "first_position_rate", "ties",
         "readable", "decision_accuracy", "length_correlation")  # fmt: skip


async def compare(data: str, judge: str, rows: int, seed: int, profile: str | None) -> dict[str, Any]:
    """Both ways on the same rows; a judgement before each warms the engine up and is not timed."""
    ways = {"reasons": {"structured": True, "max_tokens": 256}, "fast": {"fast": True}}
    found: dict[str, Any] = {}
    async with open_judge(judge, profile) as judging:
        for name, how in ways.items():
            settings = AccuracySettings.model_validate({"limit": rows, "seed": seed, **how})
            await _timed(data, judging, settings.model_copy(update={"limit": 1}))
            result, seconds = await _timed(data, judging, settings)
            numbers = {key: result.estimates[key].value for key in SHOWN}
            found[name] = {**numbers, "accuracy_interval": result.estimates["accuracy"].interval,
                           "abstentions": result.abstentions, "seconds": round(seconds, 2)}
    lost = found["reasons"]["accuracy"] - found["fast"]["accuracy"]
    ratio = found["reasons"]["seconds"] / found["fast"]["seconds"]
    return {"bench": "judging", "data": Path(data).name, "data_hash": result.data_hash, "rows": result.rows,
            "judge": judge, **found, "machine": machine(), **made_with(seed, settings.model_dump(mode="json")),
            "accuracy_lost": round(lost, 4), "seconds_ratio": round(ratio, 2)}


async def _timed(data: str, judging: Judging, settings: AccuracySettings) -> tuple[Result, float]:
    start = time.perf_counter()
    result = await JudgeAccuracy().run(data, judging, settings)
    return result, time.perf_counter() - start


def main() -> None:
    """Write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labelled pairs, as judge-accuracy reads them")
    parser.add_argument("--judge", default="smollm2-135m-instruct", help="a checkpoint or a run")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default=None)
    arguments = parser.parse_args()
    result = asyncio.run(
        compare(arguments.data, arguments.judge, arguments.rows, arguments.seed, arguments.profile)
    )
    target = ROOT / "benchmarks" / "results" / f"judging-{Path(arguments.data).stem}.json"
    target.parent.mkdir(exist_ok=True)
    write(target, result)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
