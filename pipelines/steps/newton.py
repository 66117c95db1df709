"""Newton's method with step halving, for concave objectives of few variables. Pure."""

from collections.abc import Callable

import numpy as np

Derivatives = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def maximise(
    objective: Callable[[np.ndarray], float], derivatives: Derivatives, start: np.ndarray, tolerance: float
) -> np.ndarray:
    """The x [n] at which the concave `objective` is greatest.

    `derivatives` gives its gradient [n] and its negated, positive definite Hessian [n, n]. Ends when no part of the
    gradient exceeds `tolerance`, after 100 steps at most.
    """
    x = start
    best = objective(x)
    for _ in range(100):
        gradient, curvature = derivatives(x)
        if np.abs(gradient).max(initial=0.0) < tolerance:
            break
        step = np.linalg.solve(curvature, gradient)
        scale, noise = 1.0, 1e-12 * (1 + abs(best))  # of the objective's rounding; without it the last steps stall
        while scale > 1e-9 and objective(x + scale * step) < best - noise:
            scale /= 2
        x = x + scale * step
        best = objective(x)
    return x
