"""`judge-bias`: what moves a judge of pairs besides quality."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipelines.config import ConfigError
from pipelines.evaluation.base import Estimate, Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.judges.bias import length_estimates, self_preference, style_estimates, style_rows
from pipelines.evaluation.judges.judge_accuracy import AccuracySettings, judge_notes, judged_file, outcomes_of
from pipelines.evaluation.judges.judged import Judged, abstentions
from pipelines.evaluation.judges.scale_use import retest_scores, retest_verdicts, scale_estimates, scale_rows
from pipelines.evaluation.judges.verdict_numbers import judge_estimates, subset_rows

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging

POSITION = ("flip_rate", "first_position_rate", "ties", "readable", "length_correlation")


class BiasSettings(AccuracySettings):
    """How the judge is asked, and who it is where the data say who wrote each response."""

    self_name: str | None = Field(None, description="the judge's name in model_a and model_b: self-preference")


def repeated(judged: Sequence[Judged], seed: int = 0) -> dict[str, Estimate]:
    """Test and retest over the votes of one order, or over the scores of one response; nothing with single votes."""
    verdicts, scores = [], []
    for made in judged:
        for slot in (0, 1):
            votes = [v for v in made.votes if (v.place if made.pointwise else v.order) == slot]
            if len(votes) > 1 and made.pointwise:
                scores.append((made.comparison.cluster, [v.score for v in votes if v.score is not None]))
            elif len(votes) > 1:
                verdicts.append((made.comparison.cluster, [v.verdict for v in votes]))
    found = {"retest_agreement": retest_verdicts(verdicts, seed)} if verdicts else {}
    return found | ({"retest_score_difference": retest_scores(scores, seed)} if scores else {})


class JudgeBias(Evaluation):
    """Place, length, style and subset, self-preference, the use of the scale, and repeated votes."""

    about = "what moves a judge besides quality: place, length, style, its own answers, the scale's use, chance"
    settings = BiasSettings
    judge: ClassVar[Literal["none", "optional", "needed"]] = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Any) -> Result:
        """Ask, or read what is recorded, and count. Raises InputError, ConfigError."""
        judged, version = await judged_file(data, judge, settings, "judge-bias")
        outcomes, comparisons = outcomes_of(judged, settings), [made.comparison for made in judged]
        all_numbers = judge_estimates(outcomes, settings.seed)
        estimates = {name: all_numbers[name] for name in POSITION}
        estimates |= length_estimates(outcomes, settings.seed) | repeated(judged, settings.seed)
        tables: dict[str, list[dict[str, Any]]] = {"by subset": subset_rows(outcomes, lambda o: o.subset, "subset")}
        styled = [(o, made.styles) for o, made in zip(outcomes, comparisons, strict=True) if made.styles]
        if styled:
            some, styles = [o for o, _ in styled], [s for _, s in styled]
            estimates |= style_estimates(some, styles, settings.seed)
            tables["by style"] = style_rows(some, styles)
        if settings.self_name is not None:
            if not any(made.authors for made in comparisons):
                raise ConfigError(f"self_name={settings.self_name} needs columns model_a and model_b: who wrote each")
            estimates |= self_preference(comparisons, outcomes, settings.self_name, settings.seed)
        given = [vote.score for made in judged for vote in made.votes if vote.score is not None]
        if given:
            estimates |= scale_estimates(given, settings.asked.scale if judge else None)
            tables["scores"] = scale_rows(given)
        notes = judge_notes(judged, settings, judge is not None, version)
        notes.append("agreement counts ties half and leaves rows labelled a tie out; the effects are log-odds of a "
                     "logistic regression on label, tanh(length difference / its root mean square) and place")
        return Result(
            **about("judge-bias", data, judge, settings, version), rows=len({made.row for made in comparisons}),
            estimates=estimates, abstentions=abstentions(judged), tables=tables, notes=notes,
        )


EVALUATION = JudgeBias
