"""What may be said of the numbers: guards, flags, numbers withdrawn, warnings. No composite.

A number is *withdrawn* for a run when a degenerate anchor that it exists to see stands at its
floor: it then says nothing about the model either. A line is *flagged* when the model stands
further from real clips than twice what real clips reach among themselves, on either side. A
*guard* is a condition for reading the headline at all; an undefined number passes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vidiff.evaluation.report import HIGHER_IS_BETTER, Score, Statistic
from vidiff.runs.plots import show_number

GUARDED = ("frozen", "shuffled", "stutter", "jitter")
"""Anchors that a headline motion distance has to stay under."""
STATIC_MARGIN = 0.05
MOTION_RANGE = (0.8, 1.25)

MUST_SEE = {
    "kd.motion": GUARDED,
    "kd.change": ("frozen", "shuffled", "jitter"),
    "kd.appearance": ("blurred",),
    "coverage": ("collapsed",),
    "coverage.appearance": ("collapsed",),
}
"""The headline numbers, and the anchors that each was built to tell from real clips."""

FLAG_RATIO = 2.0
UNDEFINED_MARGIN = 0.05
COLLAPSED = 0.5

Anchors = Mapping[str, Mapping[str, float]]


def check_guards(
    scores: Mapping[str, Score], per_clip: Mapping[str, Statistic], anchors: Anchors
) -> dict[str, bool]:
    """Whether the headline may be read: True is passed, an undefined number never passes.

    `static_fraction`: share of still pairs within 5 points of real. `motion_ratio`: generated
    over real motion in [0.8, 1.25]. `under_ANCHOR`: motion distance below the anchor's.
    """
    static, amount = per_clip["motion.static_fraction"], per_clip["motion.amount"]
    ratio = amount["generated"] / amount["real"] if amount["real"] > 0 else math.nan
    distance = scores["kd.motion"]["value"]
    verdicts = {
        "static_fraction": abs(static["generated"] - static["real"]) <= STATIC_MARGIN,
        "motion_ratio": MOTION_RANGE[0] <= ratio <= MOTION_RANGE[1],
    }
    for name in GUARDED:
        verdicts[f"under_{name}"] = distance < anchors[name]["kd.motion"]
    return {name: bool(passed) for name, passed in verdicts.items()}


def find_withdrawn(scores: Mapping[str, Score], anchors: Anchors) -> dict[str, list[str]]:
    """Headline numbers that miss an anchor they must see, with the anchors missed."""
    out = {}
    for name, seen in MUST_SEE.items():
        if name in scores:
            missed = [a for a in seen if a in anchors and not _sees(name, scores, anchors[a])]
            if missed:
                out[name] = missed
    return out


def find_flags(scores: Mapping[str, Score], per_clip: Mapping[str, Statistic]) -> dict[str, str]:
    """Headline lines on which the generated clips stand apart from real ones, each with why."""
    return dict([*_flag_scores(scores), *_flag_statistics(per_clip)])


def write_warnings(
    n: int,
    videos: int | None,
    scores: Mapping[str, Score],
    per_clip: Mapping[str, Statistic],
    anchors: Anchors,
    copies: Mapping[str, Any],
) -> tuple[str, ...]:
    """Sentences a reader must not miss.

    Args:
        n: clips on each side.
        videos: source videos of the held-out clips, where known.
        scores, per_clip, anchors, copies: as in `Report`.
    """
    out = []
    if n < 64:
        out.append(f"{n} clips a side: not for comparison between models; 256 are recommended.")
    elif n < 128:
        out.append(f"{n} clips a side: intervals are wide; 256 are recommended.")
    if videos is not None and videos < 4:
        out.append("The held-out clips come from fewer than 4 videos: floors are too low.")
    for name, missed in find_withdrawn(scores, anchors).items():
        out.append(
            f"{name} does not tell the {' and '.join(missed)} anchor from real clips here: it is "
            "withdrawn in this run."
        )
    for name, statistic in per_clip.items():
        if statistic["undefined"] > 0.5:
            share = statistic["undefined"]
            out.append(f"{name} is undefined in {share:.0%} of generated clips: nothing moves.")
    for name in ("coverage", "coverage.appearance", "diversity.pixels"):
        if name in scores and scores[name]["ratio"] < COLLAPSED:
            out.append(f"{name} is under half that of real clips: the samples resemble each other.")
    for kind, found in copies.items():
        if isinstance(found, dict) and found["share"] > 5 * copies["expected_share"]:
            share = found["share"]
            out.append(f"{share:.0%} of generated clips lie suspiciously near training in {kind}.")
    return tuple(out)


def _sees(name: str, scores: Mapping[str, Score], anchor: Mapping[str, float]) -> bool:
    floor, value = scores[name]["floor"], anchor.get(name, math.nan)
    if math.isnan(value):
        return False
    return value < floor if name.startswith(HIGHER_IS_BETTER) else value > floor


def _flag_scores(scores: Mapping[str, Score]) -> Iterator[tuple[str, str]]:
    for name in MUST_SEE:
        if name not in scores:
            continue
        score = scores[name]
        if name.startswith(HIGHER_IS_BETTER):
            if score["ratio"] < COLLAPSED:
                yield name, f"{score['ratio']:.0%} of what real clips reach"
        elif score["ratio"] > FLAG_RATIO:
            yield name, f"{show_number(score['ratio'])} times what real clips reach"


def _flag_statistics(per_clip: Mapping[str, Statistic]) -> Iterator[tuple[str, str]]:
    for name, s in per_clip.items():
        if name.startswith("vbench."):
            continue
        if s["undefined"] > s["real_undefined"] + UNDEFINED_MARGIN:
            yield (
                name,
                f"undefined in {s['undefined']:.0%} of clips (real {s['real_undefined']:.0%})",
            )
        elif math.isnan(s["gap"]) and s["generated"] != s["real"] and s["undefined"] < 0.5:
            yield (
                name,
                f"{show_number(s['generated'])}, where all real clips agree on "
                + (show_number(s["real"])),
            )
        elif s["gap"] > FLAG_RATIO * s["floor"]:
            side = "above" if s["generated"] > s["real"] else "below"
            yield name, f"{side} real clips by {show_number(s['gap'])} of their spread"
