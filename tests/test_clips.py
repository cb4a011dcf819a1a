"""Positions: which window belongs to which number, and the clip it becomes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from media import clock_frames, moving_square, read_clock, write_clips, write_video
from PIL import Image

from vidiff.data.clips import (
    collate,
    draw_window,
    fixed_windows,
    read_clip,
    read_picture,
    read_start,
)
from vidiff.data.index import Index, index_clips
from vidiff.errors import DataError, RequestError
from vidiff.records import Clip


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Clock films of 30, 40 and 50 frames: 15 + 25 + 35 windows of 16."""
    root = tmp_path_factory.mktemp("films")
    for k, frames in enumerate((30, 40, 50)):
        write_video(root / f"film{k}.mp4", clock_frames(frames, (64, 128)), 12)
    return index_clips(root, num_frames=16, size=64, held_out=0.0)


def clock_of(clip: Clip) -> list[int]:
    """Indices seen through the central square: bits 2 to 5 of the clock."""
    wide = np.full((len(clip.frames), 64, 128, 3), 20, np.uint8)
    wide[:, :, 32:96] = clip.frames.numpy()
    return read_clock(wide)


def test_an_epoch_shows_every_window_once_and_the_next_one_in_another_order(index: Index) -> None:
    windows = index.num_windows
    first = [draw_window(index, 7, n) for n in range(windows)]
    second = [draw_window(index, 7, n) for n in range(windows, 2 * windows)]
    places = [[(w.entry.path, round(w.start, 6)) for w in epoch] for epoch in (first, second)]
    assert len(set(places[0])) == windows
    assert set(places[0]) == set(places[1])
    assert places[0] != places[1]
    assert Counter(w.entry.path for w in first) == {
        "film0.mp4": 15,
        "film1.mp4": 25,
        "film2.mp4": 35,
    }


def test_a_window_is_a_function_of_seed_position_and_attempt(index: Index) -> None:
    torch.manual_seed(0)
    once = [draw_window(index, 1, n) for n in (100, 3, 3)]
    torch.manual_seed(99)
    again = [draw_window(index, 1, n) for n in (3, 100)]
    assert (again[1], again[0]) == (once[0], once[1])
    assert once[1] == once[2]
    assert draw_window(index, 2, 3) != once[1]
    assert draw_window(index, 1, 3, attempt=1) != once[1]


def test_half_of_the_windows_are_mirrored_unless_told_otherwise(index: Index) -> None:
    flips = sum(draw_window(index, 0, n).flip for n in range(400))
    assert 150 < flips < 250
    still = Index(index.config.model_copy(update={"flip": False}), 0, index.entries, index.labels)
    assert not any(draw_window(still, 0, n).flip for n in range(50))


def test_a_random_crop_reaches_the_whole_picture_and_a_centre_crop_does_not_move(
    index: Index,
) -> None:
    config = index.config.model_copy(update={"crop": "random"})
    free = Index(config, 0, index.entries, index.labels)
    lefts = {draw_window(free, 0, n).crop[1] for n in range(300)}
    assert min(lefts) <= 2
    assert max(lefts) >= 62
    assert {draw_window(index, 0, n).crop for n in range(50)} == {(0, 32)}


def test_a_clip_shows_consecutive_frames_from_its_start(index: Index) -> None:
    for window in fixed_windows(index, 10):
        clip = read_clip(index, window)
        assert clip.frames.shape == (16, 64, 64, 3)
        assert clip.dt == pytest.approx(1 / 12)
        first = round(clip.start * 12)
        expected = [k & 0b111100 for k in range(first, first + 16)]
        assert clock_of(clip) == expected


@pytest.mark.parametrize(("keys", "step"), [({"stride": 2}, 2), ({"fps": 4.0}, 3)])
def test_stride_and_rate_choose_the_frames(index: Index, keys: dict, step: int) -> None:
    wider = index_clips(index.config.root, num_frames=8, held_out=0.0, **keys)
    for window in fixed_windows(wider, 6):
        clip = read_clip(wider, window)
        first = round(clip.start * 12)
        assert clock_of(clip) == [(first + step * k) & 0b111100 for k in range(8)]
        assert clip.dt == pytest.approx(step / 12)


def test_a_mirrored_clip_is_the_same_clip_from_right_to_left(index: Index) -> None:
    window = next(w for w in (draw_window(index, 0, n) for n in range(50)) if w.flip)
    plain = fixed_windows(index, index.num_windows)
    twin = next(w for w in plain if (w.entry, w.start) == (window.entry, window.start))
    mirrored, straight = read_clip(index, window), read_clip(index, twin)
    assert torch.equal(mirrored.frames, straight.frames.flip(2))


def test_a_clip_keeps_the_shape_of_things(tmp_path: Path) -> None:
    wide = np.zeros((16, 60, 160, 3), np.uint8)
    wide[:, 20:40, 70:90] = 255
    write_video(tmp_path / "wide.mp4", wide)
    index = index_clips(tmp_path, size=30)
    frame = read_clip(index, fixed_windows(index, 1)[0]).frames[0, ..., 0] > 128
    rows, columns = frame.any(1).sum(), frame.any(0).sum()
    assert abs(int(rows) - 10) <= 1
    assert abs(int(columns) - 10) <= 1


def test_fixed_windows_are_spread_over_all_films_and_repeat_exactly(index: Index) -> None:
    windows = fixed_windows(index, 15, seed=4)
    assert windows == fixed_windows(index, 15, seed=4)
    assert windows != fixed_windows(index, 15, seed=5)
    assert Counter(w.entry.path for w in windows) == {
        "film0.mp4": 3,
        "film1.mp4": 5,
        "film2.mp4": 7,
    }
    assert not any(w.flip for w in windows)
    assert len(fixed_windows(index, 10_000)) == index.num_windows


