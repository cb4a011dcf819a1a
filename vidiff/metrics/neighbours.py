"""How sure one can be of density and coverage, which depend on both sets at once.

Both count pairs (generated clip i, real ball j). An interval that resamples one side alone is too
narrow: in simulations it held the truth in 56 to 100 % of cases at a nominal 95 %. So the spread
here is a jackknife of both sides, the balls growing to the next neighbour where a real clip is
left out (Efron & Stein 1981):

    se^2 = sum_i (T - T_-i)^2 + sum_j (T - T_-j)^2,    interval T -+ 1.96 se                     (1)

Clips of one source video are left out together, in first order: their differences add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vidiff.errors import RequestError
from vidiff.metrics.distribution import distances

Features = Float[np.ndarray, "n d"]
_NORMAL = 1.96


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error."""

    value: float
    error: float
    most: float
    """Largest value that can be."""

    @property
    def interval(self) -> tuple[float, float]:
        """Approximate 95 %, inside what can be."""
        reach = _NORMAL * self.error
        return max(0.0, self.value - reach), min(self.most, self.value + reach)

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, "r"]:
        """Normal draws around the value, inside what can be."""
        return np.clip(rng.normal(self.value, self.error, count), 0, self.most)


def estimate_density(
    generated: Features,
    real: Float[np.ndarray, "m d"],
    k: int = 5,
    groups_x: Int[np.ndarray, "n"] | None = None,
    groups_y: Int[np.ndarray, "m"] | None = None,
) -> Estimate:
    """Mean number of real balls around a generated clip over k, with (1).

    Args:
        generated: features, n x d.
        real: features, m x d.
        k: neighbours that a ball reaches to.
        groups_x: source of each generated clip; None: its own.
        groups_y: source video of each real clip; None: its own.

    Raises:
        RequestError: no k + 1 real neighbours.
    """
    inside, wider, among = _balls(generated, real, k)
    n = len(generated)
    hits, grown = inside.sum(axis=0), wider.sum(axis=0) - inside.sum(axis=0)
    total = float(inside.sum())
    value = total / (n * k)
    without_x = (total - inside.sum(axis=1)) / ((n - 1) * k)
    without_y = (total - hits + among @ grown) / (n * k)
    return _estimate(value, (without_x, groups_x), (without_y, groups_y), np.inf)


def estimate_coverage(
    generated: Features,
    real: Float[np.ndarray, "m d"],
    k: int = 5,
    groups_x: Int[np.ndarray, "n"] | None = None,
    groups_y: Int[np.ndarray, "m"] | None = None,
) -> Estimate:
    """Share of real balls that hold a generated clip, with (1); arguments as for density.

    Raises:
        RequestError: no k + 1 real neighbours.
    """
    inside, wider, among = _balls(generated, real, k)
    m = len(real)
    met = inside.any(axis=0)
    grown = wider.any(axis=0).astype(np.float64) - met
    alone = inside[:, inside.sum(axis=0) == 1].sum(axis=1)
    value = float(met.mean())
    without_x = (met.sum() - alone) / m
    without_y = (met.sum() - met + among @ grown) / (m - 1)
    return _estimate(value, (without_x, groups_x), (without_y, groups_y), 1.0)


def _balls(
    x: Features, y: Float[np.ndarray, "m d"], k: int
) -> tuple[Bool[np.ndarray, "n m"], Bool[np.ndarray, "n m"], Float[np.ndarray, "m m"]]:
    """Pairs inside the balls to the k-th and the next neighbour; who is among whose k nearest."""
    if len(y) <= k + 1:
        raise RequestError(
            f"Density and coverage with intervals need more than k + 1 = {k + 1} real clips; "
            f"there are {len(y)}.",
            "Hold out more clips.",
        )
    own = distances(y, y)
    np.fill_diagonal(own, np.inf)
    radii = np.partition(own, (k - 1, k), axis=1)[:, k - 1 : k + 1]
    across = distances(x, y)
    among = (own <= radii[:, :1]).T.astype(np.float64)
    return across < radii[:, 0], across < radii[:, 1], among


def _estimate(
    value: float,
    x: tuple[Float[np.ndarray, "n"], Int[np.ndarray, "n"] | None],
    y: tuple[Float[np.ndarray, "m"], Int[np.ndarray, "m"] | None],
    most: float,
) -> Estimate:
    variance = 0.0
    for without, groups in (x, y):
        change = value - without
        sums = change
        if groups is not None:
            _, which = np.unique(groups, return_inverse=True)
            sums = np.bincount(which, change).astype(np.float64)
        count = len(sums)
        variance += float(((sums - sums.mean()) ** 2).sum()) * count / max(1, count - 1)
    return Estimate(value, variance**0.5, most)
