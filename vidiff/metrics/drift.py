"""Whether a long clip decays: quality, colour and motion, block after block.

A change that goes on in one direction over the whole clip is drift; a change that comes and goes is
what videos do. For each series x_1..x_n over blocks of about a second:

  (1) tau    Kendall's rank correlation of x with time
  (2) total  (n - 1) times the median of the slopes between all pairs of blocks (Theil and Sen)

and drift is called where |tau| reaches TREND and |total| the limit of that series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, UInt8

from vidiff.errors import RequestError
from vidiff.metrics.motion import measure_motion

TREND = 0.7
"""Rank correlation from which a series goes in one direction."""

LIMITS = {"sharpness": math.log(2.0), "motion": math.log(2.5), "brightness": 25.0, "colour": 12.0}
"""Total change that counts: sharpness and motion as ln of a ratio, the others in grey levels."""

LEAST_BLOCKS = 5


@dataclass(frozen=True)
class Drift:
    """How a long clip changes; one number a block in each series."""

    seconds: tuple[float, ...]
    """Time of the middle of each block."""
    series: dict[str, tuple[float, ...]]
    """ln sharpness, ln motion, mean brightness and mean colour (distance of channels)."""
    totals: dict[str, float]
    """Equation (2) of each series."""
    drifting: tuple[str, ...]
    """Names of the series that drift."""

    def __str__(self) -> str:
        if not self.drifting:
            return "drift: none (sharpness, motion, brightness and colour come and go)"
        parts = [f"{name} {self._say(name)}" for name in self.drifting]
        return "drift: " + ", ".join(parts) + f" over {self.seconds[-1] - self.seconds[0]:.1f} s"

    def _say(self, name: str) -> str:
        total = self.totals[name]
        if name in ("sharpness", "motion"):
            return f"x {math.exp(total):.2f}"
        return f"{total:+.0f} grey levels"


def measure_drift(clip: UInt8[np.ndarray, "t h w c"], dt: float) -> Drift:
    """Equations (1) and (2) of a long clip.

    Args:
        clip: at least LEAST_BLOCKS blocks of 8 frames.
        dt: seconds between frames.

    Raises:
        RequestError: too short a clip.
    """
    size = max(8, round(1 / dt))
    size = min(size, max(8, len(clip) // LEAST_BLOCKS))
    count = len(clip) // size
    if count < LEAST_BLOCKS:
        raise RequestError(
            f"Drift cannot be measured in {len(clip)} frames.",
            f"Make {8 * LEAST_BLOCKS} frames or more.",
        )
    blocks = np.stack(np.split(clip[: count * size], count))
    found = measure_motion(blocks, dt).statistics
    means = blocks.mean(axis=(1, 2, 3), dtype=np.float64)
    spread = means - means.mean(axis=1, keepdims=True)
    series = {
        "sharpness": np.log(np.maximum(found["sharpness"], 1e-3)),
        "motion": np.log(np.maximum(found["motion.amount"], 1e-3)),
        "brightness": means.mean(axis=1),
        "colour": spread[:, 0] - spread[:, -1],
    }
    totals = {name: _total(values) for name, values in series.items()}
    drifting = [
        name
        for name, values in series.items()
        if abs(_tau(values)) >= TREND and abs(totals[name]) >= LIMITS[name]
    ]
    return Drift(
        tuple((k + 0.5) * size * dt for k in range(count)),
        {name: tuple(map(float, values)) for name, values in series.items()},
        totals,
        tuple(drifting),
    )


def _tau(values: Float[np.ndarray, "n"]) -> float:
    signs = [np.sign(b - a) for a, b in combinations(values, 2)]
    return float(np.mean(signs))


def _total(values: Float[np.ndarray, "n"]) -> float:
    pairs = combinations(range(len(values)), 2)
    slopes = [(values[j] - values[i]) / (j - i) for i, j in pairs]
    return float((len(values) - 1) * np.median(slopes))
