from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from textures import film_path, straight, walk_clips

from vidiff.errors import RequestError
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.flow import as_clips
from vidiff.metrics.motion import STATISTICS, measure_motion, measure_seams, motion_histograms

UNDEFINED_WHEN_STILL = (
    "smooth.interp_ratio",
    "smooth.jerk_ratio",
    "jump",
    "flicker.brightness",
    "colour.drift",
)


def measure(clips: np.ndarray, dt: float = 0.1) -> dict[str, float]:
    return {name: float(v.mean()) for name, v in measure_motion(clips, dt).statistics.items()}


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(6, num_frames=10, size=64)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_a_known_pan_is_measured_in_frame_widths_per_second_at_every_size(size: int) -> None:
    clip = film_path(straight(0.02, 8), size)[None]
    assert measure(clip, dt=0.1)["motion.amount"] == pytest.approx(0.2, rel=0.1)
    assert measure(clip, dt=0.05)["motion.amount"] == pytest.approx(0.4, rel=0.1)


def test_an_even_pan_is_smoother_than_real_motion_and_shuffling_rougher() -> None:
    path = straight(0.03, 12) + 0.004 * np.random.default_rng(0).normal(size=(12, 2)).cumsum(0)
    real = film_path(path, 64)[None]
    even = film_path(straight(0.03, 12), 64)[None]
    rough = ANCHORS["shuffled"](real, 0)
    for name in ("smooth.interp_ratio", "smooth.jerk_ratio"):
        assert measure(even)[name] < measure(real)[name] < measure(rough)[name]


def test_a_frozen_clip_is_undefined_not_perfect(walks: np.ndarray) -> None:
    frozen = measure_motion(ANCHORS["frozen"](walks, 0), 0.1).statistics
    assert (frozen["motion.static_fraction"] == 1).all()
    assert (frozen["motion.amount"] == 0).all()
    for name in UNDEFINED_WHEN_STILL:
        assert np.isnan(frozen[name]).all()


def test_faint_grain_on_a_still_does_not_count_as_motion(walks: np.ndarray) -> None:
    assert measure(ANCHORS["frozen_grain"](walks, 0))["motion.static_fraction"] > 0.9


def test_stutter_leaves_half_of_the_pairs_still_and_raises_jerk(walks: np.ndarray) -> None:
    real, stutter = measure(walks), measure(ANCHORS["stutter"](walks, 0))
    assert real["motion.static_fraction"] == 0
    assert stutter["motion.static_fraction"] == pytest.approx(5 / 9)
    assert stutter["smooth.jerk_ratio"] > 2 * real["smooth.jerk_ratio"]


def test_a_jump_in_the_middle_stands_out(walks: np.ndarray) -> None:
    cut = np.concatenate([walks[:, :5], np.roll(walks, 1, axis=0)[:, 5:]], axis=1)
    statistics = [measure_motion(clips, 0.1).statistics["jump"] for clips in (walks, cut)]
    assert statistics[0].max() < statistics[1].min()


def test_brightness_flicker_is_the_sd_of_the_second_difference_of_luma() -> None:
    levels = np.array([100, 110, 100, 110, 100, 110], np.uint8)
    clip = np.broadcast_to(levels[None, :, None, None, None], (1, 6, 32, 32, 3))
    assert measure(clip)["flicker.brightness"] == pytest.approx(20.0)


def test_sharpness_is_the_energy_of_the_gradient() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 3, (1, 4, 32, 32))[..., None]
    assert measure(ramp)["sharpness"] == pytest.approx(9.0)


def test_blur_lowers_sharpness_without_touching_the_rest_of_the_clip(walks: np.ndarray) -> None:
    real, blurred = measure(walks), measure(ANCHORS["blurred"](walks, 0))
    assert blurred["sharpness"] < 0.9 * real["sharpness"]
    assert blurred["motion.amount"] == pytest.approx(real["motion.amount"], rel=0.1)


def test_histograms_tell_directions_apart_and_are_empty_when_nothing_moves() -> None:
    angles = np.arange(8) * np.pi / 4
    clips = np.stack([film_path(straight(0.03, 6, angle), 64) for angle in angles])
    velocity = motion_histograms(clips)[:, :64].reshape(8, 8, 8).sum(axis=1)
    # The picture moves against the camera, so the strongest bin lies opposite to it.
    assert velocity.argmax(axis=1).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    frozen = motion_histograms(ANCHORS["frozen"](clips, 0))
    assert frozen.shape == (8, 128)
    assert not frozen.any()


