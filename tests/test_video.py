"""Reading by time, hostile files, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media import (
    clock_frames,
    make_bad_files,
    moving_square,
    read_clock,
    write_audio_only,
    write_stream_copy,
    write_video,
)
from PIL import Image

from vidiff.data import probe as probing
from vidiff.data.video import (
    READERS,
    have_decord,
    have_reader,
    probe,
    read_frames,
    read_metadata,
    shown_at,
    to_bytes,
    to_unit,
    write_gif,
    write_mp4,
    write_sheet,
)
from vidiff.errors import DataError, NumbersError, RequestError, VidiffError

CODECS = {
    "h264.mp4": {"codec": "libx264", "options": {"bf": "3", "g": "12"}},
    "deep.mp4": {"codec": "libx264", "options": {"x264-params": "bframes=8:b-adapt=0:keyint=30"}},
    "open.mp4": {
        "codec": "libx264",
        "options": {"x264-params": "open-gop=1:keyint=20:bframes=5:scenecut=0"},
    },
    "hevc.mp4": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "ten.mkv": {"codec": "libx264", "pix_fmt": "yuv420p10le"},
    "stream.ts": {"codec": "libx264"},
    "anim.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}

REFUSED = (RequestError, TypeError)
"""The second comes first where the tests' checker of signatures is on."""


def here(codec: str) -> bool:
    return codec in av.codecs_available


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / "clock.mp4"
    return write_video(path, clock_frames(60), 12, options={"bf": "3", "g": "24"})


@pytest.mark.parametrize("name", CODECS)
def test_every_frame_is_the_one_shown_at_the_asked_time(name: str, tmp_path: Path) -> None:
    settings = CODECS[name]
    if not here(settings["codec"]):
        pytest.skip(f"this FFmpeg has no {settings['codec']}")
    path = write_video(tmp_path / name, clock_frames(60, (64, 128)), 12, **settings)
    info = probe(path)
    assert info.num_frames == 60
    assert info.fps == pytest.approx(12, rel=0.02)
    middles = info.pts_seconds + 0.5 / info.fps
    for first in (0, 17, 38, 55):
        wanted = [k for k in (first, first + 1, first + 4) if k < 60]
        assert read_clock(read_frames(path, middles[wanted])) == wanted


@pytest.mark.skipif(not have_decord(), reason="decord has no wheel for this machine")
@pytest.mark.parametrize("size", [None, (48, 64), (64, 96)])
def test_both_readers_return_the_same_pictures(clock: Path, size: tuple[int, int] | None) -> None:
    times = (np.arange(0, 60, 7) + 0.5) / 12
    ours = read_frames(clock, times, size, reader="pyav")
    theirs = read_frames(clock, times, size, reader="decord")
    assert ours.shape == theirs.shape
    assert read_clock(theirs) == read_clock(ours) == list(range(0, 60, 7))
    assert np.abs(ours.astype(int) - theirs).mean() < 2.0


def test_frames_come_back_in_the_order_of_the_times(clock: Path) -> None:
    frames = read_frames(clock, [3.51, 0.01, 2.26, 0.01])
    assert read_clock(frames) == [42, 0, 27, 0]


def test_a_time_just_before_a_frame_shows_the_frame_before(clock: Path) -> None:
    assert read_clock(read_frames(clock, [10 / 12 - 0.01, 10 / 12 + 0.01])) == [9, 10]


def test_times_outside_the_video_are_refused(clock: Path) -> None:
    for time, border in ((-0.5, "first frame comes at 0.000 s"), (5.2, "last .* at 4.917 s")):
        with pytest.raises(DataError, match=rf"clock\.mp4: Nothing is shown at {time}.*{border}"):
            read_frames(clock, [time])


@pytest.mark.parametrize("times", [[], [float("nan")], [[0.0]]])
def test_times_that_are_no_list_of_seconds_are_a_bad_request(clock: Path, times: list) -> None:
    with pytest.raises(REFUSED):
        read_frames(clock, np.array(times))