def test_a_side_without_windows_says_so(index: Index) -> None:
    with pytest.raises(DataError, match="no windows on side 'test'"):
        fixed_windows(index.split("test"), 4)
    with pytest.raises(DataError, match="no windows on side 'test'"):
        draw_window(index.split("test"), 0, 0)


def test_held_out_windows_show_no_frame_of_a_training_window(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", moving_square(120), 10)
    index = index_clips(tmp_path)
    train = fixed_windows(index.split("train"), 10_000)
    test = fixed_windows(index.split("test"), 10_000)
    assert max(w.times[-1] for w in train) + 1.5 < min(w.times[0] for w in test)


def test_labels_and_captions_reach_the_batch(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_clips(tmp_path / name, 1)
    (tmp_path / "dog" / "clip0000.txt").write_text("a dog")
    index = index_clips(tmp_path, held_out=0.0)
    clips = [read_clip(index, window) for window in fixed_windows(index, 2)]
    batch = collate(clips, [5, 6])
    assert batch.frames.shape == (2, 16, 64, 64, 3)
    assert batch.label is not None
    assert batch.label.tolist() == [0, 1]
    assert batch.caption == (None, "a dog")
    assert batch.positions == (5, 6)
    assert batch.sources == ("cat/clip0000.mp4", "dog/clip0000.mp4")


def test_the_start_of_a_video_is_read_at_the_asked_spacing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", clock_frames(40, (64, 64)), 12)
    frames = read_start(path, 5, 3 / 12, 64)
    assert read_clock(frames.numpy()) == [0, 3, 6, 9, 12]
    with pytest.raises(DataError, match=r"lasts 3\.33 s; 40 frames 0\.25 s apart"):
        read_start(path, 40, 3 / 12, 64)


def test_a_picture_becomes_an_upright_square(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :40] = (255, 0, 0)
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "phone.png", exif=exif)
    square = read_picture(tmp_path / "phone.png", 32)
    assert square.shape == (32, 32, 3)
    assert square[4, 16].tolist() == [255, 0, 0]
    assert square[28, 16].tolist() == [0, 0, 0]


def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(DataError, match=r"x\.png is not a readable picture"):
        read_picture(tmp_path / "x.png", 32)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cats: two films of 5 and 25 windows, in folders of their own; dogs: one of 15."""
    root = tmp_path_factory.mktemp("classes")
    for place, frames in (("cats/a", 20), ("cats/b", 40), ("dogs", 30)):
        (root / place).mkdir(parents=True)
        write_video(root / place / "film.mp4", clock_frames(frames, (32, 64)), 12)
    return root


@pytest.mark.parametrize(
    ("keys", "shares"),
    [
        ({"sampling": "file"}, (1 / 3, 1 / 3, 1 / 3)),
        ({"sampling": "class"}, (1 / 12, 5 / 12, 1 / 2)),
        ({"sampling": "folder"}, (1 / 3, 1 / 3, 1 / 3)),
        ({"weights": {"cats/a": 3.0}}, (15 / 55, 25 / 55, 15 / 55)),
        ({"sampling": "class", "weights": {"dogs": 3.0}}, (1 / 24, 5 / 24, 3 / 4)),
        ({"weights": {"cats": 0.0}}, (0, 0, 1)),
    ],
)
def test_sampling_follows_files_folders_classes_and_weights(
    classes: Path, keys: dict, shares: tuple[float, ...]
) -> None:
    index = index_clips(classes, held_out=0.0, duplicates=False, **keys)
    assert [e.windows for e in index.usable] == [5, 25, 15]
    drawn = [draw_window(index, 3, n) for n in range(2000)]
    counts = Counter(w.entry.path for w in drawn)
    found = [counts[e.path] / 2000 for e in index.usable]
    assert found == pytest.approx(shares, abs=0.035)
    assert drawn[:50] == [draw_window(index, 3, n) for n in range(50)]
    starts = {w.start for w in drawn if w.entry.path == "dogs/film.mp4"}
    assert len(starts) == 15
    plain = index_clips(classes, held_out=0.0, duplicates=False)
    assert index.digest != plain.digest


def test_a_weight_for_an_unknown_name_is_refused_with_the_nearest(classes: Path) -> None:
    index = index_clips(classes, held_out=0.0, weights={"cat": 2.0})
    with pytest.raises(RequestError, match="'cat'") as caught:
        draw_window(index, 0, 0)
    assert "'cats'" in caught.value.remedy


def test_a_spacing_is_drawn_from_those_asked_and_told(index: Index) -> None:
    keys = {"stride": (3, 1), "fps": (12.0, 6.0), "flip": False}
    wider = index_clips(index.config.root, num_frames=8, held_out=0.0, **keys)
    drawn = [draw_window(wider, 0, n) for n in range(300)]
    assert {round(12 * w.dt) for w in drawn} == {1, 2, 3, 6}
    for window in drawn[:40]:
        clip = read_clip(wider, window)
        first, step = round(clip.start * 12), round(12 * clip.dt)
        assert clock_of(clip) == [(first + step * k) & 0b111100 for k in range(8)]
        assert clip.dt == window.dt
    assert {round(12 * w.dt) for w in fixed_windows(wider, 20)} == {3}


def test_rates_above_a_files_own_are_not_drawn(index: Index) -> None:
    wider = index_clips(index.config.root, num_frames=8, held_out=0.0, fps=(12.0, 48.0))
    assert {round(1 / draw_window(wider, 0, n).dt) for n in range(50)} == {12}
