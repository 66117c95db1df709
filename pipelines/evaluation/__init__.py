"""Evaluations by name: one module each; `appellate eval NAME` runs one. A new one is its module and a line here."""

import difflib
import importlib

from pipelines.config import ConfigError
from pipelines.evaluation.base import Evaluation

# name: the module that has its class as `EVALUATION`; imported only when asked for
EVALUATIONS: dict[str, str] = {
    "agreement": "annotations.agreement",
    "arena": "annotations.arena",
    "autocalibrate": "services.autocalibrate",
    "calibration": "estimates.calibration",
    "gate": "estimates.gate",
    "ifeval-length": "abilities.ifeval_length",
    "judge-accuracy": "judges.judge_accuracy",
    "judge-bias": "judges.judge_bias",
    "judge-correlation": "judges.judge_correlation",
    "length-controlled": "annotations.length_controlled",
    "length-instructed": "abilities.length_instructed",
    "llmcrit": "services.llmcrit",
    "metacritique": "services.metacritique",
    "ppi": "estimates.ppi",
    "ppi-plan": "estimates.ppi_plan",
    "qualeval": "services.qualeval",
    "reasoning": "abilities.reasoning",
    "selective-generation": "estimates.selective_generation",
    "self-j": "estimates.self_j",
    "uncertainty-boundary": "estimates.uncertainty_boundary",
    "win-rate": "annotations.win_rate",
}


def get_evaluation(name: str) -> type[Evaluation]:
    """The evaluation called `name`; raises ConfigError that names the nearest valid one."""
    name = name.replace("_", "-")
    if name not in EVALUATIONS:
        near = difflib.get_close_matches(name, EVALUATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(sorted(EVALUATIONS))}"
        raise ConfigError(f"{name!r} is no evaluation, {hint}")
    return importlib.import_module(f"pipelines.evaluation.{EVALUATIONS[name]}").EVALUATION
