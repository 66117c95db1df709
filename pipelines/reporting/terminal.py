"""What the terminal shows when a run, a training or an evaluation is over."""

import re
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

FOLDED_WIDTH = 40  # characters of a text in a table before it is folded
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # but tab and newline
PIPED_WIDTH = 160  # of what is no terminal


def plain(text: str) -> str:
    """Text that a model wrote, as a terminal may show it: control characters, which could steer it, are replaced."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """Run folder, pairs by kind, loss, judge before and after, and what to type next."""
    title = f"\n[bold]{summary['recipe']}[/bold] finished in {escape(summary['run'])}"
    console.print(title, highlight=False, soft_wrap=True)
    table = Table("iteration", "groups", "pairs", "DPO loss first → last", "accuracy", "weights", "update s")
    for item in summary["iterations"]:
        training, sync = item["training"] or {}, item["sync"] or {}
        pairs = ", ".join(f"{count} {kind}" for kind, count in sorted((item["pairs"] or {}).items()))
        loss = accuracy = "-"
        if training.get("first_dpo_loss") is not None:
            loss = f"{training['first_dpo_loss']:.4f} → {training['last_dpo_loss']:.4f}"
        elif training.get("steps"):
            loss = f"loss {training['first_loss']:.4f} → {training['last_loss']:.4f}"
        if training.get("last_accuracy") is not None:
            accuracy = f"{training['last_accuracy']:.0%}"
        updates = (sync.get("models") or {}).items()
        seconds = ", ".join(f"{name} {report['prepare_s'] + report['load_s']:.1f}" for name, report in updates)
        version = sync.get("version", "-")
        table.add_row(str(item["iteration"]), str(item["groups"]), pairs, loss, accuracy, version, seconds)
    console.print(table)
    for item in summary["iterations"]:
        _print_reply(console, "live judge before", (item["training"] or {}).get("judge_before"))
        _print_reply(console, "live judge after ", (item["sync"] or {}).get("judge_after"))
    checkpoint = summary["iterations"][-1]["checkpoint"]
    console.print("\nnext:", highlight=False)
    replay = f"  appellate replay {summary['recipe']} --groups {_groups(summary)} --out pairs.parquet"
    for command in (f"  appellate serve --model {checkpoint}", replay):
        console.print(command, highlight=False, markup=False, soft_wrap=True)


def _groups(summary: dict[str, Any]) -> str:
    return f"{summary['run']}/iterations/{len(summary['iterations']) - 1:04d}/groups"


def _print_reply(console: Console, title: str, reply: dict[str, Any] | None) -> None:
    if reply is None:
        return
    if "error" in reply:
        console.print(f"{title}: {reply['error']}", highlight=False, markup=False)
        return
    scores = [None if score is None else round(score, 2) for score in reply["scores"]]
    last_line = (reply["text"].strip().splitlines() or [""])[-1]
    console.print(
        f"{title}: weights {reply['weight_version']}, scores {scores}, "
        f"{reply['readable']} of {reply['votes']} votes readable, ends “{plain(last_line[-80:])}”",
        highlight=False,
        markup=False,  # a model wrote this
    )


def print_training(console: Console, summary: dict[str, Any]) -> None:
    """Pairs, steps, loss, accuracy and the checkpoint of a training alone, and what to type next."""
    training = summary["training"]
    console.print(f"\ntraining finished in {summary['run']}", highlight=False, markup=False, soft_wrap=True)
    table = Table("pairs", "steps", "loss first → last", "accuracy", "tokens/s")
    row = [str(summary["pairs"]), str(training["steps"]), "-", "-", "-"]
    if training["steps"]:
        row[2] = f"{training['first_loss']:.4f} → {training['last_loss']:.4f}"
        row[3] = f"{training['last_accuracy']:.0%}" if "last_accuracy" in training else "-"
        row[4] = f"{training['tokens_per_s']:.0f}"
    table.add_row(*row)
    console.print(table)
    console.print("\nnext:", highlight=False)
    console.print(f"  appellate serve --model {summary['checkpoint']}", highlight=False, markup=False, soft_wrap=True)


def print_evaluation(console: Console, result: Any) -> None:
    """The numbers of a pipelines.evaluation.base.Result with their intervals, its breakdowns and its notes."""
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH)
    who = f", judge {result.judge} ({result.weight_version})" if result.judge else ""
    console.print(f"\n{result.evaluation} on {result.data}: {result.rows} rows{who}", markup=False, soft_wrap=True)
    table = Table("", "value", "interval", "n")
    for name, estimate in result.estimates.items():
        value = _number(estimate.value) if estimate.why is None else escape(f"- ({estimate.why})")
        ends = estimate.interval
        interval = f"{_number(ends[0])} … {_number(ends[1])} ({estimate.level:.0%})" if ends else ""
        table.add_row(escape(name), value, interval, str(estimate.n))
    console.print(table)
    for name, rows in result.tables.items():
        _print_rows(console, name, rows)
    for reason, count in result.abstentions.items():
        console.print(f"abstained, {reason}: {count}", markup=False)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def _print_rows(console: Console, name: str, rows: list[dict[str, Any]]) -> None:
    """A breakdown with as many of its columns as fit; numbers are never broken, long texts are folded."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    room, shown = console.width - 1, []
    for column in columns:
        widest = max([len(column), *(len(_number(row.get(column))) for row in rows)])
        room -= min(widest, FOLDED_WIDTH) + 3
        if room < 0 and shown:
            break
        shown.append(column)
    left_out = columns[len(shown):]
    caption = f"--json has {', '.join(left_out)} too" if left_out else None
    table = Table(title=escape(name), caption=caption and escape(caption))
    for column in shown:
        table.add_column(escape(column), overflow="fold", max_width=FOLDED_WIDTH)
    for row in rows:
        table.add_row(*(escape(_number(row.get(column))) for column in shown))
    console.print(table)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
