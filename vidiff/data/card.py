"""The data card: what a folder holds, as text and as one page with pictures.

Every figure on it is counted from the verdicts of `data.index`; nothing is decoded but the few
frames that are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vidiff.data.index import Index
from vidiff.data.verdict import VideoEntry, cover_size
from vidiff.data.video import read_frames
from vidiff.errors import DataError
from vidiff.runs.page import Media, Page, encode_png, tile_frames

SHOWN = 24
"""Films that are shown by four frames each."""
FRAMES = 4
SIDE = 96
MOTIONLESS = 0.5
"""Grey levels of mean change below which a film hardly moves."""
DARK, BRIGHT = 25, 230
ROWS = 500
"""Rows of the longest table; the rest is in the JSON and CSV files."""

Measure = tuple[str, str, Callable[[VideoEntry], float]]

MEASURES: tuple[Measure, ...] = (
    ("duration", "seconds", lambda e: e.duration),
    ("rate", "frames a second", lambda e: e.fps),
    ("shorter side", "pixels", lambda e: float(min(e.width, e.height))),
    ("motion", "grey levels a frame", lambda e: e.motion),
    ("still frame pairs", "share", lambda e: e.still),
    ("brightness", "grey levels", lambda e: e.brightness),
    ("windows", "count", lambda e: float(e.windows)),
)


def describe_folder(index: Index) -> str:
    """The card as text for the terminal."""
    films = index.usable
    lines = [headline(index)]
    for name, unit, measure in MEASURES if films else ():
        low, middle, high = np.quantile([measure(e) for e in films], (0, 0.5, 1))
        lines.append(f"{name:18} {low:9.4g} {middle:9.4g} {high:9.4g}  {unit}; least, median, most")
    for name, count in balance(index):
        lines.append(f"class {name:12} {count:9d} windows")
    lines += [f"Note: {note}" for note in notes(index)]
    return "\n".join(lines)


def headline(index: Index) -> str:
    """How much there is, in a sentence."""
    told = index.summary()
    return (
        f"{told['usable']} of {told['videos']} videos are usable: {told['windows']} windows of "
        f"{index.config.num_frames} frames in {told['seconds']:.0f} s, {told['train_windows']} to "
        f"train on, {told['test_windows']} held out; {told['groups']} groups of alike films, "
        f"{told['shots']} shots."
    )


def balance(index: Index) -> list[tuple[str, int]]:
    """Classes and the windows each has, most first."""
    windows: Counter[str] = Counter()
    for e in index.usable:
        windows[e.label or "(no class)"] += e.windows
    return windows.most_common() if index.labels else []


def notes(index: Index) -> list[str]:
    """What a careful person would look at before training."""
    films = index.usable
    found = []
    for count, what in (
        (sum(e.motion < MOTIONLESS for e in films), "hardly move"),
        (sum(e.brightness < DARK for e in films), "are nearly black"),
        (sum(e.brightness > BRIGHT for e in films), "are nearly white"),
        (sum(bool(e.resembles) for e in films), "resemble another one"),
        (sum(e.vfr for e in films), "have a variable rate, and are read by time"),
        (sum(min(e.width, e.height) < index.config.size for e in films), "will be enlarged"),
    ):
        if count:
            found.append(f"{count} of {len(films)} films {what}.")
    shares = balance(index)
    if len(shares) > 1 and shares[0][1] > 10 * shares[-1][1]:
        times = shares[0][1] / max(shares[-1][1], 1)
        found.append(
            f"Class {shares[0][0]} has {times:.0f} times the windows of class {shares[-1][0]}; "
            "data.sampling=class draws them equally often."
        )
    captions = sum(e.caption is not None for e in films)
    if 0 < captions < len(films):
        found.append(f"{len(films) - captions} of {len(films)} films have no caption.")
    return found


def write_card(path: str | Path, index: Index) -> Path:
    """The card as one self-contained HTML page.

    Raises:
        VidiffError: the page cannot be written.
    """
    page = Page("Data card", headline(index), f"{index.config.root}, digest {index.digest}")
    for note in notes(index):
        page.note(note)
    if index.usable:
        _add_measures(page, index.usable)
        _add_pictures(page, index)
    if index.labels:
        page.heading("Classes")
        page.table(["class", "windows"], balance(index))
    _add_groups(page, index)
    _add_verdicts(page, index)
    return page.write(path)


def _add_measures(page: Page, films: Sequence[VideoEntry]) -> None:
    page.heading("Films")
    rows = []
    for name, unit, measure in MEASURES:
        values = [measure(e) for e in films]
        rows.append([name, *map(float, np.quantile(values, (0, 0.25, 0.5, 0.75, 1))), unit])
    page.table(["", "least", "quarter", "median", "three quarters", "most", "unit"], rows)
    curves = {
        name: (np.linspace(0, 1, len(films)).tolist(), sorted(measure(e) for e in films))
        for name, _, measure in MEASURES
        if name in ("motion", "duration")
    }
    page.curve(curves, x="share of the films", y="s, levels")


def _add_pictures(page: Page, index: Index) -> None:
    films = index.usable
    chosen = np.unique(np.linspace(0, len(films) - 1, min(SHOWN, len(films))).round().astype(int))
    page.heading(f"{len(chosen)} of the films")
    for place in chosen:
        entry = films[place]
        words = entry.caption or entry.label or ""
        told = f"{entry.path}: {entry.duration:.1f} s, {len(entry.cuts)} cuts. {words[:200]}"
        try:
            sheet = tile_frames(_frames(index, entry)[None])
        except DataError as error:
            page.note(f"{entry.path}: {error.cause}", "bad")
            continue
        page.media(Media(encode_png(sheet), "image/png", told))


def _frames(index: Index, entry: VideoEntry) -> UInt8[np.ndarray, "t h w c"]:
    """Frames evenly spread over a film, small."""
    first, last = entry.span
    times = first + (last - first) * np.linspace(0.02, 0.98, FRAMES)
    return read_frames(Path(index.config.root) / entry.path, times, cover_size(entry, SIDE))


def _add_groups(page: Page, index: Index) -> None:
    alike = [e for e in index.usable if e.resembles]
    if alike:
        page.heading("Films that resemble another one")
        page.text("They stay on one side of the split.")
        page.table(
            ["film", "resembles", "side"], [[e.path, e.resembles, e.split] for e in alike[:ROWS]]
        )


def _add_verdicts(page: Page, index: Index) -> None:
    reasons = index.reasons()
    if reasons:
        page.heading("Why files are not used")
        page.table(["reason", "files"], reasons)
        refused = [[e.path, e.reason, e.remedy] for e in index.entries if not e.usable]
        page.table(["file", "reason", "remedy"], refused[:ROWS])
