"""An evaluation in words: names of the lines, the verdict, a paragraph for each question."""

from __future__ import annotations

import math

from vidiff.evaluation.report import Report, Statistic
from vidiff.evaluation.verdicts import GUARDED
from vidiff.runs.plots import show_number

NAMES = {
    "kd.motion": "distance in motion",
    "fd.motion": "distance in motion, Fréchet",
    "kd.appearance": "distance in appearance",
    "fd.appearance": "distance in appearance, Fréchet",
    "kd.change": "distance in change",
    "fd.change": "distance in change, Fréchet",
    "density": "density, in motion",
    "coverage": "coverage, in motion",
    "density.appearance": "density, in appearance",
    "coverage.appearance": "coverage, in appearance",
    "diversity.pixels": "diversity",
    "motion.amount": "motion, widths/s",
    "motion.static_fraction": "share of still pairs",
    "smooth.interp_ratio": "interpolation error ratio",
    "smooth.jerk_ratio": "jerk over velocity",
    "flicker.brightness": "brightness flicker, levels",
    "flicker.perceptual": "perceptual flicker",
    "sharpness": "sharpness",
    "colour.drift": "colour drift, levels",
    "vbench.temporal_flickering": "VBench flickering (comparison only)",
    "vbench.motion_smoothness@dis": "VBench smoothness, DIS (comparison only)",
    "vbench.dynamic_degree@dis": "VBench dynamic degree, DIS (comparison only)",
    "seam": "change at a seam over elsewhere",
    "jump": "largest over median change",
}
GUARDS = {
    "static_fraction": "as many still frames as in real clips (within 5 points)",
    "motion_ratio": "as much motion as in real clips (0.8 to 1.25 times)",
    **{f"under_{name}": f"nearer to real motion than {name} clips are" for name in GUARDED},
}


def summarize(report: Report) -> str:
    """One sentence for the head of a page."""
    p, failed = report.protocol, [n for n, ok in report.guards.items() if not ok]
    verdict = (
        "All guards pass." if not failed else f"{len(failed)} of {len(report.guards)} guards fail."
    )
    return (
        f"{p['n']} generated clips against {p['n']} held-out real ones, {p['num_frames']} frames "
        f"of {p['height']} x {p['width']} at {1 / p['dt']:.4g} per second. {verdict}"
    )


def explain(report: Report) -> list[str]:
    """The result in plain words: what stands apart, then motion, looks, smoothness, variety."""
    kd, stats = report.scores["kd.motion"], report.per_clip
    static = stats["motion.static_fraction"]
    nearest = min(GUARDED, key=lambda name: report.anchors[name]["kd.motion"])
    anchor = show_number(report.anchors[nearest]["kd.motion"])
    if kd["ratio"] <= 1:
        place = "which real clips reach against other real clips: no difference could be shown"
    else:
        place = (
            f"{show_number(kd['ratio'])} times what real clips reach against other real clips. "
            f"The mildest of the broken versions, {nearest}, stands at {anchor}"
        )
    motion = (
        f"Motion: the distance is {show_number(kd['value'])} (95 % interval "
        f"{show_span(kd['low'], kd['high'])}), {place}. Generated clips move "
        f"{_times(stats['motion.amount'])} as much as real ones, and {static['generated']:.0%} "
        f"of their frame pairs are still, against {static['real']:.0%}."
    )
    interp, jerk = stats["smooth.interp_ratio"], stats["smooth.jerk_ratio"]
    smooth = (
        "Smoothness: the error of a middle frame rebuilt from its neighbours, over their own "
        f"difference, is {_two(interp)}; jerk over velocity is {_two(jerk)}. Neither "
        "is better when lower: a photograph panned across the screen would win "
        "both. What counts is to be close to real."
    )
    cover, spread = report.scores["coverage"], report.scores["diversity.pixels"]
    variety = (
        f"Variety: {cover['value']:.0%} of real clips have a generated clip near them in motion "
        f"(real against real: {cover['floor']:.0%}), and two generated clips differ "
        f"{spread['value']:.2f} times as much as two real ones."
    )
    return [_sum_up(report), motion, *_explain_looks(report), smooth, variety]


def _sum_up(report: Report) -> str:
    copied = [
        f"{found['share']:.0%} by {kind}"
        for kind, found in report.copies.items()
        if isinstance(found, dict)
    ]
    near = (
        f"Suspiciously near to training clips: {' and '.join(copied)}, where 1 % is expected."
        if copied
        else "Nothing can be said of copying without the training clips."
    )
    if not report.flags:
        return (
            "On no headline line do the generated clips stand clearly apart from real ones. " + near
        )
    lines = "; ".join(f"{name_of(name)}: {why}" for name, why in report.flags.items())
    return (
        f"The generated clips stand apart from real ones on {len(report.flags)} "
        f"line{'s' if len(report.flags) > 1 else ''}. {lines}. {near}"
    )


def _explain_looks(report: Report) -> list[str]:
    if "kd.appearance" not in report.scores:
        return []
    looks, change = report.scores["kd.appearance"], report.scores["kd.change"]
    return [
        f"Looks: in what single frames show the distance is {show_number(looks['value'])} "
        f"({show_number(looks['ratio'])} times real against real); this line cannot see time. In "
        f"how frames change it is {show_number(change['value'])} "
        f"({show_number(change['ratio'])} times real against real)."
    ]


def name_of(key: str) -> str:
    """A score or statistic in words; what has none keeps its key."""
    return NAMES.get(key, key)


def show_span(low: float, high: float) -> str:
    """Both ends of an interval."""
    return f"{show_number(low)} to {show_number(high)}"


def show_with_span(value: float, low: float, high: float) -> str:
    """A value with its interval behind it."""
    return f"{show_number(value)} ({show_span(low, high)})"


def _times(statistic: Statistic) -> str:
    if not statistic["real"] > 0:
        return "an undefined number of times"
    return f"{statistic['generated'] / statistic['real']:.2f} times"


def _two(statistic: Statistic) -> str:
    if math.isnan(statistic["generated"]):
        return f"undefined, nothing moving (real {statistic['real']:.2f})"
    return f"{statistic['generated']:.2f} (real {statistic['real']:.2f})"
