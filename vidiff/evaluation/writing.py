"""An evaluation on paper: `report.json` for programs, `report.html` for people.

The page shows before it counts: real and generated clips play side by side, then come the plain
words, and only then the numbers, each beside what real clips and degenerate clips score.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vidiff.evaluation.report import GUARDED, Report, Statistic
from vidiff.runs.files import write_json
from vidiff.runs.page import (
    Dot,
    Media,
    Page,
    encode_animation,
    encode_png,
    show_number,
    tile_clips,
    tile_frames,
)

NAMES = {
    "kd.motion": "distance in motion",
    "fd.motion": "distance in motion, Fréchet",
    "density": "density",
    "coverage": "coverage",
    "diversity.pixels": "diversity",
    "motion.amount": "motion, widths/s",
    "motion.static_fraction": "share of still pairs",
    "smooth.interp_ratio": "interpolation error ratio",
    "smooth.jerk_ratio": "jerk over velocity",
    "flicker.brightness": "brightness flicker, levels",
    "colour.drift": "colour drift, levels",
    "sharpness": "sharpness",
    "jump": "largest over median change",
}
GUARDS = {
    "static_fraction": "as many still frames as in real clips (within 5 points)",
    "motion_ratio": "as much motion as in real clips (0.8 to 1.25 times)",
    **{f"under_{name}": f"nearer to real motion than {name} clips are" for name in GUARDED},
}
FILM_WIDTH = 450
PAIR_FRAMES = 4


def write_report(
    report: Report,
    generated: UInt8[np.ndarray, "b t h w c"],
    real: UInt8[np.ndarray, "n t h w c"],
    out: str | Path,
    *,
    train: UInt8[np.ndarray, "m t h w c"] | None = None,
    title: str = "Evaluation",
) -> list[Path]:
    """Write `report.json` and `report.html` into `out`, each under a temporary name first.

    Returns:
        The two files.

    Raises:
        VidiffError: a file could not be written.
    """
    folder = Path(out)
    data = write_json(folder / "report.json", report.to_json())
    p = report.protocol
    versions = ", ".join(f"{name} {v}" for name, v in p["versions"].items())
    page = Page(title, summarize(report), f"Protocol {p['card']}, seed {p['seed']}; {versions}.")
    fill_page(page, report, generated, real, train=train)
    return [data, page.write(folder / "report.html")]


def fill_page(
    page: Page,
    report: Report,
    generated: UInt8[np.ndarray, "b t h w c"],
    real: UInt8[np.ndarray, "n t h w c"],
    *,
    train: UInt8[np.ndarray, "m t h w c"] | None = None,
) -> None:
    """Add the sections of an evaluation to a page, after whatever it already holds."""
    _show_clips(page, generated, real, 1 / report.protocol["dt"])
    page.heading("What the numbers say")
    page.text(*explain(report))
    page.checks({GUARDS[name]: passed for name, passed in report.guards().items()})
    for sentence in report.warnings:
        page.note(sentence)
    _show_scores(page, report)
    _show_anchors(page, report)
    _show_statistics(page, report)
    _show_copies(page, report, generated, train)
    if report.missing:
        page.heading("Not measured here")
        page.text(*report.missing)


def summarize(report: Report) -> str:
    """One sentence for the head of a page."""
    p, failed = report.protocol, [n for n, ok in report.guards().items() if not ok]
    verdict = (
        "All guards pass."
        if not failed
        else f"{len(failed)} of {len(report.guards())} guards fail."
    )
    return (
        f"{p['n']} generated clips against {p['n']} held-out real ones, {p['num_frames']} frames "
        f"of {p['height']} x {p['width']} at {1 / p['dt']:.4g} per second. {verdict}"
    )


def explain(report: Report) -> list[str]:
    """The result in plain words, a paragraph each for motion, smoothness and variety."""
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
        f"{_span(kd['low'], kd['high'])}), {place}. Generated clips move "
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
    return [motion, smooth, variety]


def _show_clips(
    page: Page,
    generated: UInt8[np.ndarray, "b t h w c"],
    real: UInt8[np.ndarray, "n t h w c"],
    fps: float,
) -> None:
    page.heading("The clips")
    width = generated.shape[3]
    columns = 4 if 8 * width <= FILM_WIDTH else 3
    scale = max(1, FILM_WIDTH // (columns * width))
    shown = columns * (2 if columns == 4 else 3)
    spread = np.linspace(0, len(real) - 1, min(shown, len(real))).round().astype(int)
    films, strips = [], []
    for name, clips in (("Real, held out", real[spread]), ("Generated", generated[:shown])):
        film = tile_clips(clips, columns, scale)
        films.append(Media(encode_animation(film, fps), "image/webp", name, film.shape[2]))
        sheet = encode_png(tile_frames(clips[:4]))
        strips.append(Media(sheet, "image/png", f"{name}: four clips, frame by frame", 900))
    page.media(*films)
    for strip in strips:
        page.media(strip)
    page.text("The generated clips are the first ones, not the best ones.")


def _show_scores(page: Page, report: Report) -> None:
    page.heading("Scores of the whole set")
    rows = [
        [
            NAMES[name],
            s["value"],
            _span(s["low"], s["high"]),
            s["floor"],
            s["ratio"],
            s["n"],
        ]
        for name, s in report.scores.items()
    ]
    page.table(
        ["", "value", "95 % interval", "real against real", "ratio", "clips"],
        rows,
        "Distances are better when lower, density, coverage and diversity when nearer to real "
        "against real. Intervals are approximate. An unbiased distance may fall below 0.",
    )


def _show_anchors(page: Page, report: Report) -> None:
    page.heading("Where broken clips would stand")
    kd = report.scores["kd.motion"]
    dots = [Dot("this model", kd["value"], kd["low"], kd["high"], model=True)]
    dots += [Dot(name, a["kd.motion"]) for name, a in report.anchors.items()]
    dots[1:] = sorted(dots[1:], key=lambda dot: dot.value)
    page.dots(
        dots,
        x="distance in motion (logarithmic)",
        log=True,
        floor=kd["floor"],
        caption="Held-out clips, degraded on purpose and scored like the model. The shaded part "
        "is where real clips stand against other real clips; hollow dots lie left of the axis. "
        "Motion says little of blur and colour: see sharpness below for the former.",
    )
    names = list(report.per_clip)
    model = ["this model", *(report.per_clip[name]["gap"] for name in names)]
    real = ["real against real", *(report.per_clip[name]["floor"] for name in names)]
    rows = [[anchor, *(a[f"gap.{name}"] for name in names)] for anchor, a in report.anchors.items()]
    page.table(
        ["gap to real clips", *(NAMES[name] for name in names)],
        [model, real, *rows],
        "Gap: 1-d Wasserstein distance over the real interquartile range (standard "
        "deviation where that is 0). Undefined: nothing moves, or the real clips all agree.",
    )


def _show_statistics(page: Page, report: Report) -> None:
    page.heading("Clip by clip")
    panels = {
        NAMES[name]: (real.tolist(), ours.tolist()) for name, (ours, real) in report.values.items()
    }
    page.histograms(panels, "Filled: real clips. Outline: generated clips.")
    rows = [
        [
            NAMES[name],
            _with_span(s["generated"], s["generated_low"], s["generated_high"]),
            _with_span(s["real"], s["real_low"], s["real_high"]),
            s["gap"],
            s["floor"],
            f"{s['undefined']:.0%}",
        ]
        for name, s in report.per_clip.items()
    ]
    page.table(
        ["", "generated", "real", "gap", "gap, real against real", "undefined"],
        rows,
        "Means with approximate 95 % intervals. Verdicts go by the gap, never by the mean.",
    )


def _show_copies(
    page: Page,
    report: Report,
    generated: UInt8[np.ndarray, "b t h w c"],
    train: UInt8[np.ndarray, "m t h w c"] | None,
) -> None:
    if not report.copies:
        return
    page.heading("Copies of training clips")
    expected = report.copies["expected_share"]
    rows = [
        [kind, f"{c['share']:.1%}", f"{expected:.0%}", c["z"], c["train_clips"]]
        for kind, c in report.copies.items()
        if kind in ("pixels", "motion")
    ]
    page.table(
        ["compared by", "flagged", "without copying", "rank z", "training clips"],
        rows,
        "Flagged: nearer to a training clip, mirrored or not, than 99 % of the held-out clips "
        "are. A clearly negative z says the same of the set as a whole.",
    )

    _show_pairs(page, report.copies["closest"], generated, train)


def _show_pairs(
    page: Page,
    pairs: list[dict[str, Any]],
    generated: UInt8[np.ndarray, "b t h w c"],
    train: UInt8[np.ndarray, "m t h w c"] | None,
) -> None:
    if train is None or not pairs:
        return
    frames = np.linspace(0, train.shape[1] - 1, PAIR_FRAMES).round().astype(int)
    ours = np.stack([generated[pair["generated"], frames] for pair in pairs])
    theirs = np.stack([train[pair["train"], frames] for pair in pairs])
    named = (("Generated, the closest first", ours), ("Nearest training clip of each", theirs))
    page.media(*(Media(encode_png(tile_frames(c)), "image/png", name, 380) for name, c in named))


def _span(low: float, high: float) -> str:
    return f"{show_number(low)} to {show_number(high)}"


def _with_span(value: float, low: float, high: float) -> str:
    return f"{show_number(value)} ({_span(low, high)})"


def _times(statistic: Statistic) -> str:
    if not statistic["real"] > 0:
        return "an undefined number of times"
    return f"{statistic['generated'] / statistic['real']:.2f} times"


def _two(statistic: Statistic) -> str:
    if math.isnan(statistic["generated"]):
        return f"undefined, nothing moving (real {statistic['real']:.2f})"
    return f"{statistic['generated']:.2f} (real {statistic['real']:.2f})"
