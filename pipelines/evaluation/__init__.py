"""Evaluations by name: one module each; `appellate eval NAME` runs one. A new one is its module and a line here."""

import difflib
import importlib

from pipelines.config import ConfigError
from pipelines.evaluation.base import Evaluation

# name: the module that has its class as `EVALUATION`; imported only when asked for
EVALUATIONS: dict[str, str] = {
    "agreement": "agreement",
    "arena": "arena",
    "autocalibrate": "autocalibrate",
    "calibration": "calibration",
    "ifeval-length": "ifeval_length",
    "judge-accuracy": "judge_accuracy",
    "judge-bias": "judge_bias",
    "judge-correlation": "judge_correlation",
    "length-controlled": "length_controlled",
    "length-instructed": "length_instructed",
    "llmcrit": "llmcrit",
    "metacritique": "metacritique",
    "ppi": "ppi",
    "ppi-plan": "ppi_plan",
    "qualeval": "qualeval",
    "reasoning": "reasoning",
    "selective-generation": "selective_generation",
    "uncertainty-boundary": "uncertainty_boundary",
    "win-rate": "win_rate",
}


def get_evaluation(name: str) -> type[Evaluation]:
    """The evaluation called `name`; raises ConfigError that names the nearest valid one."""
    if name not in EVALUATIONS:
        near = difflib.get_close_matches(name, EVALUATIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(sorted(EVALUATIONS))}"
        raise ConfigError(f"{name!r} is no evaluation, {hint}")
    return importlib.import_module(f"pipelines.evaluation.{EVALUATIONS[name]}").EVALUATION
