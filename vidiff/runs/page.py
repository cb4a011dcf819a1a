"""One HTML file that tells how a run went: text, tables, plots and moving pictures, nothing else.

A page has no scripts and loads nothing: pictures are data URIs, plots are inline SVG, and a
content security policy forbids the rest. Everything given to it is text and is escaped, so a file
name may hold what it likes. Sections appear in the order in which they were added:

    page = Page("Evaluation", "32 generated clips against 32 held-out ones.")
    page.heading("Clips")
    page.media(Media(encode_animation(frames, fps=8), "image/webp", "generated", width=320))
    page.curve({"loss": (steps, losses)}, x="step", y="loss")
    page.write("report.html")
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from vidiff.errors import RequestError
from vidiff.runs.files import write_text
from vidiff.runs.plots import Dot, Number, draw_curves, draw_dots, draw_histogram, show_number

__all__ = [
    "Dot",
    "Media",
    "Page",
    "encode_animation",
    "encode_png",
    "show_number",
    "tile_clips",
    "tile_frames",
]

MIME_TYPES = ("image/png", "image/gif", "image/webp", "image/jpeg", "video/mp4", "video/webm")
TONES = ("plain", "good", "bad")


@dataclass(frozen=True)
class Media:
    """A picture or film inside the page; films and animations loop by themselves."""

    data: bytes
    mime: str
    """One of `MIME_TYPES`."""
    caption: str = ""
    width: int | None = None
    """Width on the page in CSS pixels, whole pixels shown sharp; None leaves it as it is."""

    def __post_init__(self) -> None:
        if self.mime not in MIME_TYPES:
            raise RequestError(
                f"Media.mime is {self.mime!r}; a page shows {', '.join(MIME_TYPES)}.",
                "Encode the picture as PNG or WebP, the film as MP4.",
            )

    @property
    def uri(self) -> str:
        """The data URI."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


class Page:
    """Sections collected in order, then written as one self-contained file.

    Args:
        title: heading of the page and name of its tab.
        summary: what a reader in a hurry should know, one or two sentences.
        footer: small print (versions, command, seed).
    """

    def __init__(self, title: str, summary: str = "", footer: str = "") -> None:
        self.title = title
        self.summary = summary
        self.footer = footer
        self.parts: list[tuple[str, Any]] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.parts.append(("heading", text))

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs of plain text."""
        self.parts.extend(("text", paragraph) for paragraph in paragraphs)

    def note(self, text: str, tone: str = "plain") -> None:
        """Add a sentence set apart; `tone` is "plain", "good" or "bad".

        Raises:
            RequestError: another tone.
        """
        if tone not in TONES:
            raise RequestError(f"note tone is {tone!r}; it is one of {', '.join(TONES)}.")
        self.parts.append(("note", {"text": text, "tone": tone}))

    def checks(self, verdicts: Mapping[str, bool]) -> None:
        """Add a list of sentences, each with whether it holds."""
        self.parts.append(("checks", dict(verdicts)))

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], caption: str = ""
    ) -> None:
        """Add a table: the first column is names, the others numbers; floats get 3 digits.

        Raises:
            RequestError: a row with more or fewer cells than the header.
        """
        for row in rows:
            if len(row) != len(header):
                raise RequestError(
                    f"A table row has {len(row)} cells; the header has {len(header)}: {row!r}."
                )
        cells = [[_show(cell) for cell in row] for row in rows]
        self.parts.append(("table", {"header": header, "rows": cells, "caption": caption}))

    def curve(
        self,
        series: Mapping[str, tuple[Sequence[Number], Sequence[Number]]],
        *,
        x: str,
        y: str,
        log: bool = False,
        caption: str = "",
    ) -> None:
        """Add line curves, name to (xs, ys); points that are not finite break the line.

        `log` puts y on a logarithmic axis and leaves out what is not positive.
        """
        svg = draw_curves(series, x=x, y=y, log=log)
        self.parts.append(("plot", {"svg": Markup(svg), "caption": caption}))

    def dots(
        self,
        rows: Sequence[Dot],
        *,
        x: str,
        log: bool = False,
        floor: Number | None = None,
        caption: str = "",
    ) -> None:
        """Add a dot plot, one named value a line with its interval where it has one.

        `floor` shades everything up to that value: as good as can be told apart from real.
        """
        svg = draw_dots(rows, x=x, log=log, floor=floor)
        self.parts.append(("plot", {"svg": Markup(svg), "caption": caption}))

    def histograms(
        self,
        panels: Mapping[str, tuple[Sequence[Number], Sequence[Number]]],
        caption: str = "",
    ) -> None:
        """Add small histograms side by side, name to (real values, generated values)."""
        plots = [Markup(draw_histogram(name, a, b)) for name, (a, b) in panels.items()]
        self.parts.append(("plots", {"plots": plots, "caption": caption}))

    def media(self, *items: Media) -> None:
        """Add pictures or films in a row that wraps where the screen is narrow."""
        self.parts.append(("media", items))

    def render(self) -> str:
        """The page as HTML text."""
        return _template().render(page=self)

    def write(self, path: str | Path) -> Path:
        """Write the page under a temporary name, then rename it to `path`.

        Raises:
            VidiffError: the file could not be written; nothing partial is left.
        """
        return write_text(path, self.render())


def tile_clips(
    clips: UInt8[np.ndarray, "b t h w c"], columns: int, scale: int = 1, gap: int = 2
) -> UInt8[np.ndarray, "t y x c"]:
    """Clips beside each other as one film, `columns` a row; they play in step.

    Every pixel becomes `scale` x `scale`; `gap` grey pixels part the clips, empty places are grey.
    """
    b = len(clips)
    rows = -(-b // columns)
    large = clips.repeat(scale, axis=2).repeat(scale, axis=3)
    padded = np.pad(large, ((0, rows * columns - b), (0, 0), (0, gap), (0, gap), (0, 0)),
                    constant_values=128)  # fmt: skip
    padded[b:] = 128
    film = rearrange(padded, "(r k) t h w c -> t (r h) (k w) c", r=rows)
    return film[:, :-gap, :-gap] if gap else film


def tile_frames(
    clips: UInt8[np.ndarray, "b t h w c"], scale: int = 1, gap: int = 2
) -> UInt8[np.ndarray, "y x c"]:
    """A contact sheet: one clip a row, its frames from left to right."""
    frames = rearrange(clips, "b t h w c -> (b t) 1 h w c")
    return tile_clips(frames, clips.shape[1], scale, gap)[0]


def encode_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """One picture as lossless PNG."""
    buffer = io.BytesIO()
    _image(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_animation(
    frames: UInt8[np.ndarray, "t h w c"], fps: Number | Fraction, quality: int = 85
) -> bytes:
    """A looping WebP, a tenth the size of a GIF and without its palette.

    Args:
        frames: the film, 1 or 3 channels.
        fps: frames per second; WebP keeps whole milliseconds.
        quality: 0 to 100 as of JPEG.
    """
    buffer = io.BytesIO()
    first, *others = [_image(frame) for frame in frames]
    duration = max(1, round(1000 / float(fps)))
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=duration, loop=0,
        quality=quality, method=4,
    )  # fmt: skip
    return buffer.getvalue()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = files("vidiff.runs").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def _image(frame: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)


def _show(cell: object) -> str:
    if isinstance(cell, float):
        return show_number(cell)
    return "" if cell is None else str(cell)
