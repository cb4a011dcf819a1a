from __future__ import annotations

import numpy as np
import pytest
from textures import walk_clips

from vidiff.metrics import distribution as dist
from vidiff.metrics.anchors import DOSES, flickering, grainy, stalled
from vidiff.metrics.motion import measure_motion

SEEN_BY = {
    "jitter": "smooth.jerk_ratio",
    "flicker": "flicker.brightness",
    "blur": "sharpness",
    "grain": "sharpness",
    "freezing": "motion.static_fraction",
}


@pytest.fixture(scope="module")
def walks() -> np.ndarray:
    return walk_clips(5, num_frames=10, size=64)


@pytest.mark.parametrize("name", list(DOSES))
def test_more_damage_is_a_wider_gap(name: str, walks: np.ndarray) -> None:
    damage, amounts = DOSES[name]
    statistic = SEEN_BY[name]
    real = measure_motion(walks, 0.1).statistics[statistic]
    gaps = []
    for amount in amounts:
        made = measure_motion(damage(walks, 0, amount), 0.1).statistics[statistic]
        gaps.append(np.abs(made.mean() - real.mean()) if real.std() == 0 else dist.gap(made, real))
    assert gaps == sorted(gaps)
    assert gaps[0] < gaps[-1]


def test_grain_has_the_sd_asked_for_and_flicker_the_reach() -> None:
    grey = np.full((2, 8, 64, 64, 3), 128, np.uint8)
    assert grainy(grey, 0, 6.0).std() == pytest.approx(6.0, rel=0.02)
    levels = flickering(grey, 0, 0.1).reshape(2, 8, -1)
    assert (levels == levels[..., :1]).all()
    assert np.abs(levels / 128.0 - 1).max() < 0.11


def test_stalled_frames_repeat_the_one_before(walks: np.ndarray) -> None:
    made = stalled(walks, 0, 0.5)
    same = (made[:, 1:] == made[:, :-1]).all(axis=(2, 3, 4))
    assert same.sum(axis=1).tolist() == [4] * 5
    assert (made[:, 0] == walks[:, 0]).all()
    assert (stalled(walks, 0, 0.0) == walks).all()
