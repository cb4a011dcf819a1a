"""Two or more models against one reference: differences with intervals, under one card.

All are scored with the same held-out clips, the same seeds and the same bootstrap weights, so the
difference of two draws is paired: what the reference happens to contain cancels. Where a result is
read from a file its draws are gone; the interval is then that of two independent results, which is
wider, and the comparison says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from vidiff.errors import RequestError
from vidiff.evaluation.card import require_same
from vidiff.evaluation.report import HIGHER_IS_BETTER, Report, as_json
from vidiff.evaluation.wording import name_of, show_span
from vidiff.runs.files import read_json, write_json
from vidiff.runs.page import Page
from vidiff.runs.plots import Dot, show_number

CARD_KEYS = ("revision", "n", "num_frames", "height", "width", "channels", "dt", "seed",
             "neighbours", "reference_sha256", "split_digest", "features", "resize", "codec",
             "versions")  # fmt: skip


class Difference(TypedDict):
    """One line of one model against the same line of the first."""

    line: str
    first: str
    other: str
    difference: float
    """Value of the other less value of the first."""
    low: float
    high: float
    better: str
    """Name of the better one; empty where the interval holds 0."""


@dataclass(frozen=True)
class Comparison:
    """Results of one card, side by side; prints as a table."""

    card: str
    results: dict[str, dict[str, Any]]
    """Name to result, as in the JSON of `Report`."""
    differences: tuple[Difference, ...]
    paired: bool
    """Whether the draws of both sides were at hand."""

    def to_json(self) -> dict[str, Any]:
        """One object, ready for `json.dumps`."""
        return as_json(
            {
                "card": self.card,
                "paired": self.paired,
                "results": self.results,
                "differences": list(self.differences),
            }
        )

    def __str__(self) -> str:
        lines = [f"protocol {self.card}: {' against '.join(self.results)}"]
        for d in self.differences:
            span = show_span(d["low"], d["high"])
            better = f"{d['better']} is nearer to real" if d["better"] else "no difference shown"
            difference = f"{d['line']:28}{show_number(d['difference']):>10}  ({span})"
            lines.append(f"{difference:72}{d['other']}: {better}")
        if not self.paired:
            lines.append("read from files: intervals are those of independent results, too wide.")
        return "\n".join(lines)


def compare_reports(reports: Mapping[str, Report]) -> Comparison:
    """Paired differences of every other result to the first.

    Args:
        reports: name to result, two or more.

    Raises:
        RequestError: fewer than two, or results of different cards, naming the difference.
    """
    results = {name: report.to_json() for name, report in reports.items()}
    card = _check(results)
    (first, base), *others = reports.items()
    out = []
    for other, report in others:
        for line in _lines(base.to_json()):
            if line in base.draws and line in report.draws:
                draws = report.draws[line] - base.draws[line]
                value = _value(results[other], line) - _value(results[first], line)
                finite = draws[~np.isnan(draws)]
                ends = np.percentile(finite, [2.5, 97.5]) if len(finite) else (math.nan, math.nan)
                out.append(_difference(line, first, other, value, *map(float, ends)))
    return Comparison(card, results, tuple(out), paired=True)


def compare_files(paths: Sequence[str | Path]) -> Comparison:
    """The same of results that `vidiff eval --json` wrote, without their draws.

    Raises:
        RequestError: a file that holds no result, or results of different cards.
    """
    results = {}
    for path in paths:
        result = read_json(path)
        if not isinstance(result, dict) or not {"protocol", "scores"} <= set(result):
            raise RequestError(
                f"{path} holds no result of an evaluation.", "Name a file that --json wrote."
            )
        results[str(path)] = result
    card = _check(results)
    (first, base), *others = results.items()
    out = []
    for other, result in others:
        for line in result["scores"]:
            x, y = base["scores"][line], result["scores"][line]
            value = y["value"] - x["value"]
            down = math.hypot(y["value"] - y["low"], x["high"] - x["value"])
            up = math.hypot(y["high"] - y["value"], x["value"] - x["low"])
            out.append(_difference(line, first, other, value, value - down, value + up))
    return Comparison(card, results, tuple(out), paired=False)


def write_comparison(comparison: Comparison, out: str | Path) -> list[Path]:
    """Write `compare.json` and `compare.html` into `out`.

    Raises:
        VidiffError: a file could not be written.
    """
    folder = Path(out)
    names = list(comparison.results)
    page = Page(
        "Comparison",
        f"{' against '.join(names)}: {len(comparison.differences)} lines under one protocol.",
        f"Protocol {comparison.card}.",
    )
    for line in (n for n in comparison.results[names[0]]["scores"] if n.startswith("kd.")):
        page.heading(name_of(line))
        scores = {name: result["scores"][line] for name, result in comparison.results.items()}
        page.dots(
            [Dot(name, s["value"], s["low"], s["high"], model=True) for name, s in scores.items()],
            x=f"{name_of(line)} (lower is closer)",
            floor=scores[names[0]]["floor"],
        )
    page.heading("Differences")
    page.table(
        ["", "model", "less the first", "95 % interval", "nearer to real"],
        [
            [name_of(d["line"]), d["other"], d["difference"], show_span(d["low"], d["high"]),
             d["better"] or "not shown"]
            for d in comparison.differences
        ],
        f"Against {names[0]}. "
        + ("Paired: same seeds, same clips, same weights." if comparison.paired else
           "Read from files: intervals as of independent results, too wide."),
    )  # fmt: skip
    data = write_json(folder / "compare.json", comparison.to_json())
    return [data, page.write(folder / "compare.html")]


def _check(results: Mapping[str, Mapping[str, Any]]) -> str:
    if len(results) < 2:
        raise RequestError(
            f"--compare was given {len(results)} result.", "Name two runs, folders or JSON files."
        )
    # Through JSON, so that a number read from a file equals the one in memory.
    cards = {
        name: json.loads(json.dumps({k: r["protocol"].get(k) for k in CARD_KEYS}))
        for name, r in results.items()
    }
    require_same(cards)
    return str(next(iter(results.values()))["protocol"]["card"])


def _lines(result: Mapping[str, Any]) -> list[str]:
    return [*result["scores"], *(f"gap.{name}" for name in result["per_clip"])]


def _value(result: Mapping[str, Any], line: str) -> float:
    if line.startswith("gap."):
        value = result["per_clip"][line.removeprefix("gap.")]["gap"]
    else:
        value = result["scores"][line]["value"]
    return math.nan if value is None else float(value)


def _difference(
    line: str, first: str, other: str, value: float, low: float, high: float
) -> Difference:
    better = ""
    if low > 0 or high < 0:
        other_wins = (low > 0) == line.startswith(HIGHER_IS_BETTER)
        better = other if other_wins else first
    return Difference(
        line=line, first=first, other=other, difference=value, low=low, high=high, better=better
    )
