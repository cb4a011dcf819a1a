"""The smaller pages: answers beside right and trivial ones, and the table of robustness."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidiff.evaluation.pairing import PairedReport
from vidiff.evaluation.robustness import Robustness
from vidiff.evaluation.wording import show_span, show_with_span
from vidiff.evaluation.writing import encode_film
from vidiff.runs.files import write_json
from vidiff.runs.page import Media, Page, encode_png, tile_clips, tile_frames

FILM_WIDTH = 300
SHOWN = 4


def write_paired(report: PairedReport, out: str | Path) -> list[Path]:
    """Write `report.json` and `report.html` into `out`.

    Raises:
        VidiffError: a file could not be written.
    """
    folder, p = Path(out), report.protocol
    count = len(report.warnings())
    verdict = f"{count} lines are not beaten" if count else "Every trivial answer is beaten"
    page = Page(
        f"Task: {p['task']}",
        f"{p['n']} held-out clips, frames {p['judged']} judged. {verdict}.",
        f"Protocol {p['card']}, seed {p['seed']}.",
    )
    page.heading("The clips")
    films = []
    for name, clips in report.clips.items():
        scale = max(1, FILM_WIDTH // (2 * clips.shape[3]))
        film = tile_clips(clips[:SHOWN], 2, scale)
        films.append(Media(encode_film(film, 1 / p["dt"]), "video/mp4", name, film.shape[2]))
    page.media(*films)
    rows = np.stack([clips[0] for clips in report.clips.values()])
    sheet = encode_png(tile_frames(rows))
    caption = f"The first clip, frame by frame: {', '.join(report.clips)}"
    page.media(Media(sheet, "image/png", caption, 900))
    page.heading("Against the right answer")
    for sentence in report.warnings():
        page.note(sentence, "bad")
    page.table(
        ["", "value", "trivial answer", "its value", "difference, 95 % interval", "beaten"],
        [
            [name, show_with_span(s["value"], s["low"], s["high"]), trivial, other["value"],
             show_span(other["low"], other["high"]), "yes" if other["beaten"] else "no"]
            for name, s in report.scores.items()
            for trivial, other in (s["trivial"] or {"": _nothing()}).items()
        ],
        "PSNR, SSIM and VMAF are better when higher, the others when lower.",
    )  # fmt: skip
    if report.missing:
        page.heading("Not measured here")
        page.text(*report.missing)
    data = write_json(folder / "report.json", report.to_json())
    return [data, page.write(folder / "report.html")]


def write_robustness(table: Robustness, out: str | Path) -> list[Path]:
    """Write `robustness.json` and `robustness.html` into `out`.

    Raises:
        VidiffError: a file could not be written.
    """
    folder = Path(out)
    page = Page(
        "Robustness",
        "The model under rates, lengths, sizes, noise and conditions it was not trained on.",
    )
    names = list(dict.fromkeys(name for row in table.rows for name in row["values"]))
    page.table(
        ["", *names, "why not"],
        [
            [row["name"], *(row["values"].get(name) for name in names), row["reason"]]
            for row in table.rows
        ],
        "Ratio: distance to held-out clips of the same form over real against real (1: no "
        "difference shown). Motion: generated over real.",
    )
    data = write_json(folder / "robustness.json", table.to_json())
    return [data, page.write(folder / "robustness.html")]


def _nothing() -> dict[str, float | bool]:
    nan = float("nan")
    return {"value": nan, "low": nan, "high": nan, "beaten": True}
