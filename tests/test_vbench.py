from __future__ import annotations

import numpy as np
import pytest
from textures import film_path, straight, walk_clips

from vidiff.errors import RequestError
from vidiff.metrics.anchors import ANCHORS
from vidiff.metrics.vbench import FORMULAS, measure_vbench

FLICKERING, SMOOTHNESS, DYNAMIC = FORMULAS


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(4, num_frames=8, size=48)


def test_flickering_is_one_minus_the_mean_step_of_pixels(walks: np.ndarray) -> None:
    expected = 1 - np.abs(np.diff(walks.astype(float), axis=1)).mean(axis=(1, 2, 3, 4)) / 255
    np.testing.assert_allclose(measure_vbench(walks, 0.125)[FLICKERING], expected, rtol=1e-6)


def test_a_frozen_clip_is_perfect_and_a_blurred_one_beats_the_real(walks: np.ndarray) -> None:
    frozen = measure_vbench(ANCHORS["frozen"](walks, 0), 0.125)
    assert (frozen[FLICKERING] == 1).all()
    assert (frozen[SMOOTHNESS] == 1).all()
    assert (frozen[DYNAMIC] == 0).all()
    real, blurred = (measure_vbench(c, 0.125) for c in (walks, ANCHORS["blurred"](walks, 0)))
    assert blurred[FLICKERING].mean() > real[FLICKERING].mean()


def test_smoothness_of_an_even_pan_is_near_one_and_of_shuffled_frames_lower() -> None:
    pan = film_path(straight(0.02, 9), 64)[None]
    even, rough = (measure_vbench(c, 0.1)[SMOOTHNESS] for c in (pan, ANCHORS["shuffled"](pan, 0)))
    assert even[0] > 0.98
    assert rough[0] < even[0] - 0.02


@pytest.mark.parametrize(("speed", "dynamic"), [(0.01, 0.0), (0.04, 1.0)])
def test_dynamic_means_more_than_six_pixels_in_256(speed: float, dynamic: float) -> None:
    clip = film_path(straight(speed, 8), 64)[None]
    assert measure_vbench(clip, 0.125)[DYNAMIC].tolist() == [dynamic]


def test_frames_are_taken_at_eight_a_second() -> None:
    # 0.01 widths a frame at 32 frames a second are 0.04 at 8.
    clip = film_path(straight(0.01, 16), 64)[None]
    assert measure_vbench(clip, 1 / 32)[DYNAMIC].tolist() == [1.0]


def test_a_time_step_of_zero_is_refused(walks: np.ndarray) -> None:
    with pytest.raises(RequestError, match="dt is 0"):
        measure_vbench(walks, 0.0)
