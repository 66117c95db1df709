"""How sound a run's judge is, before training and after every iteration, on real comparisons with known labels.

    python -m benchmarks.health runs/2026-11-22-a --data DATA

DATA holds llmbar/llmbar.jsonl, judgebench/pairs.parquet and autoj/pairwise_test.parquet (prompt, response_a,
response_b, label). The judge is asked by the protocol of the run's recipe, greedily and in both orders. Writes
benchmarks/results/health-NAME.json and prints it as one JSON line.
"""

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks.evaluation import ROOT, ask, machine, request_of, start_folder, trained, write
from pipelines.config import dump, load_dump
from pipelines.ledger import Ledger
from pipelines.manifest import made_with

SETS = ("llmbar/llmbar.jsonl", "judgebench/pairs.parquet", "autoj/pairwise_test.parquet")
NEEDED = ("prompt", "response_a", "response_b", "label")


def read_set(file: Path, count: int) -> list[dict[str, str]]:
    """`count` of the rows, the same ones every time."""
    import pyarrow.parquet as pq

    if file.suffix == ".parquet":
        rows = pq.read_table(file, columns=list(NEEDED)).to_pylist()
    else:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    rows = [{key: row[key] for key in NEEDED} for row in rows]
    return random.Random(file.name).sample(rows, min(count, len(rows)))


def health(run: str, data: Path, count: int) -> dict[str, Any]:
    """Numbers of every weight version on every set."""
    ledger = Ledger.open(run)
    config = load_dump(ledger.read_config())
    summary = ledger.finished()
    if summary is None:
        raise SystemExit(f"{run}: is not finished; go on with `appellate resume {run}`")
    folders = {"v0": start_folder(config), **trained(summary["iterations"])[1]}
    log = ROOT / "benchmarks" / "results" / f"health-{Path(ledger.path).name}.log"
    log.parent.mkdir(exist_ok=True)
    found: dict[str, Any] = {}
    for name in SETS:
        request = {**request_of(config, read_set(data / name, count)), "checkpoints": folders}
        for version, numbers in ask(request, Path(ledger.path), log).items():
            said = {key: value for key, value in numbers.items() if key not in ("points", "examples")}
            found.setdefault(version, {})[name.split("/")[0]] = said
    return {"bench": "health", "recipe": config.recipe, "rows": count, "versions": found, "machine": machine(),
            **made_with(config.seed, dump(config))}


def main() -> None:
    """Write the result and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100, help="of each set")
    arguments = parser.parse_args()
    result = health(arguments.run, arguments.data, arguments.rows)
    write(ROOT / "benchmarks" / "results" / f"health-{Path(arguments.run).name}.json", result)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
