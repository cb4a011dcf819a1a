"""One contract for every reader: a file it claims gives the frame shown at the asked time.

The files are pixel clocks: each frame shows its own number. A reader claims the files that the
index would give it: PyAV all of them, the others where their frames were proven equal to PyAV's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import clock_frames, read_clock, write_stream_copy, write_video

from vidiff.data.probe import probe
from vidiff.data.proof import choose_reader
from vidiff.data.video import READERS, have_reader, read_frames
from vidiff.errors import DataError

FRAMES = 60
FPS = 12
VFR = np.cumsum(np.random.default_rng(3).integers(20, 180, FRAMES)).tolist()
X264 = functools.partial(dict, codec="libx264")
AV1 = {"preset": "8", "crf": "10", "svtav1-params": "enable-tf=0:keyint=20"}
"""At faster presets the encoder repeats frames that differ (two decoders agree on it)."""

FILES: dict[str, dict[str, Any]] = {
    "b-frames.mp4": X264(options={"bf": "3", "g": "12"}),
    "pyramid.mp4": X264(options={"x264-params": "bframes=8:b-adapt=0:b-pyramid=normal:keyint=30"}),
    "one-key.mp4": X264(options={"g": "250", "bf": "3", "sc_threshold": "0"}),
    "intra.mp4": X264(options={"g": "1"}),
    "open-gop.mp4": X264(
        options={"x264-params": "open-gop=1:keyint=20:bframes=5:scenecut=0:b-adapt=0"}
    ),
    "refresh.mp4": X264(options={"x264-params": "intra-refresh=1:keyint=12:bframes=2"}),
    "ten-bit.mp4": X264(pix_fmt="yuv420p10le", options={"bf": "3"}),
    "full-range.mp4": X264(pix_fmt="yuvj420p", options={"bf": "3"}),
    "chroma-444.mp4": X264(pix_fmt="yuv444p"),
    "odd-size.mp4": X264(pix_fmt="yuv444p", size=(65, 131)),
    "film-rate.mp4": X264(fps=Fraction(24000, 1001), options={"bf": "3", "g": "24"}),
    "film-rate.mkv": X264(fps=Fraction(24000, 1001), options={"bf": "3", "g": "24"}),
    "variable.mp4": X264(stamps=VFR, options={"bf": "3", "g": "20"}),
    "variable.mkv": X264(stamps=VFR, options={"bf": "3", "g": "20"}),
    "turned-90.mp4": X264(rotation=90),
    "turned-180.mp4": X264(rotation=180),
    "turned-270.mp4": X264(rotation=270),
    "anamorphic.mp4": X264(aspect=Fraction(4, 3)),
    "transport.ts": X264(options={"bf": "2", "g": "15"}),
    "flash.flv": X264(options={"bf": "2", "g": "15"}),
    "cut.mp4": X264(options={"bf": "3", "g": "25", "sc_threshold": "0"}, first=33),
    "cut-on-key.mp4": X264(options={"bf": "3", "g": "20", "sc_threshold": "0"}, first=20),
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=4"}},
    "hevc-open.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:keyint=15:open-gop=1:scenecut=0"},
    },
    "hevc-ten-bit.mp4": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none:keyint=15:open-gop=0"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "options": AV1},
    "av1.webm": {"codec": "libsvtav1", "options": AV1},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"bf": "2"}},
    "wmv.asf": {"codec": "wmv2"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "lossless.mkv": {"codec": "ffv1"},
    "animation.gif": {"codec": "gif", "pix_fmt": "rgb8", "fps": 10},
}


@functools.cache
def clock_file(folder: Path, name: str) -> tuple[Path, list[int], list[float]]:
    """The file, the numbers its frames show, and when each is shown, from its first frame on."""
    settings = dict(FILES[name])
    if settings["codec"] not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {settings['codec']}")
    frames = clock_frames(FRAMES, settings.pop("size", (64, 128)))
    frames = np.rot90(frames, -(settings.get("rotation", 0) // 90), axes=(1, 2))
    first, fps = settings.pop("first", 0), settings.pop("fps", FPS)
    path = folder / name
    written = write_video(folder / f"whole-{name}" if first else path, frames, fps, **settings)
    if first:
        write_stream_copy(written, path, first)
    shown = list(range(first, FRAMES))
    stamps = settings.get("stamps")
    seconds = [s / 1000 for s in stamps] if stamps else [k / float(fps) for k in shown]
    return path, shown, [s - seconds[0] for s in seconds]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clocks")


def windows(count: int) -> Iterator[list[int]]:
    """Runs of frames as training asks for them: dense, sparse, both ends, all, and shuffled."""
    rng = np.random.default_rng(0)
    for stride in (1, 2, 3):
        for start in (0, *rng.integers(0, count - 5 * stride, 4), count - 5 * stride):
            yield list(range(start, start + 5 * stride, stride))
    yield list(range(count))
    yield rng.permutation(count)[:7].tolist()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_no_frame_is_wrong_in_a_file_that_the_reader_claims(
    reader: str, name: str, folder: Path
) -> None:
    path, shown, seconds = clock_file(folder, name)
    info = probe(path)
    assert info.num_frames == len(shown)
    gaps = [*np.diff(seconds), info.duration - seconds[-1]]
    assert min(gaps) > 0
    try:
        claimed = choose_reader(path, info, (info.height, info.width), reader)
    except DataError:
        pytest.skip(f"{reader} does not claim it")
    assert claimed == reader
    for window in windows(len(shown)):
        for place in (0.05, 0.5, 0.9):
            times = [info.pts_seconds[0] + seconds[k] + place * gaps[k] for k in window]
            got = read_frames(path, np.array(times), reader=reader)
            assert read_clock(got) == [shown[k] for k in window], (reader, name, place)


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_claims_plain_files_and_none_that_mislead_it(reader: str, folder: Path) -> None:
    if not have_reader(reader):
        pytest.skip(f"{reader} is not installed here")
    claims = set()
    for name in ("b-frames.mp4", "vp9.webm", "open-gop.mp4", "cut.mp4", "animation.gif"):
        path, _, _ = clock_file(folder, name)
        with suppress(DataError):
            choose_reader(path, probe(path), (64, 128), reader)
            claims.add(name)
    assert claims >= {"b-frames.mp4", "vp9.webm"}
    assert (len(claims) == 5) == (reader == "pyav")


def test_left_to_itself_each_file_gets_the_fastest_reader_proven_on_it(folder: Path) -> None:
    best = {}
    for name in ("b-frames.mp4", "hevc.mp4", "vp9.webm", "mjpeg.avi", "av1.mp4", "cut.mp4"):
        path, _, _ = clock_file(folder, name)
        best[name] = choose_reader(path, probe(path), (64, 128))
    decord = "decord" if have_reader("decord") else "pyav"
    assert best == dict.fromkeys(best, "pyav") | {"vp9.webm": decord, "mjpeg.avi": decord}