def test_an_even_pan_has_velocity_and_next_to_no_acceleration() -> None:
    histogram = motion_histograms(film_path(straight(0.03, 8), 64)[None])[0]
    assert histogram[64:].sum() < 0.15 * histogram[:64].sum()


def test_a_clip_scores_the_same_in_any_company_and_as_a_tensor(walks: np.ndarray) -> None:
    together = measure_motion(torch.from_numpy(walks), 0.1)
    alone = measure_motion(walks[2:3], 0.1)
    for name in STATISTICS:
        assert together.statistics[name][2] == alone.statistics[name][0]
    np.testing.assert_array_equal(together.histograms[2], alone.histograms[0])
    np.testing.assert_array_equal(together.histograms, motion_histograms(walks))


def test_grey_clips_score_as_their_rgb_copies_do(walks: np.ndarray) -> None:
    grey = walks[:2, ..., :1]
    rgb = np.repeat(grey, 3, axis=-1)
    assert measure(grey) == pytest.approx(measure(rgb))


def test_the_thread_count_of_opencv_is_left_as_it_was(walks: np.ndarray) -> None:
    before = cv2.getNumThreads()
    motion_histograms(walks[:1])
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize(
    ("clips", "word"),
    [
        (np.zeros((1, 8, 32, 32, 3), np.float32), "float32"),
        (np.zeros((8, 32, 32, 3), np.uint8), "b t h w c"),
        (np.zeros((1, 8, 3, 32, 32), np.uint8), "channels"),
        (np.zeros((1, 3, 32, 32, 3), np.uint8), "3 frames"),
    ],
)
def test_clips_of_another_kind_are_refused_with_their_shape(clips: np.ndarray, word: str) -> None:
    # The runtime type checker, where it is on, refuses the first three before we do.
    with pytest.raises((RequestError, TypeError)) as refused:
        as_clips(clips)
    if refused.type is RequestError:
        assert word in str(refused.value)


def test_a_time_step_of_zero_is_refused(walks: np.ndarray) -> None:
    with pytest.raises(RequestError, match="dt is 0"):
        measure_motion(walks[:1], 0.0)


@pytest.mark.parametrize("name", list(ANCHORS))
def test_an_anchor_keeps_the_shape_and_repeats_itself(name: str, walks: np.ndarray) -> None:
    for clips in (walks, walks[..., :1]):
        first, again = ANCHORS[name](clips, 3), ANCHORS[name](clips, 3)
        assert first.shape == clips.shape
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, clips)


@pytest.mark.parametrize("name", ["frozen_grain", "pan", "shuffled", "jitter"])
def test_a_random_anchor_depends_on_the_seed_and_on_no_other_clip(
    name: str, walks: np.ndarray
) -> None:
    anchor = ANCHORS[name]
    assert not np.array_equal(anchor(walks, 0), anchor(walks, 1))
    np.testing.assert_array_equal(anchor(walks, 0)[:2], anchor(walks[:2], 0))


def test_colour_drift_is_the_way_from_the_first_quarter_to_the_last() -> None:
    levels = np.array([[10, 20, 30]] * 4 + [[40, 20, 30]] * 4, np.uint8)
    clip = np.broadcast_to(levels[None, :, None, None], (1, 8, 32, 32, 3))
    assert measure(clip)["colour.drift"] == pytest.approx(30 / np.sqrt(3))


def test_a_seam_shows_over_the_change_of_other_frames(walks: np.ndarray) -> None:
    joined = np.concatenate([walks[:, :6], np.roll(walks, 1, axis=0)[:, 6:]], axis=1)
    plain, seen = measure_seams(walks, [6]), measure_seams(joined, [6])
    assert plain.max() < 2 < seen.min()
    assert np.isnan(measure_seams(ANCHORS["frozen"](walks, 0), [6])).all()


@pytest.mark.parametrize("seams", [[], [0], [10], list(range(1, 10))])
def test_seams_that_do_not_fit_the_clip_are_refused(walks: np.ndarray, seams: list[int]) -> None:
    with pytest.raises(RequestError, match="do not fit clips of 10 frames"):
        measure_seams(walks, seams)