def test_an_unknown_reader_is_named_with_the_known_ones(clock: Path) -> None:
    with pytest.raises(REFUSED, match=r"auto.*decord.*pyav.*torchcodec"):
        read_frames(clock, [0.0], reader="opencv")


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("reader", READERS)
def test_a_rotated_phone_video_comes_back_upright(
    rotation: int, reader: str, tmp_path: Path
) -> None:
    if not have_reader(reader):
        pytest.skip(f"{reader} is not installed here")
    frames = clock_frames(4, (64, 96))
    path = write_video(tmp_path / "phone.mp4", frames, 12, rotation=rotation)
    upright = np.rot90(frames, rotation // 90, axes=(1, 2))
    info = probe(path)
    assert info.rotation == rotation
    assert (info.height, info.width) == upright.shape[1:3]
    got = read_frames(path, [0.01, 0.26], reader=reader)
    assert np.abs(got.astype(int) - upright[[0, 3]]).mean() < 4
    small = read_frames(path, [0.01], (info.height // 2, info.width // 2), reader=reader)
    corner = np.unravel_index(small[0, ..., 0].astype(int).argmax(), small.shape[1:3])
    half = np.array(upright[0, ::2, ::2, 0] > 200)
    assert half[corner]


def test_a_variable_rate_is_read_by_its_time_stamps(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 400, 440, 900, 1000, 1010]
    path = write_video(tmp_path / "vfr.mp4", clock_frames(8), 25, stamps=stamps)
    info = probe(path)
    assert info.vfr
    assert info.pts_seconds == pytest.approx(np.array(stamps) / 1000, abs=2e-3)
    assert read_clock(read_frames(path, [0.1, 0.39, 0.42, 0.8, 1.02])) == [2, 2, 3, 4, 7]


def test_a_steady_rate_in_rounded_milliseconds_is_not_variable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mkv", clock_frames(30), Fraction(24000, 1001))
    info = probe(path)
    assert not info.vfr
    assert info.fps == pytest.approx(23.976, abs=0.01)


def test_pixel_aspect_is_reported_upright(tmp_path: Path) -> None:
    wide = write_video(tmp_path / "wide.mp4", clock_frames(4), aspect=Fraction(2, 1))
    turned = write_video(
        tmp_path / "turned.mp4", clock_frames(4), aspect=Fraction(2, 1), rotation=90
    )
    assert probe(wide).pixel_aspect == 2.0
    assert probe(turned).pixel_aspect == 0.5


def test_frames_before_a_cut_without_re_encoding_stay_hidden(tmp_path: Path) -> None:
    options = {"bf": "3", "g": "25", "sc_threshold": "0"}
    whole = write_video(tmp_path / "whole.mp4", clock_frames(60), 12, options=options)
    cut = write_stream_copy(whole, tmp_path / "cut.mp4", first=33)
    info = probe(cut)
    assert (info.num_frames, info.hidden_frames) == (27, 8)
    assert read_clock(read_frames(cut, info.pts_seconds)) == list(range(33, 60))
    assert read_clock(read_frames(cut, info.pts_seconds[[0]])) == [33]


def test_a_shrunk_picture_keeps_the_sharpness_of_its_colours(tmp_path: Path) -> None:
    stripes = np.zeros((3, 128, 128, 3), np.uint8)
    stripes[:, :, 0::8, 0] = stripes[:, :, 1::8, 0] = 255
    stripes[:, :, 2::8, 0] = stripes[:, :, 3::8, 0] = 255
    stripes[:, :, 4::8, 2] = stripes[:, :, 5::8, 2] = 255
    stripes[:, :, 6::8, 2] = stripes[:, :, 7::8, 2] = 255
    path = write_video(tmp_path / "stripes.mp4", stripes, options={"crf": "5"})
    small = read_frames(path, [0.1], (32, 32))[0].astype(int)
    assert (small[:, 4:-4:2, 0] - small[:, 4:-4:2, 2]).mean() > 120
    assert (small[:, 5:-4:2, 2] - small[:, 5:-4:2, 0]).mean() > 120


def test_every_bad_file_is_refused_by_name_with_a_reason_and_a_remedy(tmp_path: Path) -> None:
    for name, word in make_bad_files(tmp_path).items():
        for attempt in (probe, lambda path: read_frames(path, [0.0])):
            with pytest.raises(DataError) as caught:
                attempt(tmp_path / name)
            assert name in caught.value.cause
            assert word in caught.value.cause
            assert caught.value.remedy


@pytest.mark.parametrize(
    "path",
    ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "a\0b"],
)
def test_addresses_and_protocols_are_never_opened(path: str) -> None:
    with pytest.raises(DataError):
        probe(path)


@pytest.mark.parametrize(
    ("limit", "value", "word"),
    [
        ("MAX_SIDE", 80, "pixels"),
        ("MAX_PIXELS", 1000, "pixels"),
        ("MAX_FRAMES", 59, "frames"),
        ("MAX_SECONDS", 4.0, "lasts"),
        ("MAX_FPS", 10.0, "a second"),
    ],
)
def test_files_beyond_the_limits_are_refused(
    clock: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, word: str
) -> None:
    monkeypatch.setattr(probing, limit, value)
    with pytest.raises(DataError, match=word):
        probe(clock)


def test_damaged_bytes_never_leak_a_foreign_exception(clock: Path, tmp_path: Path) -> None:
    whole = np.frombuffer(clock.read_bytes(), np.uint8)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        mutant = whole.copy()
        mutant[rng.integers(40, len(mutant), 40)] = rng.integers(0, 256, 40)
        path = tmp_path / "mutant.mp4"
        path.write_bytes(mutant.tobytes())
        try:
            read_frames(path, probe(path).pts_seconds[[0, -1]])
        except DataError:
            refused += 1
    assert refused > 0


def test_nothing_stays_open_after_reading_good_and_bad_files(clock: Path, tmp_path: Path) -> None:
    bad = write_audio_only(tmp_path / "song.mp4")
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("needs /proc")
    before = len(list(files.iterdir()))
    for _ in range(20):
        read_frames(clock, [1.0])
        with pytest.raises(DataError):
            probe(bad)
    assert len(list(files.iterdir())) <= before


def test_shown_at_follows_its_equation() -> None:
    pts = np.array([0.5, 1.0, 2.0])
    assert shown_at(pts, [0.5, 0.98, 0.9995, 1.5, 2.9]).tolist() == [0, 0, 1, 1, 2]


def test_bytes_survive_the_way_to_model_range_and_back() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    unit = to_unit(frames)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(to_bytes(unit), frames)


def test_to_bytes_clamps_what_leaves_the_range() -> None:
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_to_bytes_refuses_numbers_that_are_not_finite(bad: float) -> None:
    with pytest.raises(NumbersError, match="1 of 2"):
        to_bytes(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("fps", [8, Fraction(24000, 1001), 12.5])
def test_a_written_mp4_has_its_frames_rate_and_colours(
    fps: float | Fraction, tmp_path: Path
) -> None:
    frames = clock_frames(24)
    path = write_mp4(tmp_path / "deep" / "out.mp4", torch.from_numpy(frames), fps)
    info = probe(path)
    assert (info.num_frames, info.vfr) == (24, False)
    assert info.fps == pytest.approx(float(fps), rel=1e-6)
    got = read_frames(path, info.pts_seconds)
    assert read_clock(got) == list(range(24))
    assert np.abs(got.astype(int) - frames).mean() < 1.5


def test_a_written_mp4_is_tagged_bt709_and_its_flat_colours_are_right(tmp_path: Path) -> None:
    frames = np.empty((4, 64, 64, 3), np.uint8)
    frames[:, :32, :32], frames[:, :32, 32:] = (200, 30, 40), (30, 180, 60)
    frames[:, 32:, :32], frames[:, 32:, 32:] = (40, 50, 210), (128, 128, 128)
    path = write_mp4(tmp_path / "flat.mp4", frames, 8)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        assert tags == (1, 1, 1)
        assert context.color_range == 1
    got = read_frames(path, [0.1])[0].astype(int)
    for y, x in ((8, 8), (8, 56), (56, 8), (56, 56)):
        assert np.abs(got[y, x] - frames[0, y, x]).max() <= 4


def test_the_index_of_a_written_mp4_stands_before_its_frames(tmp_path: Path) -> None:
    data = write_mp4(tmp_path / "web.mp4", clock_frames(8), 8).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_odd_size_is_padded_by_its_own_edge(tmp_path: Path) -> None:
    frames = moving_square(4, (33, 47))
    got = read_frames(write_mp4(tmp_path / "odd.mp4", frames, 8), [0.1])
    assert got.shape == (1, 34, 48, 3)
    assert np.abs(got[0, 33].astype(int) - got[0, 32]).mean() < 6


def test_metadata_reads_back_word_for_word(tmp_path: Path) -> None:
    words = {"comment": "AI-generated", "vidiff": '{"seed": 3, "text": "größer; = \\"x\\""}'}
    path = write_mp4(tmp_path / "tagged.mp4", clock_frames(4), 8, metadata=words)
    assert words.items() <= read_metadata(path).items()


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_a_disk_that_takes_no_more_leaves_the_old_file_and_no_half_one(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (24, 96, 96, 3), dtype=np.uint8)
    (tmp_path / "out").write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(VidiffError, match="could not be written") as caught:
            write(tmp_path / "out", noise, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


def test_a_folder_that_is_a_file_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (write_mp4, write_gif):
        with pytest.raises(VidiffError, match="could not be written"):
            write(tmp_path / "file" / "out", clock_frames(4), 8)


@pytest.mark.parametrize(
    ("write", "frames"),
    [
        (write_mp4, np.zeros((2, 8, 8, 3), np.float32)),
        (write_mp4, np.zeros((0, 8, 8, 3), np.uint8)),
        (write_gif, np.zeros((2, 8, 8, 1), np.uint8)),
    ],
)
def test_frames_of_another_kind_are_a_bad_request(
    write: Callable[..., Path], frames: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(REFUSED):
        write(tmp_path / "out", frames, 8)


def test_a_gif_keeps_its_duration_and_enlarges_by_whole_pixels(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "out.gif", moving_square(24), 12, scale=2)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (24, (128, 128))
        assert image.info["loop"] == 0
        total = 0
        for k in range(image.n_frames):
            image.seek(k)
            total += image.info["duration"]
    assert total == 2000


def test_a_sheet_shows_one_row_a_clip(tmp_path: Path) -> None:
    clips = np.stack([moving_square(16, (32, 32), seed) for seed in range(3)])
    path = write_sheet(tmp_path / "sheet.png", torch.from_numpy(clips), scale=2, columns=4)
    with Image.open(path) as image:
        assert image.size == (4 * 66 - 2, 3 * 66 - 2)
        assert image.getpixel((0, 66)) == tuple(clips[1, 0, 0, 0])
