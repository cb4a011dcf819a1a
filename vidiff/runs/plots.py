"""Small plots as SVG text: line curves, dots with intervals, two histograms on one axis.

Colours are class names that the page's style sheet fills in, so plots follow light and dark.
Every word from outside goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from markupsafe import escape

COLOURS = 6

Number = int | float


@dataclass(frozen=True)
class Dot:
    """One line of a dot plot."""

    label: str
    value: Number
    """NaN is written as "undefined"."""
    low: Number | None = None
    high: Number | None = None
    """Ends of its interval."""
    model: bool = False
    """True sets it off from what it is compared with."""


@dataclass(frozen=True)
class _Axis:
    """Maps values to pixels between `start` and `end`, and knows where to put its ticks."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        value = min(max(value, self.low), self.high)
        share = (self._bend(value) - self._bend(self.low)) / self._length()
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> list[float]:
        if self.log:
            exponents = range(
                math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1
            )
            step = max(1, len(exponents) // 6)
            powers = [10.0**e for e in exponents[::step]]
            return powers if len(powers) > 1 else [self.low, self.high]
        raw = (self.high - self.low) / 4
        unit = 10.0 ** math.floor(math.log10(raw))
        step_size = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw)
        first = math.ceil(self.low / step_size - 1e-9)
        last = math.floor(self.high / step_size + 1e-9)
        return [k * step_size for k in range(first, last + 1)]

    def _bend(self, value: Number) -> float:
        return math.log10(value) if self.log else float(value)

    def _length(self) -> float:
        return self._bend(self.high) - self._bend(self.low)


def show_number(value: Number) -> str:
    """Three significant digits, plain from 0.0001 to a million; "undefined" if not finite."""
    if not math.isfinite(value):
        return "undefined"
    if 1000 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-")


def draw_curves(
    series: Mapping[str, tuple[Sequence[Number], Sequence[Number]]], *, x: str, y: str, log: bool
) -> str:
    """Line curves with a legend; 720 x 300 units."""
    width, height, left, bottom = 720, 300, 56, 262
    shown = [(name, _points(xs, ys, log)) for name, (xs, ys) in series.items()]
    points = np.concatenate([p for _, p in shown]) if shown else np.zeros((0, 2))
    points = points[np.isfinite(points).all(axis=1)]
    across = _fit(points[:, 0], left, width - 16, log=False)
    up = _fit(points[:, 1], bottom, 30, log)
    out = [_open(width, height, f"{y} against {x}")]
    for tick in up.ticks():
        out.append(_line(left, up(tick), width - 16, up(tick), "axis"))
        out.append(_text(left - 8, up(tick) + 4, show_number(tick), "end", "dim"))
    for tick in across.ticks():
        out.append(_text(across(tick), bottom + 18, show_number(tick), "middle", "dim"))
    out.append(_text(width - 16, bottom + 34, x, "end", "dim"))
    out.append(_text(8, 16, y, "start", "dim"))
    place = left + 90.0
    for i, (name, pairs) in enumerate(shown):
        out.append(f'<path class="line s{i % COLOURS}" d="{_path(pairs, across, up)}"/>')
        out.append(f'<rect class="f{i % COLOURS}" x="{place}" y="8" width="14" height="4" rx="2"/>')
        out.append(_text(place + 20, 16, name, "start"))
        place += 44 + 7 * len(name)
    return "".join(out) + "</svg>"


def draw_dots(rows: Sequence[Dot], *, x: str, log: bool, floor: Number | None) -> str:
    """Named values on one axis; 720 units wide, 26 a row."""
    width, left, right, top = 720, 190, 630, 12
    bottom = top + 26 * len(rows)
    ends = [v for r in rows for v in (r.value, r.low, r.high) if v is not None]
    axis = _fit(np.array([*ends, *([floor] if floor else [])]), left, right, log)
    out = [_open(width, bottom + 44, x)]
    if floor is not None and math.isfinite(floor):
        span = max(0.0, axis(floor) - left)
        out.append(
            f'<rect class="band" x="{left}" y="{top}" width="{span}" height="{bottom - top}"/>'
        )
    for tick in axis.ticks():
        out.append(_line(axis(tick), top, axis(tick), bottom, "axis"))
        out.append(_text(axis(tick), bottom + 18, show_number(tick), "middle", "dim"))
    out.append(_text(right, bottom + 36, x, "end", "dim"))
    for i, row in enumerate(rows):
        out.append(_draw_dot(row, axis, top + 26 * i + 13))
    return "".join(out) + "</svg>"


