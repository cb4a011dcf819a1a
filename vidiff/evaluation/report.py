"""The answer of an evaluation: numbers with their intervals, floors and anchors, and verdicts.

No number stands alone. A score carries what real clips score against real clips (`floor`) and the
same score of degenerate clips (`anchors`); a statistic of single clips carries its value on real
clips, and what counts is the gap between the two, on either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float

from vidiff.runs.plots import show_number

GUARDED = ("frozen", "shuffled", "stutter", "jitter")
"""Anchors that a headline motion distance has to stay under."""
STATIC_MARGIN = 0.05
MOTION_RANGE = (0.8, 1.25)

HIGHER_IS_BETTER = ("density", "coverage", "diversity.pixels")


class Score(TypedDict):
    """One score of a set against the held-out set."""

    value: float
    low: float
    high: float
    """Ends of the approximate 95 % interval."""
    floor: float
    """The same score of real clips against real clips."""
    ratio: float
    """value / floor."""
    n: int
    """Clips on each side."""


class Statistic(TypedDict):
    """One statistic of single clips, as means over clips; NaN where it is undefined."""

    generated: float
    real: float
    gap: float
    """1-d Wasserstein distance between the two sets, over the real interquartile range."""
    floor: float
    """The gap between two halves of the real set."""
    generated_low: float
    generated_high: float
    real_low: float
    real_high: float
    undefined: float
    """Share of generated clips without a value, because nothing moves in them."""


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; prints as a table."""

    protocol: dict[str, Any]
    """What was compared and how; results are comparable only where `card` agrees."""
    scores: dict[str, Score]
    per_clip: dict[str, Statistic]
    anchors: dict[str, dict[str, float]]
    """Anchor to score names, and `gap.NAME` for its gap in a per-clip statistic."""
    copies: dict[str, Any]
    """`pixels` and `motion`, each with `share` flagged, `threshold`, `z`; `closest` pairs. Empty
    without training clips."""
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What a full evaluation would also say, and why this one does not."""
    values: dict[str, tuple[Float[np.ndarray, "b"], Float[np.ndarray, "n"]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Statistic to its values clip by clip, (generated, real); for plots, not in the JSON."""

    def guards(self) -> dict[str, bool]:
        """Whether the headline may be read: True is passed, an undefined number never passes.

        `static_fraction`: share of still pairs within 5 points of real. `motion_ratio`: generated
        over real motion in [0.8, 1.25]. `under_ANCHOR`: motion distance below the anchor's.
        """
        static, amount = self.per_clip["motion.static_fraction"], self.per_clip["motion.amount"]
        ratio = amount["generated"] / amount["real"] if amount["real"] > 0 else math.nan
        distance = self.scores["kd.motion"]["value"]
        verdicts = {
            "static_fraction": abs(static["generated"] - static["real"]) <= STATIC_MARGIN,
            "motion_ratio": MOTION_RANGE[0] <= ratio <= MOTION_RANGE[1],
        }
        for name in GUARDED:
            verdicts[f"under_{name}"] = distance < self.anchors[name]["kd.motion"]
        return {name: bool(passed) for name, passed in verdicts.items()}

    def to_json(self) -> dict[str, Any]:
        """One object, ready for `json.dumps`; an undefined number is null."""
        return _jsonable(
            {
                "protocol": {**self.protocol, "missing": self.missing},
                "scores": self.scores,
                "per_clip": self.per_clip,
                "anchors": self.anchors,
                "copies": self.copies,
                "guards": self.guards(),
                "warnings": self.warnings,
            }
        )

    def __str__(self) -> str:
        p = self.protocol
        lines = [
            f"{p['n']} generated against {p['n']} held-out clips of "
            f"{p['num_frames']} x {p['height']} x {p['width']}, {1 / p['dt']:.4g} fps",
            "",
            _row("", "value", "95 % interval", "real/real", "ratio"),
        ]
        for name, s in self.scores.items():
            span = f"{show_number(s['low'])} to {show_number(s['high'])}"
            lines.append(_row(name, s["value"], span, s["floor"], s["ratio"]))
        lines += ["", _row("", "generated", "real", "gap", "real/real")]
        for name, c in self.per_clip.items():
            lines.append(_row(name, c["generated"], c["real"], c["gap"], c["floor"]))
        lines += ["", _row("anchors", "kd.motion", "coverage", "gap static", "gap jerk")]
        for name, a in self.anchors.items():
            gaps = a["gap.motion.static_fraction"], a["gap.smooth.jerk_ratio"]
            lines.append(_row(name, a["kd.motion"], a["coverage"], *gaps))
        for kind in ("pixels", "motion"):
            if kind in self.copies:
                share, expected = self.copies[kind]["share"], self.copies["expected_share"]
                lines.append(f"\ncopies by {kind}: {share:.1%} flagged, {expected:.0%} expected")
        verdicts = [f"{name} {'ok' if ok else 'NO'}" for name, ok in self.guards().items()]
        lines += ["", "guards: " + ", ".join(verdicts)]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        lines += [f"missing: {sentence}" for sentence in self.missing]
        return "\n".join(lines)


def _row(name: str, *cells: float | str) -> str:
    words = [cell if isinstance(cell, str) else show_number(cell) for cell in cells]
    widths = (11, 20, 11, 11)
    return f"{name:24}" + "".join(f"{w:>{n}}" for w, n in zip(words, widths, strict=True))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return _jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
