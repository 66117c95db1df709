"""`appellate watch`: a run on the terminal while it goes on, from its folder or from its live page."""

import time
from collections.abc import Callable
from typing import Any

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.ledger import Ledger
from pipelines.reporting.terminal import plain
from pipelines.reporting.view import RunView

PERIOD_S = 2.0
PATIENCE_S = 60.0  # how long an address may be silent before watching ends
MAX_PROBLEMS = 6
REQUEST_TIMEOUT_S = 30.0


class WatchError(RuntimeError):
    """There is nothing to watch; the message says where and what to do."""


Look = Callable[[], dict[str, Any]]


def look_at(target: str) -> Look:
    """What gives a run's summary each time it is called: an address (http://...) or a run folder, also on s3://."""
    if target.startswith(("http://", "https://")):
        return _address(target)
    view = RunView(Ledger.open(target))

    def look() -> dict[str, Any]:
        view.refresh()
        return view.summary()

    return look


def _address(url: str) -> Look:
    base = url.rstrip("/").removesuffix("/run")
    proxy = httpx.URL(base).host not in ("localhost", "127.0.0.1", "::1")
    answered = time.monotonic()
    summary: dict[str, Any] | None = None

    def look() -> dict[str, Any]:
        nonlocal answered, summary
        try:
            reply = httpx.get(f"{base}/run/data/summary", timeout=REQUEST_TIMEOUT_S, trust_env=proxy)
            reply.raise_for_status()
            answered, summary = time.monotonic(), reply.json()
        except (httpx.HTTPError, ValueError) as error:
            if summary is None or time.monotonic() - answered > PATIENCE_S:
                raise WatchError(f"no run can be seen at {base}/run: {error}") from error
        assert summary is not None
        return summary

    return look


def watch(console: Console, look: Look, period_s: float = PERIOD_S) -> dict[str, Any]:
    """Show the run until it is over; on what is no terminal once. Returns the last summary."""
    summary = look()
    if not console.is_terminal:
        console.print(screen(summary), soft_wrap=True)
        return summary
    with Live(screen(summary), console=console, auto_refresh=False) as live:
        while summary["run"]["state"] == "running":
            time.sleep(period_s)
            summary = look()
            live.update(screen(summary), refresh=True)
    return summary


def screen(summary: dict[str, Any]) -> Group:
    """State, what goes on now, one row an iteration, and the first problems."""
    run, iterations = summary["run"], summary["iterations"]
    head = Text.assemble(
        (plain(str(run["recipe"] or "training")), "bold"), f"  {run['state']}  weights {run['version']}  ",
        (plain(run["path"]), "dim"),
    )
    now = current(summary)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("it.", "groups", "score", "words", "read", "pairs", "loss", "acc.", "minutes"):
        table.add_column(title, justify="left" if title == "loss" else "right", no_wrap=True)
    for n in iterations:
        table.add_row(*row(n, summary["stages"]))
    parts = [head, *([Text(now)] if now else []), table]
    for problem in summary["problems"][:MAX_PROBLEMS]:
        where = "" if problem["iteration"] is None else f"iteration {problem['iteration']}: "
        style = "red" if problem["serious"] else "yellow"
        parts.append(Text(f"{where}{plain(problem['title'])}", style))
    return Group(*parts)


def row(n: dict[str, Any], stages: list[dict[str, Any]]) -> list[str]:
    """The cells of an iteration."""
    judge, curves = n["judge"], n["training"]["curves"]
    loss = curves.get("dpo_loss") or curves.get("loss")
    seconds = sum(s["seconds"] or 0.0 for s in stages if s["iteration"] == n["iteration"])
    return [
        str(n["iteration"]), str(n["groups"]), _number(n["mean_score"]), _number(n["mean_words"]),
        f"{judge['statuses']['ok'] / judge['total']:.0%}" if judge["total"] else "-",
        str(sum(n["pairs"].values())),
        f"{loss[0][1]:.3f} → {loss[-1][1]:.3f}" if loss else "-",
        f"{curves['accuracy'][-1][1]:.0%}" if curves.get("accuracy") else "-", f"{seconds / 60:.1f}",
    ]


def current(summary: dict[str, Any]) -> str:
    """What the run does now, and how far it is; empty when it does nothing."""
    running = [s for s in summary["stages"] if s["state"] == "running"]
    if summary["run"]["state"] != "running" or not running:
        return ""
    stage = running[-1]
    numbers = next((n for n in summary["iterations"] if n["iteration"] == stage["iteration"]), None)
    text = f"iteration {stage['iteration']}: {stage['stage']}"
    if numbers and stage["stage"] == "groups":
        limit = summary["run"]["config"].get("prompts_limit")
        text += f", {numbers['groups']}{f' of {limit}' if limit else ''} committed"
    if numbers and stage["stage"] == "train" and numbers["training"]["planned"]:
        text += f", step {numbers['training']['steps']} of {numbers['training']['planned']}"
    return text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
