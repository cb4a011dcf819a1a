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

HIGHER_IS_BETTER = ("density", "coverage", "diversity")
"""How the names of scores begin that fall as clips get worse."""


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
    """95th percentile of the gap between two halves of the real set."""
    generated_low: float
    generated_high: float
    real_low: float
    real_high: float
    undefined: float
    """Share of generated clips without a value, because nothing moves in them."""
    real_undefined: float


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
    guards: dict[str, bool]
    """Whether the headline may be read (`verdicts.check_guards`)."""
    flags: dict[str, str]
    """Headline lines on which the clips stand apart from real ones, and how far."""
    withdrawn: dict[str, list[str]]
    """Headline numbers that do not see an anchor they must see, and which."""
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What a full evaluation would also say, and why this one does not."""
    values: dict[str, tuple[Float[np.ndarray, "b"], Float[np.ndarray, "n"]]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Statistic to its values clip by clip, (generated, real); for plots, not in the JSON."""
    draws: dict[str, Float[np.ndarray, "r"]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """Score, and `gap.NAME`, to its bootstrap draws; for comparisons, not in the JSON."""

    def to_json(self) -> dict[str, Any]:
        """One object, ready for `json.dumps`; an undefined number is null."""
        return as_json(
            {
                "protocol": {**self.protocol, "missing": self.missing},
                "scores": self.scores,
                "per_clip": self.per_clip,
                "anchors": self.anchors,
                "copies": self.copies,
                "guards": self.guards,
                "flags": self.flags,
                "withdrawn": self.withdrawn,
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
        columns = ("kd.motion", "coverage", "gap.sharpness", "gap.jump")
        if "kd.change" in self.scores:
            columns = ("kd.motion", "kd.appearance", "kd.change", "coverage")
        lines += ["", _row("anchors", *columns)]
        for name, a in self.anchors.items():
            lines.append(_row(name, *(a[column] for column in columns)))
        for kind, found in self.copies.items():
            if isinstance(found, dict):
                share, expected = found["share"], self.copies["expected_share"]
                lines.append(f"\ncopies by {kind}: {share:.1%} flagged, {expected:.0%} expected")
        verdicts = [f"{name} {'ok' if ok else 'NO'}" for name, ok in self.guards.items()]
        lines += ["", "guards: " + ", ".join(verdicts)]
        lines += [f"apart from real: {name}, {why}" for name, why in self.flags.items()]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        lines += [f"missing: {sentence}" for sentence in self.missing]
        return "\n".join(lines)


def _row(name: str, *cells: float | str) -> str:
    words = [cell if isinstance(cell, str) else show_number(cell) for cell in cells]
    widths = (11, 20, 14, 11)
    return f"{name:24}" + "".join(f"{w:>{n}}" for w, n in zip(words, widths, strict=True))


def as_json(value: Any) -> Any:
    """A value as JSON takes it: keys are text, arrays lists, and what is undefined is null."""
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
