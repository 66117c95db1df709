"""The live display of a run: stage, groups done, tokens/s, parse rate, weight version, time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from pipelines.ledger import Ledger
from pipelines.steps.rows import BadRow

LINE_PERIOD_S = 10.0


class RunProgress:
    """A rich display on a terminal, a line every ten seconds elsewhere, nothing when quiet."""

    def __init__(self, console: Console, quiet: bool = False):
        self._console, self._quiet = console, quiet
        self._live = console.is_terminal and not quiet
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=False,  # what libraries print is not the run's own word
            redirect_stderr=False,
        )
        self._task: int | None = None
        self._stage, self._total, self._started, self._printed = "", 0, 0.0, 0.0
        self._already, self._shown = 0, -1  # items that were there before, and the count last printed
        self.version = ""

    def __enter__(self) -> "RunProgress":
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, name: str, total: int, done: int = 0) -> None:
        """Begin a stage of `total` items, `done` of which were there already."""
        self._stage, self._total, self._started, self._printed = name, total, time.monotonic(), 0.0
        self._already, self._shown = done, -1
        if self._live:
            if self._task is not None:
                self._bar.remove_task(self._task)  # ty: ignore[invalid-argument-type]
            self._task = self._bar.add_task(name, total=total, completed=done, note="")
        self.update(done)

    def update(self, done: int, tokens: int | None = None, parsed: float | None = None, note: str = "") -> None:
        """Show how far the stage is; `tokens` made so far, `parsed` the share of readable judgements."""
        finished = done >= self._total and done != self._shown
        elapsed = max(1e-9, time.monotonic() - self._started)
        parts = [note] if note else []
        if tokens is not None:
            parts.append(f"{tokens / elapsed:.0f} tokens/s")
        if parsed is not None:
            parts.append(f"parsed {parsed:.0%}")
        if self.version:
            parts.append(f"weights {self.version}")
        text = " · ".join(parts)
        if self._live and self._task is not None:
            self._bar.update(self._task, completed=done, note=text)  # ty: ignore[invalid-argument-type]
        elif not self._quiet and (time.monotonic() - self._printed > LINE_PERIOD_S or finished):
            self._printed, self._shown = time.monotonic(), done
            left = ""
            if self._already < done < self._total:
                left = f" · {elapsed / (done - self._already) * (self._total - done):.0f} s left"
            line = f"{self._stage}: {done}/{self._total} · {text}{left}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def tell_bad_rows(bad_rows: list[BadRow], ledger: Ledger, progress: RunProgress) -> None:
    """Say how many rows were left out, and list the first thousand in the run's events."""
    if bad_rows:
        progress.say(f"{len(bad_rows)} bad rows left out, listed in {ledger.path}/events.jsonl")
        ledger.event("bad_rows", rows=[str(row) for row in bad_rows[:1000]], count=len(bad_rows))
