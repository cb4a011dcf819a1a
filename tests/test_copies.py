from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from media import write_video
from textures import walk_clips

from vidiff.data.probe import probe
from vidiff.data.video import read_frames
from vidiff.metrics.anchors import copied
from vidiff.metrics.copies import CLOSER, Copies, check_clip_copies, shrink_clips

FRAMES = 8


@pytest.fixture(scope="module")
def long() -> np.ndarray:
    """Training videos of twice the length of a clip."""
    return walk_clips(40, num_frames=2 * FRAMES, size=32, seed=1)


@pytest.fixture(scope="module")
def train(long: np.ndarray) -> np.ndarray:
    return long[:, 4 : 4 + FRAMES]


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    return walk_clips(40, num_frames=FRAMES, size=32, seed=2)


def check(generated: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> Copies:
    rows = (shrink_clips(clips) for clips in (generated, held_out, train))
    return check_clip_copies(*rows, num_frames=FRAMES)


def compress_again(clip: np.ndarray, folder: Path) -> np.ndarray:
    path = write_video(folder / "copy.mp4", clip, options={"crf": "28"})
    return np.asarray(read_frames(path, probe(path).pts_seconds))


def test_new_clips_are_not_called_copied(held_out: np.ndarray, train: np.ndarray) -> None:
    fresh = walk_clips(40, num_frames=FRAMES, size=32, seed=3)
    found = check(fresh, held_out, train)
    assert not found.copied.any()
    assert found.flagged.mean() <= 0.2
    assert abs(found.z) < 3


def test_copies_are_found_with_their_original(held_out: np.ndarray, train: np.ndarray) -> None:
    clips = copied(train, 12, seed=0)
    found = check(clips, held_out, train)
    assert found.copied.all()
    assert (train[found.nearest] == clips).all()
    assert found.distance.max() < 0.1
    assert found.z < -3


def test_mirrored_copies_are_found(held_out: np.ndarray, train: np.ndarray) -> None:
    found = check(np.ascontiguousarray(train[:10, :, :, ::-1]), held_out, train)
    assert found.copied.all()
    assert found.nearest.tolist() == list(range(10))


@pytest.mark.parametrize("move", [-4, -1, 2, 4])
def test_copies_moved_in_time_are_found(
    move: int, held_out: np.ndarray, long: np.ndarray, train: np.ndarray
) -> None:
    found = check(long[:10, 4 + move : 4 + move + FRAMES], held_out, train)
    assert found.copied.all()
    assert found.nearest.tolist() == list(range(10))


def test_copies_compressed_again_mirrored_and_moved_are_found(
    held_out: np.ndarray, long: np.ndarray, train: np.ndarray, tmp_path: Path
) -> None:
    moved = long[:5, 6 : 6 + FRAMES, :, ::-1]
    found = check(np.stack([compress_again(c, tmp_path) for c in moved]), held_out, train)
    assert found.copied.all()
    assert found.distance.min() > 0.1


def test_near_is_under_one_percent_of_held_out_and_copied_closer_still(
    held_out: np.ndarray, train: np.ndarray
) -> None:
    yardstick = check(held_out, held_out, train)
    assert yardstick.threshold == pytest.approx(np.percentile(yardstick.distance, 1))
    assert (yardstick.copied == (yardstick.distance < CLOSER * yardstick.threshold)).all()


def test_copied_repeats_clips_only_when_they_run_out(train: np.ndarray) -> None:
    assert len(np.unique(copied(train, 40, 0), axis=0)) == 40
    assert len(copied(train[:3], 8, 0)) == 8
    assert not np.array_equal(copied(train, 8, 0), copied(train, 8, 1))
