"""An evaluation on paper: `report.json` for programs, `report.html` for people.

The page shows before it counts: real and generated clips play side by side, then come the plain
words, and only then the numbers, each beside what real clips and degenerate clips score.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vidiff.data.export import write_mp4
from vidiff.evaluation.report import Report
from vidiff.evaluation.wording import (
    GUARDS,
    explain,
    name_of,
    show_span,
    show_with_span,
    summarize,
)
from vidiff.runs.files import write_json
from vidiff.runs.page import (
    Dot,
    Media,
    Page,
    encode_png,
    tile_clips,
    tile_frames,
)

WHAT_IT_SEES = {
    "kd.motion": "Histograms of velocity and acceleration along tracks: blind to blur and colour.",
    "kd.appearance": "Network features averaged over time: blind to freezing and shuffling.",
    "kd.change": "How network features change from frame to frame.",
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
    page.checks({GUARDS[name]: passed for name, passed in report.guards.items()})
    for sentence in report.warnings:
        page.note(sentence)
    _show_scores(page, report)
    _show_anchors(page, report)
    _show_statistics(page, report)
    _show_copies(page, report, generated, train)
    if report.missing:
        page.heading("Not measured here")
        page.text(*report.missing)


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
        films.append(Media(encode_film(film, fps), "video/mp4", name, film.shape[2]))
        sheet = encode_png(tile_frames(clips[:4]))
        strips.append(Media(sheet, "image/png", f"{name}: four clips, frame by frame", 900))
    page.media(*films)
    for strip in strips:
        page.media(strip)
    page.text("The generated clips are the first ones, not the best ones.")


def encode_film(frames: UInt8[np.ndarray, "t h w c"], fps: float) -> bytes:
    """A clip as the bytes of an H.264 MP4."""
    colour = frames if frames.shape[-1] == 3 else frames.repeat(3, axis=-1)
    with tempfile.TemporaryDirectory() as folder:
        return write_mp4(Path(folder) / "film.mp4", colour, fps, crf=18).read_bytes()


def _show_scores(page: Page, report: Report) -> None:
    page.heading("Scores of the whole set")
    rows = [
        [
            name_of(name),
            s["value"],
            show_span(s["low"], s["high"]),
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
    page.text(
        "Held-out clips, degraded on purpose and scored like the model. The shaded part is where "
        "real clips stand against other real clips; hollow dots lie left of the axis."
    )
    for name in (n for n in report.scores if n.startswith("kd.")):
        s = report.scores[name]
        dots = [Dot(anchor, a[name]) for anchor, a in report.anchors.items()]
        page.dots(
            [
                Dot("this model", s["value"], s["low"], s["high"], model=True),
                *sorted(dots, key=lambda dot: dot.value),
            ],
            x=f"{name_of(name)} (logarithmic)",
            log=True,
            floor=s["floor"],
            caption=WHAT_IT_SEES[name],
        )
    names = list(report.per_clip)
    model = ["this model", *(report.per_clip[name]["gap"] for name in names)]
    real = ["real against real", *(report.per_clip[name]["floor"] for name in names)]
    rows = [[anchor, *(a[f"gap.{name}"] for name in names)] for anchor, a in report.anchors.items()]
    page.table(
        ["gap to real clips", *(name_of(name) for name in names)],
        [model, real, *rows],
        "Gap: 1-d Wasserstein distance over the real interquartile range (standard "
        "deviation where that is 0). Undefined: nothing moves, or the real clips all agree.",
    )


def _show_statistics(page: Page, report: Report) -> None:
    page.heading("Clip by clip")
    panels = {
        name_of(name): (real.tolist(), ours.tolist())
        for name, (ours, real) in report.values.items()
    }
    page.histograms(panels, "Filled: real clips. Outline: generated clips.")
    rows = [
        [
            name_of(name),
            show_with_span(s["generated"], s["generated_low"], s["generated_high"]),
            show_with_span(s["real"], s["real_low"], s["real_high"]),
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
        [
            kind,
            f"{c['share']:.1%}",
            f"{expected:.0%}",
            f"{c['copied']:.1%}",
            c["z"],
            c["train_clips"],
        ]
        for kind, c in report.copies.items()
        if kind in ("pixels", "motion")
    ]
    page.table(
        ["compared by", "near", "without copying", "copied", "rank z", "training clips"],
        rows,
        "Near: closer to a training clip, mirrored or moved in time or not, than 99 % of the "
        "held-out clips are. Copied: under three quarters of that distance. A clearly negative z "
        "says the same of the set as a whole.",
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
