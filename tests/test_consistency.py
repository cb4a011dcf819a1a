"""Consistency tuning against the answer: on Gaussians the jump to the end of a path is known.

With x ~ N(0, sd^2) a path of the probability-flow ODE keeps y / sqrt(sd^2 + t^2), so
f(y; t) = y sd / sqrt(sd^2 + t^2), while the denoiser is y sd^2 / (sd^2 + t^2).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.consistency import distance, earlier, stage_of
from vidiff.diffusion.process import SIGMA_DATA
from vidiff.diffusion.samplers import jump, jump_grid, spread


def exact(y: Tensor, t: Tensor) -> Tensor:
    return y * SIGMA_DATA / (SIGMA_DATA**2 + t**2).sqrt()


def noise(seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 2, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_exact_jump_samples_the_exact_law_in_any_number_of_steps(steps: int) -> None:
    zero = torch.zeros(4000, 1, 2, 1, 1, dtype=torch.float64)
    levels = spread(jump_grid(steps, 0.002, 40.0), zero, torch.full_like(zero, torch.inf))
    assert len(levels) == steps + 1
    y = jump(exact, noise(0, 4000) * levels[0], levels, lambda i: noise(i + 1, 4000))
    assert float(y.std()) == pytest.approx(SIGMA_DATA, rel=0.01)


def test_held_frames_stay_bit_for_bit_and_the_rest_jumps() -> None:
    floor = torch.zeros(3, 1, 2, 1, 1, dtype=torch.float64)
    floor[:, :, 0] = 0.012
    start = torch.full_like(floor, torch.inf)
    start[:, :, 0] = 0.012
    levels = spread(jump_grid(2, 0.002, 40.0), floor, start)
    begun = noise(0, 3) * levels[0]
    y = jump(exact, begun, levels, lambda i: noise(i + 1, 3))
    assert torch.equal(y[:, :, 0], begun[:, :, 0])
    assert not torch.equal(y[:, :, 1], begun[:, :, 1])


def test_the_earlier_level_moves_up_to_the_level_stage_by_stage() -> None:
    t = torch.tensor([0.01, 0.5, 2.0, 80.0], dtype=torch.float64)
    gaps = torch.stack([t - earlier(t, stage) for stage in range(8)])
    assert (gaps > 0).all()
    assert (gaps[0, :2] == t[:2]).all(), "at the first stage small levels are compared with data"
    assert (gaps.diff(dim=0) <= 0).all()
    assert (gaps[-1] / t < 0.04).all()
    assert [stage_of(p) for p in (0.0, 0.12, 0.13, 0.99, 1.0)] == [0, 0, 1, 7, 7]


def test_a_schedule_has_its_second_jump_where_the_paper_puts_it() -> None:
    assert jump_grid(1, 0.002, 40.0).tolist() == [40.0, 0.0]
    assert jump_grid(2, 0.002, 40.0).tolist() == pytest.approx([40.0, 0.8, 0.0])
    assert (jump_grid(4, 0.002, 40.0).diff() < 0).all()


def test_the_distance_is_a_root_mean_square_over_what_counts() -> None:
    out, gap = torch.zeros(2, 3, 2, 4, 4), torch.full((2, 1, 2, 1, 1), 0.5)
    target = torch.ones_like(out)
    target[:, :, 1] = 100.0
    weight = torch.ones(2, 1, 2, 1, 1)
    weight[:, :, 1] = 0
    assert distance(out, target, gap, weight).tolist() == pytest.approx([2.0, 2.0])


def best_gain(t: float, stage: int) -> float:
    """Where equation (1) leads: E[x + r n | y = x + t n] = (sd^2 + t r) / (sd^2 + t^2) y."""
    gain, level = 1.0, torch.tensor(t, dtype=torch.float64)
    while level > 1e-5:
        before = earlier(level, stage)
        gain *= float((SIGMA_DATA**2 + level * before) / (SIGMA_DATA**2 + level**2))
        level = before
    return gain


@pytest.mark.parametrize("t", [0.1, 0.8, 5.0, 40.0])
def test_the_stages_lead_from_the_denoiser_to_the_exact_jump(t: float) -> None:
    wanted = SIGMA_DATA / (SIGMA_DATA**2 + t**2) ** 0.5
    errors = [abs(best_gain(t, stage) / wanted - 1) for stage in range(8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05
    if t < 0.5:
        assert best_gain(t, 0) == pytest.approx(SIGMA_DATA**2 / (SIGMA_DATA**2 + t**2))


def test_the_exact_target_has_its_smallest_distance_at_the_best_gain() -> None:
    t = torch.full((4000, 1, 2, 1, 1), 0.8, dtype=torch.float64)
    r, x, n = earlier(t, 3), SIGMA_DATA * noise(0, 4000), noise(1, 4000)
    target, one = exact(x + r * n, r), torch.ones_like(t)
    best = float(exact(torch.ones(1).double(), r[0, 0, 0, 0]))
    best *= float(((SIGMA_DATA**2 + t * r) / (SIGMA_DATA**2 + t**2))[0, 0, 0, 0, 0])
    gains = [best * (1 + 0.05 * k) for k in range(-3, 4)]
    losses = [float(distance(g * (x + t * n), target, t - r, one).mean()) for g in gains]
    assert losses.index(min(losses)) == 3
