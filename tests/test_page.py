from __future__ import annotations

import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidiff.errors import RequestError, VidiffError
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

HOSTILE = "<img src=x onerror=alert(1)>\"'&</svg></style><script>alert(2)</script>"


class Reader(HTMLParser):
    """Collects what a browser would meet: tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def random_clips(b: int = 2, t: int = 4, size: int = 8, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (b, t, size, size, channels), dtype=np.uint8)


def full_page(word: str = "word") -> Page:
    page = Page(word, word, word)
    page.heading(word)
    page.text(word, word)
    page.note(word, "bad")
    page.checks({word: True, f"not {word}": False})
    page.table([word, "n"], [[word, 1.5], [word, None]], word)
    page.curve({word: ([1, 2, 3], [3.0, 2.0, 1.0])}, x=word, y=word, caption=word)
    page.dots([Dot(word, 1.0, 0.5, 2.0, model=True)], x=word, floor=0.7, caption=word)
    page.histograms({word: ([1.0, 2.0], [2.0, 3.0])}, word)
    page.media(Media(encode_png(random_clips()[0, 0]), "image/png", word, 80))
    page.media(Media(b"film", "video/mp4", word))
    return page


def test_hostile_words_stay_words_everywhere() -> None:
    read = Reader(full_page(HOSTILE).render())
    assert "script" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert read.tags.count("img") == 1
    plain = Reader(full_page().render())
    assert plain.tags == read.tags
    assert read.words.count(HOSTILE) >= 10


def test_a_page_loads_nothing_and_forbids_the_rest() -> None:
    read = Reader(full_page().render())
    policy = dict(read.attributes)["http-equiv"], [v for n, v in read.attributes if n == "content"]
    assert policy[0] == "Content-Security-Policy"
    assert policy[1][0].startswith("default-src 'none'; img-src data:; media-src data:;")
    sources = [value for name, value in read.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:") for value in sources)
    assert not {"script", "link", "iframe", "object", "base"} & set(read.tags)


def test_sections_appear_in_the_order_in_which_they_were_added() -> None:
    page = Page("title")
    names = ("apples", "pears", "plums")
    for name in names:
        page.heading(name)
        page.text(f"about {name}")
    found = [word for word in Reader(page.render()).words if word.endswith(names)]
    assert found == [word for name in names for word in (name, f"about {name}")]


def test_films_loop_and_pictures_carry_their_caption_for_those_who_cannot_see() -> None:
    read = Reader(full_page("a walk").render())
    names = {name for name, _ in read.attributes}
    assert {"autoplay", "loop", "muted", "playsinline"} <= names
    assert ("alt", "a walk") in read.attributes


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = full_page().write(tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8") == full_page().render()
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VidiffError):
        full_page().write(tmp_path / "file" / "page.html")


def test_a_curve_goes_through_its_points_and_breaks_where_there_are_none() -> None:
    page = Page("title")
    page.curve({"loss": ([0, 1, 2, 3], [4.0, math.nan, 1.0, 0.0])}, x="step", y="loss")
    path = re.search(r'<path class="line s0" d="([^"]+)"', page.render())
    assert path is not None
    assert path[1].count("M") == 2
    heights = [float(y) for y in re.findall(r",([\d.]+)", path[1])]
    assert heights[0] < heights[1] < heights[2]


def test_a_logarithmic_curve_leaves_out_what_is_not_positive() -> None:
    page = Page("title")
    page.curve({"loss": ([0, 1, 2], [100.0, 0.0, 1.0])}, x="step", y="loss", log=True)
    html = page.render()
    assert "nan" not in html
    assert re.search(r'class="line s0" d="M[^L"]+M[^L"]+"', html)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[], [1.0], [2.0, 2.0], [math.nan, math.inf], [-3.0, 0.0], [1e-12, 1e9]]
)
def test_plots_of_odd_values_hold_finite_coordinates(values: list[float], log: bool) -> None:
    page = Page("title")
    page.curve({"a": (list(range(len(values))), values)}, x="x", y="y", log=log)
    page.dots([Dot(str(v), v, v, v) for v in values], x="x", log=log, floor=0.0)
    page.histograms({"a": (values, values)})
    svg = "".join(re.findall(r"<svg.*?</svg>", page.render(), re.DOTALL))
    numbers = re.findall(r'(?:[xyd]|cx|cy|[xy][12]|width|height)="([^"]*)"', svg)
    assert numbers
    assert not any("nan" in n or "inf" in n for n in numbers)


def test_a_dot_below_a_logarithmic_axis_is_hollow_and_undefined_ones_are_said() -> None:
    page = Page("title")
    rows = [Dot("below", -2.0), Dot("here", 10.0), Dot("there", 100.0), Dot("none", math.nan)]
    page.dots(rows, x="distance", log=True)
    html = page.render()
    assert html.count("<circle") == 3
    assert html.count('fill-opacity="0"') == 1
    assert "undefined" in html


def test_clips_are_tiled_pixel_by_pixel_with_gaps_between_them() -> None:
    clips = random_clips(b=3, t=4, size=8)
    film = tile_clips(clips, columns=2, scale=2, gap=3)
    assert film.shape == (4, 35, 35, 3)
    np.testing.assert_array_equal(film[:, :16:2, 19:35:2], clips[1])
    np.testing.assert_array_equal(film[:, 19::2, :16:2], clips[2])
    assert (film[:, 19:, 19:] == 128).all()
    assert (film[:, 16:19] == 128).all()


def test_a_contact_sheet_shows_one_clip_a_row() -> None:
    clips = random_clips(b=2, t=4, size=8)
    sheet = tile_frames(clips, gap=0)
    assert sheet.shape == (16, 32, 3)
    np.testing.assert_array_equal(sheet[8:, 16:24], clips[1, 2])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_keeps_its_frames_its_speed_and_loops(channels: int) -> None:
    rows = np.linspace(0, 255, 16, dtype=np.uint8)
    clip = np.stack(
        [np.broadcast_to(np.roll(rows, 4 * i)[:, None, None], (16, 16, channels)) for i in range(4)]
    )
    with Image.open(io.BytesIO(encode_animation(clip, fps=8, quality=95))) as film:
        assert film.n_frames == 4
        assert film.info["loop"] == 0
        durations, frames = [], []
        for i in range(4):
            film.seek(i)
            film.load()
            durations.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")))
    assert durations == [125] * 4
    assert np.abs(np.stack(frames).astype(float) - clip).mean() < 4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_comes_back_as_it_was(channels: int) -> None:
    image = random_clips(channels=channels)[0, 0]
    with Image.open(io.BytesIO(encode_png(image))) as read:
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)


def test_an_unknown_kind_of_media_or_tone_and_a_ragged_table_are_refused() -> None:
    with pytest.raises(RequestError, match="text/html"):
        Media(b"", "text/html")
    with pytest.raises(RequestError, match="loud"):
        Page("title").note("word", "loud")
    with pytest.raises(RequestError, match="2 cells; the header has 1"):
        Page("title").table(["a"], [["b", "c"]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1039.6, "1040"),
        (0.12345, "0.123"),
        (2e-7, "2e-7"),
        (1.5e8, "1.5e8"),
        (math.nan, "undefined"),
        (0.0, "0"),
    ],
)
def test_numbers_are_shown_with_three_digits(value: float, shown: str) -> None:
    assert show_number(value) == shown