def draw_histogram(name: str, real: Sequence[Number], generated: Sequence[Number]) -> str:
    """Real values as filled bars, generated ones as an outline; 300 x 150 units."""
    width, height, left, right, top, bottom = 300, 150, 10, 290, 26, 124
    a, b = (_finite(values) for values in (real, generated))
    out = [_open(width, height, name), _text(left, 14, name, "start")]
    if not len(a) or not len(b):
        out.append(_text(left, 80, "undefined: nothing moves on one side", "start", "dim"))
        return "".join(out) + "</svg>"
    axis = _fit(np.concatenate([a, b]), left, right, log=False)
    edges = np.linspace(axis.low, axis.high, 25)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (a, b)]
    up = _Axis(0, float(max(s.max() for s in shares)), bottom, top)
    for i, share in enumerate(shares[0]):
        x0, x1, y = axis(edges[i]), axis(edges[i + 1]), up(share)
        out.append(
            f'<rect class="real" x="{x0}" y="{y}" width="{x1 - x0:.2f}" height="{bottom - y:.2f}"/>'
        )
    steps = [f"M{axis(edges[0])},{bottom}"]
    for i, share in enumerate(shares[1]):
        steps.append(f"L{axis(edges[i])},{up(share)}L{axis(edges[i + 1])},{up(share)}")
    steps.append(f"L{axis(edges[-1])},{bottom}")
    out.append(f'<path class="outline" d="{"".join(steps)}"/>')
    out.append(_line(left, bottom, right, bottom, "axis"))
    for tick in axis.ticks():
        out.append(_text(axis(tick), bottom + 16, show_number(tick), "middle", "dim"))
    return "".join(out) + "</svg>"


def _draw_dot(row: Dot, axis: _Axis, y: Number) -> str:
    kind = "model" if row.model else "other"
    out = [_text(178, y + 4, row.label, "end", "" if row.model else "dim")]
    out.append(_text(712, y + 4, show_number(row.value), "end", "" if row.model else "dim"))
    if not math.isfinite(row.value):
        return "".join(out)
    if row.low is not None and row.high is not None and math.isfinite(row.low + row.high):
        out.append(_line(axis(row.low), y, axis(row.high), y, kind))
    # Beyond the left end of a logarithmic axis a value lies somewhere to the left: hollow.
    hollow = ' fill-opacity="0"' if row.value < axis.low else ""
    out.append(f'<circle class="{kind}" cx="{axis(row.value)}" cy="{y}" r="4.5"{hollow}/>')
    return "".join(out)


def _points(xs: Sequence[Number], ys: Sequence[Number], log: bool) -> Float[np.ndarray, "n 2"]:
    pairs = np.stack([np.asarray(xs, float), np.asarray(ys, float)], axis=1).reshape(-1, 2)
    if log:
        pairs[pairs[:, 1] <= 0, 1] = np.nan
    return pairs


def _path(pairs: Float[np.ndarray, "n 2"], across: _Axis, up: _Axis) -> str:
    out, pen = [], "M"
    for x, y in pairs:
        if math.isfinite(x) and math.isfinite(y):
            out.append(f"{pen}{across(x)},{up(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(out)


def _fit(values: Float[np.ndarray, "n"], start: Number, end: Number, log: bool) -> _Axis:
    finite = _finite(values)
    if log:
        positive = finite[finite > 0]
        low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
        # Five decades at most: what lies below is as good as zero.
        low = max(low, high * 1e-5)
        return _Axis(float(low) / 1.5, float(high) * 1.5, start, end, log=True)
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    margin = float(high - low) * 0.04 or max(abs(float(high)), 1.0) * 0.1
    return _Axis(float(low) - margin, float(high) + margin, start, end)


def _finite(values: Sequence[Number] | Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _open(width: int, height: int, label: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'


def _text(x: Number, y: Number, words: str, anchor: str, kind: str = "") -> str:
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{look}>{escape(words)}</text>'


def _line(x0: Number, y0: Number, x1: Number, y1: Number, kind: str) -> str:
    return f'<line class="{kind}" x1="{x0:.2f}" y1="{y0:.2f}" x2="{x1:.2f}" y2="{y1:.2f}"/>'
