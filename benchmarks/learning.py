"""Do the recipes make a small model better? Held-out accuracy before training and after every iteration.

    python -m benchmarks.learning --pick-fair             # once, before any training: how hard the fair task is
    python -m benchmarks.learning --bench irpo --seed 0   # one seed, and its controls
    python -m benchmarks.learning                         # every bench, seeds 0 to 2: many hours on two cores

A run is `appellate run` with the settings in benchmarks/settings. Controls repeat it with preferences that mean nothing
(`shuffled`, and on request `turned`: benchmarks/controls.py), and with supervised training on the chosen side alone
(`sft`). Results and logs are kept in benchmarks/results: what is there is not made again, and a run that was stopped
goes on. The last line is JSON.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import arithmetic
from benchmarks.evaluation import ROOT, ask, command, machine, request_of, start_folder, trained, write
from benchmarks.scoring import gain_interval, mean
from pipelines.config import ConfigError, RunConfig, dump, resolve
from pipelines.ledger import Ledger
from pipelines.manifest import made_with
from pipelines.recipes import get_recipe

FAIR_RANGE = (0.15, 0.30)
HELD_OUT_SEED = 1_000_003  # the same held-out rows for every seed
MEANINGLESS_MAY_GAIN = 0.05
CONTROLS = ("none", "shuffled", "turned", "sft")
MEANINGLESS = ("shuffled", "turned")
SMOKE = ("prompts_limit=4", "iterations=1")


@dataclass(frozen=True)
class Bench:
    """A recipe on a task, and what must come of it."""

    task: str  # hard, fair; verdicts, scores: to judge answers to the fair task's problems; gsm8k
    must_reach: float = 0.0  # by the last iteration
    must_gain: float = 0.0  # over the start model
    lead: str = "Final answer: "  # of the last line of an answer, as the recipe's prompt asks for it
    controls: tuple[str, ...] = ("none", "shuffled", "sft")
    sft: str = "training.loss=sft"  # what leaves of the method the training on chosen sides alone

    @property
    def judges(self) -> bool:
        """Whether the model learns to judge, not to answer."""
        return self.task in ("verdicts", "scores")

    @property
    def metric(self) -> str:
        """The number that must rise."""
        return "accuracy" if self.judges else "greedy"


BENCHES = {
    "irpo": Bench("hard", must_reach=0.5),
    "scpo": Bench("fair", must_gain=0.1),
    "self_taught_evaluator": Bench("verdicts", must_gain=0.15, sft="method.variant=sft"),
    "self_rationalization": Bench("scores", must_gain=0.15),
    "irpo-gsm8k": Bench("gsm8k", controls=("none",)),  # real data, reported as measured
}
DEFAULT = ("irpo", "scpo", "self_taught_evaluator")


@dataclass(frozen=True)
class Setup:
    """Where things are, and how much is tested."""

    work: Path
    results: Path
    gsm8k: Path | None
    test_rows: int = 200
    words: tuple[str, ...] = ()  # settings of every run: those of a smoke test

    def config(self, name: str, *words: str) -> RunConfig:
        """A bench's resolved settings."""
        try:
            return resolve(settings_file(name), [*words, *self.words], "cpu")
        except ConfigError as error:
            raise SystemExit(f"{settings_file(name)}: {error}") from None

    @cached_property
    def fair(self) -> arithmetic.Difficulty:
        """The difficulty that was chosen from the start model alone."""
        if self.words:
            return arithmetic.CANDIDATES["to9"]
        chosen = self.results / "learning-fair.json"
        if not chosen.exists():
            raise SystemExit(f"{chosen} is not there; measure the start model first, with --pick-fair")
        return arithmetic.CANDIDATES[json.loads(chosen.read_text("utf-8"))["chosen"]]

    def difficulty(self, task: str) -> arithmetic.Difficulty:
        """Of the stories of a task."""
        return arithmetic.HARD if task == "hard" else self.fair

    def rows(self, task: str, split: arithmetic.Split, count: int, seed: int) -> list[dict[str, str]]:
        """Rows of a prompts file to train on, or rows with their gold answer or label to test with."""
        if task == "gsm8k":
            return gsm8k_rows(self.gsm8k, split, count)
        if task in ("hard", "fair"):
            return [problem.row for problem in arithmetic.problems(self.difficulty(task), split, count, seed)]
        if split == "test":
            return arithmetic.labelled(arithmetic.comparisons(self.fair, split, count, seed))
        if task == "scores":
            return arithmetic.ratings(arithmetic.comparisons(self.fair, split, count // 2, seed))
        return arithmetic.comparisons(self.fair, split, count, seed)


def settings_file(name: str) -> str:
    """The settings of a bench, as `appellate run` reads them."""
    return str(ROOT / "benchmarks" / "settings" / f"{name}.yaml")


def gsm8k_rows(folder: Path | None, split: str, count: int) -> list[dict[str, str]]:
    """The first problems of GSM8K, from a folder with train.parquet and test.jsonl (question, final_answer)."""
    import pyarrow.parquet as pq

    if folder is None or not folder.is_dir():
        raise SystemExit("the bench on GSM8K needs --gsm8k FOLDER, with train.parquet and test.jsonl in it")
    if split == "train":
        found = pq.read_table(folder / "train.parquet").slice(0, count).to_pylist()
    else:
        found = [json.loads(line) for line in (folder / "test.jsonl").read_text("utf-8").splitlines()[:count]]
    return [{"prompt": row["question"], "gold": row["final_answer"]} for row in found]


def run_bench(name: str, seed: int, control: str, setup: Setup) -> dict[str, Any]:
    """One run of one seed and its evaluation; the result is written when both are complete."""
    bench, begun = BENCHES[name], time.monotonic()
    title = f"learning-{name}-{bench.task}-seed{seed}" + ("" if control == "none" else f"-{control}")
    target, log, run = setup.results / f"{title}.json", setup.results / f"{title}.log", setup.work / title
    if target.exists():
        return json.loads(target.read_text("utf-8"))
    data = setup.work / f"{title}.jsonl"
    words = [f"prompts={data}", f"seed={seed}", f"name={title}", f"runs_dir={setup.work}"]
    words += [bench.sft] if control == "sft" else []
    config = setup.config(name, *words)
    rounds = 1 if get_recipe(config.recipe).reuse_prompts else config.iterations
    rows = setup.rows(bench.task, "train", (config.prompts_limit or 1) * rounds, seed)
    if control in MEANINGLESS and bench.judges:  # the labels are in the rows
        rows = arithmetic.shuffled(rows, seed)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    program = ["benchmarks.controls", control] if control in MEANINGLESS and not bench.judges else ["appellate"]
    how = ["resume", str(run)] if run.is_dir() else ["run", settings_file(name), *words, *setup.words, "profile=cpu"]
    command([*program, *how], log)
    run_s = time.monotonic() - begun

    ledger = Ledger.open(str(run))
    iterations = measure(bench, config, ledger, setup, log)
    result = {
        "bench": "learning", "recipe": config.recipe, "task": bench.task, "seed": seed, "control": control,
        **judged(bench, control, iterations[0], iterations[-1]), "iterations": iterations,
        "wall_s": round(time.monotonic() - begun), "run_s": round(run_s),
        "train_rows": len(rows), "test_rows": setup.test_rows, "held_out_seed": HELD_OUT_SEED,
        "difficulty": None if bench.task == "gsm8k" else repr(setup.difficulty(bench.task)),
        "machine": machine(), **made_with(seed, dump(config)),
        "settings": {**dump(config), "prompts": data.name, "runs_dir": setup.work.name},
    }
    write(target, result)
    log.write_text(log.read_text("utf-8").replace(f"{ROOT}/", "").replace(str(Path.home()), "~"), encoding="utf-8")
    for iteration in ledger.iterations():  # a quarter of a gigabyte each, and the numbers are in
        shutil.rmtree(ledger.checkpoint_dir(iteration), ignore_errors=True)
    return result


def measure(bench: Bench, config: RunConfig, ledger: Ledger, setup: Setup, log: Path) -> list[dict[str, Any]]:
    """The start model, then every iteration: numbers, gain over the start with its interval, what the iteration did."""
    rows = setup.rows(bench.task, "test", setup.test_rows, HELD_OUT_SEED)
    request = request_of(config, rows, bench.lead, vote=True)
    start = ask({**request, "checkpoints": {"v0": start_folder(config)}}, setup.work, log)["v0"]
    iterations = (ledger.finished() or {})["iterations"]
    versions, folders = trained(iterations)
    found = {"v0": start, **ask({**request, "checkpoints": folders}, Path(ledger.path), log)}
    out: list[dict[str, Any]] = [{"weights": "v0", **start}]
    for item, version in zip(iterations, versions, strict=True):
        numbers = found[version]
        out.append({
            "weights": version, **numbers, "gain": round(numbers[bench.metric] - start[bench.metric], 4),
            "interval": [round(end, 4) for end in gain_interval(start["points"], numbers["points"])],
            "pairs": item["pairs"], "seconds": stage_seconds(ledger, item["iteration"]),
            "training": {k: v for k, v in (item["training"] or {}).items() if isinstance(v, (int, float))},
        })
    for item in out:
        with log.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{item['weights']} says: {text!r}\n" for text in item.pop("examples"))
        item["points"] = "".join(f"{2 * point:.0f}" for point in item["points"])  # twice each row's points
    return out


def stage_seconds(ledger: Ledger, iteration: int) -> dict[str, int]:
    """How long each stage of an iteration took, from when it was last begun."""
    begun: dict[str, datetime] = {}
    seconds = {}
    for event in ledger.events():
        if event.get("iteration") != iteration or event["kind"] not in ("stage_started", "stage_done"):
            continue
        now = datetime.fromisoformat(event["time"])
        if event["kind"] == "stage_started":
            begun[event["stage"]] = now
        else:
            seconds[event["stage"]] = round((now - begun[event["stage"]]).total_seconds())
    return seconds


def judged(bench: Bench, control: str, start: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """Start, end and gain, and whether that is what was asked: None where nothing is."""
    gain = round(last[bench.metric] - start[bench.metric], 4)
    reached = gain <= MEANINGLESS_MAY_GAIN if control in MEANINGLESS else None
    if control == "none" and (bench.must_reach or bench.must_gain):
        reached = last[bench.metric] >= bench.must_reach and gain >= bench.must_gain
        if bench.task == "fair":
            reached = reached and last["majority_of_8"] >= start["majority_of_8"]
    return {"metric": bench.metric, "start": start[bench.metric], "last": last[bench.metric], "gain": gain,
            "reached": reached}


def pick_fair(setup: Setup) -> dict[str, Any]:
    """Measure the start model on training problems of each candidate; the one nearest the middle of the range wins."""
    target = setup.results / "learning-fair.json"
    if target.exists():
        raise SystemExit(f"{target} is there: the fair task is chosen once")
    config, count = setup.config("scpo", "prompts=none"), setup.test_rows
    drawn = [arithmetic.problems(candidate, "train", count, HELD_OUT_SEED)
             for candidate in arithmetic.CANDIDATES.values()]
    rows = [problem.row for problems in drawn for problem in problems]
    request = {**request_of(config, rows, BENCHES["scpo"].lead), "checkpoints": {"v0": start_folder(config)}}
    points = ask(request, setup.work, target.with_suffix(".log"))["v0"]["points"]
    greedy = {name: mean(points[i * count:(i + 1) * count]) for i, name in enumerate(arithmetic.CANDIDATES)}
    low, high = FAIR_RANGE
    fit = {name: value for name, value in greedy.items() if low <= value <= high}
    if not fit:
        raise SystemExit(f"no candidate is between {low:.0%} and {high:.0%}: {greedy}")
    chosen = min(fit, key=lambda name: abs(fit[name] - (low + high) / 2))
    result = {"bench": "learning-fair", "greedy": greedy, "problems": count, "seed": HELD_OUT_SEED, "chosen": chosen,
              "difficulty": repr(arithmetic.CANDIDATES[chosen]), "machine": machine(), **made_with(0, dump(config))}
    write(target, result)
    return result


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", action="append", choices=list(BENCHES), help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--seed", action="append", type=int, help="default: 0, 1 and 2")
    parser.add_argument("--control", action="append", choices=CONTROLS, help="default: none, shuffled, sft")
    parser.add_argument("--pick-fair", action="store_true", help="choose the fair task's difficulty, and stop")
    parser.add_argument("--gsm8k", type=Path, metavar="FOLDER", help="train.parquet and test.jsonl, for irpo-gsm8k")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "learning", help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="four prompts, results in the work folder: does it run?")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    setup = Setup(work, ROOT / "benchmarks" / "results", arguments.gsm8k)
    if arguments.smoke:
        work = work / "smoke"
        shutil.rmtree(work, ignore_errors=True)
        setup = Setup(work, work, arguments.gsm8k, test_rows=16, words=SMOKE)
    setup.work.mkdir(parents=True, exist_ok=True)
    setup.results.mkdir(parents=True, exist_ok=True)
    if arguments.pick_fair:
        sys.stdout.write(json.dumps(pick_fair(setup)) + "\n")
        return
    report = []
    for seed in arguments.seed or (0, 1, 2):
        for name in arguments.bench or DEFAULT:
            for control in arguments.control or BENCHES[name].controls:
                result = run_bench(name, seed, control, setup)
                line = {key: result[key] for key in
                        ("recipe", "task", "seed", "control", "metric", "start", "last", "gain", "reached", "wall_s")}
                line["interval"] = result["iterations"][-1]["interval"]
                print(json.dumps(line), file=sys.stderr, flush=True)
                report.append(line)
    sys.stdout.write(json.dumps({"bench": "learning", "runs": report}) + "\n")


if __name__ == "__main__":
    main()
