"""The regression behind AlpacaEval 2's length-controlled win rate (Dubois et al., 2404.04475, section 3). Pure.

    P(model beats baseline on i) = sigmoid(effect_model + effect_difficulty * d_i + effect_length * x_i)
    x_i = tanh((len_baseline - len_model) / standard deviation of that difference over the model's instructions)

Shorter responses have x > 0 and `effect_length` is mostly negative; signs and scale are those of the published
coefficients lc_coef_model, lc_coef_difficulty and lc_coef_length. The win rate is the mean of P with x = 0. A model
that is its own baseline has no effects, and so 50 %.

The original fits each model alone, with instruction difficulties d_i that are fixed once, and together with rows of two
"gamed" baselines (a concise and a verbose one, weight 0.1 a row, without `effect_model`), which keep its length and
difficulty effects near theirs. Neither the table of difficulties nor these rows are public with the leaderboard. Here
- difficulties are recovered from the published coefficients of other models, or fitted jointly;
- the gamed rows become what they are to the fit, a quadratic pull on both effects: `PULL_TO`, with `PULL` as large as
  the information in them: 161 rows' worth of p(1 - p) = 0.15 times the mean square of x (0.4) or d (2.2).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

from pipelines.steps.newton import maximise

PULL_TO = np.array([-1.6, 0.76])  # mean of the published effects of gpt4_1106_preview_concise and _verbose
PULL = np.array([10.0, 50.0])
PULL_OF_MODEL = 0.02 / 4  # the curvature of a hundredth of a win and of a loss
DIFFICULTY_SD = 2.0  # of the normal prior of difficulties; those recovered have a standard deviation of about 1.5
START = np.array([*PULL_TO, -1.5])
BINDING = 1e5  # how hard published win rates bind: missing one by a tenth of a point costs 0.05 nats
ROUNDS, MOVED = 60, 1e-3  # of the joint fit: at most so many, until no difficulty moves by more


@dataclass(frozen=True)
class Panel:
    """Models by instructions: arrays [m, n]. `judged` is False, and the rest 0, where there is no annotation."""

    share: np.ndarray
    length: np.ndarray
    judged: np.ndarray

    def of(self, rows: np.ndarray) -> "Panel":
        """The panel of some of its models, by number or mask."""
        return Panel(self.share[rows], self.length[rows], self.judged[rows])


@dataclass(frozen=True)
class Published:
    """Published effects [r, 3] of models and the length-controlled win rates [r] in percent that they gave."""

    effects: np.ndarray
    win_rate: np.ndarray


def length_feature(len_baseline: np.ndarray, len_model: np.ndarray) -> np.ndarray:
    """x [n] of one model from lengths in characters; 0 throughout where the difference never varies."""
    difference = np.asarray(len_baseline, dtype=float) - len_model
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    return np.tanh(difference / spread) if spread > 0 else np.zeros(len(difference))


def fit_effects(
    share: np.ndarray, length: np.ndarray, difficulty: np.ndarray, start: np.ndarray = START
) -> np.ndarray:
    """(effect_length, effect_difficulty, effect_model) of one model from its judged instructions [n].

    Maximises the log-likelihood of the shares less sum PULL * (effects - PULL_TO)^2 / 2. As a model that won or lost
    everything would have no finite effect, a hundredth of a win and of a loss are added; others move by nothing seen.
    """
    design = np.column_stack([length, difficulty, np.ones(len(share))])
    pull = np.array([*PULL, PULL_OF_MODEL])
    to = np.array([*PULL_TO, 0.0])

    def objective(effects: np.ndarray) -> float:
        eta = design @ effects
        likelihood = (share * log_expit(eta) + (1 - share) * log_expit(-eta)).sum()
        return float(likelihood - (pull * (effects - to) ** 2).sum() / 2)

    def derivatives(effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        won = expit(design @ effects)
        gradient = design.T @ (share - won) - pull * (effects - to)
        return gradient, (design.T * (won * (1 - won))) @ design + np.diag(pull)

    return maximise(objective, derivatives, start, 1e-8 * max(1, len(share)))


def recover_difficulties(
    panel: Panel, effects: np.ndarray, start: np.ndarray | None = None, published: Published | None = None,
    steps: int = 100,
) -> np.ndarray:
    """Difficulties [n] given the effects [m, 3] of every model of the panel: n convex problems of one number each.

    Each maximises the log-likelihood of its column less d^2 / (2 DIFFICULTY_SD^2), by Newton's method with steps of at
    most 1; an instruction without annotations gets 0. `published` holds win rates that the difficulties must give
    together with the effects beside them, which fixes their distribution where the panel is small.
    """
    of_length, of_difficulty, of_model = effects.T
    fixed = of_model[:, None] + of_length[:, None] * panel.length
    slope = of_difficulty[:, None] * panel.judged
    d = np.zeros(panel.share.shape[1]) if start is None else start
    for _ in range(steps):
        won = expit(fixed + of_difficulty[:, None] * d)
        gradient = (slope * (panel.share - won)).sum(0) - d / DIFFICULTY_SD**2
        curvature = (slope**2 * won * (1 - won)).sum(0) + DIFFICULTY_SD**-2
        step = gradient / curvature if published is None else _bound_step(d, gradient, curvature, published)
        step = np.clip(step, -1, 1)
        d = d + step
        if np.abs(step).max(initial=0.0) < 1e-5:
            break
    return d


def _bound_step(d: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, published: Published) -> np.ndarray:
    """The Newton step when BINDING * sum (win rate - its mean probability)^2 / 2 is taken off (Woodbury's identity)."""
    won = expit(published.effects[:, 2:] + published.effects[:, 1:2] * d)
    slope = published.effects[:, 1:2] * won * (1 - won) / len(d)
    gradient = gradient + BINDING * slope.T @ (published.win_rate / 100 - won.mean(1))
    scaled = slope / curvature
    inner = np.eye(len(slope)) / BINDING + scaled @ slope.T
    return gradient / curvature - scaled.T @ np.linalg.solve(inner, scaled @ gradient)


def fit_jointly(panel: Panel, published: Published | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Effects [m, 3] and difficulties [n] that are likeliest together, each fitted in turn given the other."""
    effects = np.tile(START, (len(panel.share), 1))
    difficulty = np.zeros(panel.share.shape[1])
    for _ in range(ROUNDS):
        before = difficulty
        difficulty = recover_difficulties(panel, effects, before, published, steps=3)
        effects = np.array([
            fit_effects(share[judged], length[judged], difficulty[judged], start)
            for share, length, judged, start in zip(panel.share, panel.length, panel.judged, effects, strict=True)
        ])
        if np.abs(difficulty - before).max(initial=0.0) < MOVED:
            break
    return effects, difficulty


def length_controlled_win_rate(effects: np.ndarray, difficulty: np.ndarray) -> float:
    """Percent: the mean over the instructions' difficulties [n] of the win probability at equal lengths."""
    return 100 * float(expit(effects[2] + effects[1] * difficulty).mean())


def win_rate_error(
    share: np.ndarray, length: np.ndarray, difficulty: np.ndarray, effects: np.ndarray
) -> float | None:
    """Standard error in percent of a model's length-controlled win rate over its judged instructions [n].

    The spread of each instruction's influence: its own win probability, and what it does to the effects (the sandwich
    estimate of a penalised fit). The difficulties count as known. None for fewer than two instructions.
    """
    if len(share) < 2:
        return None
    design = np.column_stack([length, difficulty, np.ones(len(share))])
    won = expit(design @ effects)
    even = expit(effects[2] + effects[1] * difficulty)
    slope = even * (1 - even)
    gradient = np.array([0.0, (slope * difficulty).mean(), slope.mean()])
    information = (design.T * (won * (1 - won))) @ design + np.diag([*PULL, PULL_OF_MODEL])
    influence = even + len(share) * (design * (share - won)[:, None]) @ np.linalg.solve(information, gradient)
    return 100 * float(influence.std(ddof=1) / np.sqrt(len(share)))
