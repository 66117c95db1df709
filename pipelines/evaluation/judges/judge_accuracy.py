"""`judge-accuracy`: a judge of pairs against labels, in both orders."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipelines.config import ConfigError
from pipelines.evaluation.base import Evaluation, Result
from pipelines.evaluation.data import about
from pipelines.evaluation.judges.comparisons import is_recorded, read_comparisons
from pipelines.evaluation.judges.judged import Judged, JudgeSettings, abstentions, ask, recorded
from pipelines.evaluation.judges.verdict_numbers import Outcome, judge_estimates, section_estimates, subset_rows

if TYPE_CHECKING:
    from pipelines.evaluation.sources import Judging


class AccuracySettings(JudgeSettings):
    """How the judge is asked, and how recorded verdicts are to be read."""

    recorded_as: Literal["listed", "shown"] = Field(
        "listed", description="recorded `verdicts`: A is response_a, or what was shown first"
    )


def outcomes_of(judged: Sequence[Judged], settings: JudgeSettings) -> list[Outcome]:
    """What is counted of judged comparisons. One that could not be asked has abstained in every order."""
    return [
        Outcome(made.comparison.cluster, made.comparison.label, made.verdicts, made.comparison.longer,
                made.comparison.subset, made.comparison.section, made.decision(settings.disagreement).winner)
        for made in judged
    ]


async def judged_file(
    data: str, judging: "Judging | None", settings: AccuracySettings, name: str
) -> tuple[list[Judged], str | None]:
    """The comparisons of a file with what the judge said, or what the file says it did, and the weight version."""
    shown = settings.recorded_as == "shown"
    comparisons = read_comparisons(data, settings.limit, settings.seed, shown, shuffle=judging is not None)
    if judging is None:
        if not is_recorded(comparisons):
            raise ConfigError(f"{data}: has no verdict, verdicts, votes or scores; give --judge RUN, CHECKPOINT or URL")
        return recorded(comparisons), None
    judged, versions = await ask(judging, comparisons, settings, name)
    return judged, ", ".join(versions) or judging.weight_version


def judge_notes(judged: Sequence[Judged], settings: JudgeSettings, asked: bool, version: str | None) -> list[str]:
    """What a reader must know of how the verdicts were made."""
    notes = []
    if asked:
        how = "the first token's probabilities" if settings.asked.weighed else f"{settings.votes} written vote(s) each"
        notes.append(f"protocol {settings.name}, {how}")
    if any(made.pointwise for made in judged):
        notes.append("each response was scored by itself: equal scores are ties, and there is no order to flip")
    if version and ", " in version:
        notes.append(f"the weights changed meanwhile: {version}")
    return notes


class JudgeAccuracy(Evaluation):
    """Accuracy over both orders, consistency, ties, abstentions, and how far place and length explain the verdicts."""

    about = "a judge of pairs against labels: accuracy in both orders, flips, ties, abstentions, by subset and section"
    settings = AccuracySettings
    judge: ClassVar[Literal["none", "optional", "needed"]] = "optional"

    async def run(self, data: str, judge: "Judging | None", settings: Any) -> Result:
        """Ask, or read what is recorded, and count. Raises InputError, ConfigError."""
        judged, version = await judged_file(data, judge, settings, "judge-accuracy")
        outcomes = outcomes_of(judged, settings)
        estimates = judge_estimates(outcomes, settings.seed)
        tables = {}
        notes = judge_notes(judged, settings, judge is not None, version)
        notes.append("accuracy is of readable verdicts, each order counted; a tie is right where the label is a tie")
        if len({o.subset for o in outcomes}) > 1:
            tables["by subset"] = subset_rows(outcomes, lambda o: o.subset, "subset")
        if sections := section_estimates(outcomes, settings.seed):
            estimates |= sections
            tables["by section"] = subset_rows(outcomes, lambda o: o.section, "section")
            notes.append("sections are means over their subsets weighted by comparisons, overall is the mean of "
                         "sections, ties are worth half (RewardBench)")
        return Result(
            **about("judge-accuracy", data, judge, settings, version),
            rows=len({made.comparison.row for made in judged}), estimates=estimates, abstentions=abstentions(judged),
            tables=tables, notes=notes,
        )


EVALUATION = JudgeAccuracy
