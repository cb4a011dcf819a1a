from __future__ import annotations

import numpy as np
import pytest

from vidiff.errors import RequestError
from vidiff.metrics import distribution as dist
from vidiff.metrics.neighbours import Estimate, estimate_coverage, estimate_density


def gaussian(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


def test_values_are_those_of_density_and_coverage() -> None:
    x, y = gaussian(40, 6, 0, 0.4), gaussian(50, 6, 1)
    assert estimate_density(x, y).value == pytest.approx(dist.density(x, y))
    assert estimate_coverage(x, y).value == pytest.approx(dist.coverage(x, y))


@pytest.mark.parametrize("name", ["density", "coverage"])
def test_the_error_is_the_jackknife_of_both_sides(name: str) -> None:
    x, y = gaussian(12, 3, 0, 0.3), gaussian(15, 3, 1)
    value = getattr(dist, name)
    plain = value(x, y, 3)
    # A real clip left out lets the balls that it limited grow by one neighbour.
    sides = [
        np.array([value(np.delete(x, i, 0), y, 3) for i in range(12)]),
        np.array([value(x, np.delete(y, j, 0), 3) for j in range(15)]),
    ]
    expected = sum(
        len(side) / (len(side) - 1) * (((plain - side) - (plain - side).mean()) ** 2).sum()
        for side in sides
    )
    estimate = {"density": estimate_density, "coverage": estimate_coverage}[name]
    assert estimate(x, y, 3).error ** 2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_intervals_hold_the_truth_in_most_repetitions(shift: float) -> None:
    pairs = [(gaussian(48, 8, 2 * i, shift), gaussian(48, 8, 2 * i + 1)) for i in range(80)]
    for estimate in (estimate_density, estimate_coverage):
        found = [estimate(x, y) for x, y in pairs]
        truth = np.mean([f.value for f in found])
        held = [f.interval[0] <= truth <= f.interval[1] for f in found]
        assert np.mean(held) >= 0.85


def test_clips_of_one_video_widen_the_interval() -> None:
    videos = np.repeat(np.arange(12), 4)
    x = gaussian(12, 3, 0)[videos] + 0.1 * gaussian(48, 3, 1)
    y = gaussian(400, 3, 2)
    alone, together = estimate_density(x, y), estimate_density(x, y, groups_x=videos)
    assert together.error > 1.1 * alone.error


def test_intervals_and_draws_stay_inside_what_can_be() -> None:
    estimate = Estimate(0.98, 0.05, 1.0)
    assert estimate.interval == (pytest.approx(0.882), 1.0)
    draws = estimate.draw(np.random.default_rng(0), 500)
    assert draws.max() == 1.0
    assert draws.min() > 0.75


def test_too_few_real_clips_are_refused() -> None:
    with pytest.raises(RequestError, match="k \\+ 1 = 6"):
        estimate_density(gaussian(8, 3, 0), gaussian(6, 3, 1))
