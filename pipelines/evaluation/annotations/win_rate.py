"""How often models win against a baseline in recorded annotations (AlpacaEval, github.com/tatsu-lab/alpaca_eval)."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from pipelines.evaluation.annotations.preferences import abstentions_of, by_model, read_annotations
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.intervals import Interval, bootstrap_interval, mean_interval
from pipelines.strict import Strict

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging


class WinRate(NamedTuple):
    """Win rates in percent over the judged instructions; standard errors are of their means (n - 1)."""

    win_rate: float | None
    standard_error: float | None
    discrete_win_rate: float | None
    discrete_standard_error: float | None
    n: int
    wins: int
    losses: int
    ties: int
    abstentions: int


class Settings(Strict):
    """Settings of `win-rate`."""

    interval: Literal["normal", "bootstrap"] = Field("normal", description="mean +- t * standard error, or percentile")
    level: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100)
    seed: int = 0


def win_rate(share: np.ndarray) -> WinRate:
    """Win rates from `share` [n], the model's part of each win (0 to 1, NaN for an abstention).

    The win rate is the mean of the shares; the discrete one counts a share above a half as a win and a half as half a
    win (AlpacaEval's `win_rate` and `discrete_win_rate`).
    """
    known = share[np.isfinite(share)]
    discrete = discrete_shares(known)
    counts = [int((discrete == which).sum()) for which in (1.0, 0.0, 0.5)]
    return WinRate(
        *_mean_and_error(known), *_mean_and_error(discrete), len(known), *counts, len(share) - len(known)
    )


def discrete_shares(share: np.ndarray) -> np.ndarray:
    """1 for a win, 0 for a loss, a half for an exact tie."""
    return (np.sign(share - 0.5) + 1) / 2


def win_rate_interval(
    share: np.ndarray, how: str = "normal", level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Interval of the win rate in percent, over instructions, which are taken for a sample of all instructions."""
    known = 100 * share[np.isfinite(share)]
    if how == "normal":
        return mean_interval(known, level)
    return bootstrap_interval(np.mean, known, level=level, resamples=resamples, seed=seed)


def _mean_and_error(values: np.ndarray) -> tuple[float | None, float | None]:
    mean = 100 * float(values.mean()) if len(values) else None
    return mean, 100 * float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


class WinRates(Evaluation):
    """Win rate of every model in a file of annotations."""

    about = "win rate of models against a baseline, from recorded preferences (AlpacaEval's columns)"
    settings = Settings
    judge = "none"

    async def run(self, data: str, judge: "Judging | None", settings: Settings) -> Result:
        """Raises InputError."""
        rows = read_annotations(data, lengths=False)
        estimates: dict[str, Estimate] = {}
        rates: list[dict[str, Any]] = []
        counts: list[dict[str, Any]] = []
        models = by_model(rows)
        for one in models:
            found = win_rate(one.share)
            interval = win_rate_interval(
                one.share, settings.interval, settings.level, settings.resamples, settings.seed
            )
            estimates[one.model] = Estimate(
                value=found.win_rate, interval=interval, level=settings.level, n=found.n,
                why=None if found.n else "no row has a preference",
            )
            lengths = one.len_model[np.isfinite(one.len_model)]
            average = float(lengths.mean()) if len(lengths) else None
            columns = found._asdict()
            rates.append({
                "model": one.model, "average_length": average, **{name: columns[name] for name in found._fields[:4]}
            })
            counts.append({"model": one.model, **{name: columns[name] for name in found._fields[4:]}})
        best_first = sorted(range(len(rates)), key=lambda row: -(rates[row]["win_rate"] or 0.0))
        against = ", ".join(sorted({one.baseline for one in models}))
        return Result(
            **about("win-rate", data, None, settings), rows=len(rows),
            estimates=dict(sorted(estimates.items(), key=lambda item: -(item[1].value or 0.0))),
            abstentions=abstentions_of(rows), 
            tables={"rates": [rates[row] for row in best_first], "counts": [counts[row] for row in best_first]},
            notes=[
                f"percent, against {against}; intervals are over instructions, of one recorded annotation each",
                "longer responses win more often with most judges: `length-controlled` takes that out",
            ],
        )


EVALUATION = WinRates
