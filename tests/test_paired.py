from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_perceptual import carphone
from textures import film_path, straight, walk_clips

from vidiff.errors import RequestError
from vidiff.metrics import vmaf
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.paired import (
    blend,
    enlarge_bicubic,
    measure_pairs,
    measure_tof,
    repeat_last,
)
from vidiff.metrics.perceptual import load_st_lpips
from vidiff.metrics.vmaf import find_ffmpeg, measure_vmaf
from vidiff.metrics.warping import find_visible, measure_own_warp_error, measure_warp_error


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(4, num_frames=6, size=64)


def test_a_clip_against_itself_has_no_error(walks: np.ndarray) -> None:
    found = measure_pairs(walks, walks, load_st_lpips())
    assert list(found) == ["psnr", "ssim", "tof", "warp_error", "st_lpips", "tlp.st_lpips"]
    assert (found["psnr"] == 100).all()
    assert found["ssim"] == pytest.approx(np.ones(4))
    for name in ("tof", "st_lpips", "tlp.st_lpips"):
        assert found[name] == pytest.approx(np.zeros(4), abs=1e-5)
    assert found["warp_error"] == pytest.approx(measure_own_warp_error(walks))


@pytest.mark.parametrize("damage", ["frozen", "shuffled", "jitter"])
def test_damage_to_motion_shows_in_every_temporal_number(damage: str, walks: np.ndarray) -> None:
    made = ANCHORS[damage](walks, 0)
    found, best = measure_pairs(made, walks, load_st_lpips()), measure_pairs(walks, walks)
    assert (found["tof"] > 0.1).all()
    assert (found["tlp.st_lpips"] > 0.1).all()
    assert (found["warp_error"] > 2 * best["warp_error"]).all()


def test_tof_of_two_pans_is_the_difference_of_their_speeds() -> None:
    slow, fast = (film_path(straight(v, 5), 64)[None] for v in (0.01, 0.02))
    assert measure_tof(fast, slow)[0] == pytest.approx(64 * 0.01, rel=0.02)


def test_a_frozen_clip_wins_along_its_own_flow_and_loses_along_its_targets(
    walks: np.ndarray,
) -> None:
    frozen = ANCHORS["frozen"](walks, 0)
    assert (measure_own_warp_error(frozen) == 0).all()
    assert (measure_warp_error(frozen, walks) > 5 * measure_own_warp_error(walks)).all()


def test_the_warp_error_of_constant_change_is_its_square() -> None:
    rng = np.random.default_rng(0)
    still = cv2.resize(rng.integers(40, 200, (16, 16, 3), dtype=np.uint8), (64, 64))
    clip = np.stack([still + 5 * (k % 2) for k in range(4)])[None].astype(np.uint8)
    target = np.repeat(still[None, None], 4, axis=1)
    assert measure_warp_error(clip, target)[0] == pytest.approx((5 / 255) ** 2, rel=1e-4)


def test_pixels_without_a_way_back_or_outside_are_not_visible() -> None:
    there = np.zeros((32, 48, 2), np.float32)
    there[..., 0] = 4
    assert find_visible(there, -there)[:, :44].all()
    assert not find_visible(there, -there)[:, 44:].any()
    # |F + B|^2 = 4 is over 0.01 (16 + 36) + 0.5 = 1.02.
    assert not find_visible(there, -there * 1.5).any()
    # |F + B|^2 = 0.64 is under it: the lengths are squared.
    assert find_visible(there, -there * 1.2)[:, :44].all()
    step = there.copy()
    step[:, 24:, 0] = 0
    assert not find_visible(step, -step)[:, 23:25].any()


def test_small_frames_have_a_warp_error_too() -> None:
    small = walk_clips(2, num_frames=5, size=32)
    shuffled = ANCHORS["shuffled"](small, 0)
    assert (measure_warp_error(shuffled, small) > 2 * measure_own_warp_error(small)).all()


def test_trivial_answers_are_what_they_say(walks: np.ndarray) -> None:
    last = repeat_last(walks[:, :2], 3)
    assert last.shape == (4, 3, 64, 64, 3)
    assert (last == walks[:, 1:2]).all()
    mixed = blend(walks[:, 0], walks[:, 5], 3)
    middle = (walks[:, 0].astype(float) + walks[:, 5]) / 2
    assert np.abs(mixed[:, 1] - middle).max() <= 0.5
    large = enlarge_bicubic(walks[:, :, ::2, ::2], (64, 64))
    assert large.shape == walks.shape
    assert measure_pairs(large, walks)["psnr"].min() > 20
    assert enlarge_bicubic(walks[..., :1], (70, 80)).shape == (4, 6, 70, 80, 1)
    with pytest.raises(RequestError, match="cannot be enlarged"):
        enlarge_bicubic(walks, (32, 64))


def test_clips_of_unlike_shapes_are_not_paired(walks: np.ndarray) -> None:
    with pytest.raises(RequestError, match="cannot be paired"):
        measure_pairs(walks, walks[:, :, :32])


def test_vmaf_of_the_carphone_pair_is_what_ffmpeg_says_of_the_files() -> None:
    # 34.685719 for the files themselves; ours pass through grey frames.
    real, distorted = carphone("pristine")[None], carphone("distorted")[None]
    assert measure_vmaf(distorted, real)[0] == pytest.approx(34.685719, abs=0.05)


def test_vmaf_falls_with_blur(walks: np.ndarray) -> None:
    same, blurred = measure_vmaf(walks[:1], walks[:1]), measure_vmaf(walks[1:2] // 2, walks[1:2])
    assert same[0] > 85
    assert blurred[0] < same[0] - 10


def test_without_vmaf_the_way_to_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = tmp_path / "ffmpeg"
    plain.write_text("#!/bin/sh\necho ' .. scale V->V'\n")
    plain.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(plain))
    monkeypatch.setattr(vmaf, "_packaged", lambda: None)
    find_ffmpeg.cache_clear()
    try:
        with pytest.raises(RequestError, match=r"vidiff\[vmaf\]"):
            find_ffmpeg()
    finally:
        find_ffmpeg.cache_clear()


def test_frames_too_small_for_vmaf_are_refused() -> None:
    small = walk_clips(1, num_frames=4, size=8)
    with pytest.raises(RequestError, match="8 x 8 pixels"):
        measure_vmaf(small, small)
