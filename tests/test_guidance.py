from __future__ import annotations

import math

import exact
import pytest
import torch
from torch import Tensor

from vidiff.diffusion import samplers
from vidiff.diffusion.guidance import Pair, apart, guide, raise_history
from vidiff.diffusion.process import Denoiser

MEANS = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [2.0, -1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LEVELS = exact.together(samplers.log_grid(24, 0.01, 80))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two(denoise: Denoiser, reference: Denoiser) -> tuple[Denoiser, Pair]:
    return denoise, apart(denoise, reference)


def never(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    raise AssertionError("the reference was asked")


def test_modes_come_with_their_weights() -> None:
    count = 4000
    start = 80 * normal(count, 1, 2, 1, 1)
    end = samplers.dpm2m(exact.mixture(MEANS, 0.04, WEIGHTS), start, LEVELS).flatten(1)
    nearest = torch.cdist(end, MEANS).argmin(1)
    for mode, weight in enumerate(WEIGHTS.tolist()):
        share = float((nearest == mode).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / count)


def test_weight_one_is_the_denoiser_itself() -> None:
    denoise = exact.mixture(MEANS, 0.04, WEIGHTS)
    start = 80 * normal(50, 1, 2, 1, 1)
    plain = samplers.dpm2m(denoise, start, LEVELS)
    assert torch.equal(samplers.dpm2m(guide(denoise, never, 1.0), start, LEVELS), plain)


def test_outside_its_interval_guidance_changes_no_bit() -> None:
    denoise = exact.mixture(MEANS, 0.04, WEIGHTS)
    start = 80 * normal(50, 1, 2, 1, 1)
    guided = guide(denoise, never, 3.0, interval=(100.0, 200.0))
    plain = samplers.dpm2m(denoise, start, LEVELS)
    assert torch.equal(samplers.dpm2m(guided, start, LEVELS), plain)


def test_the_interval_is_open_below_and_closed_above() -> None:
    guided = guide(*two(lambda y, s: y, lambda y, s: 0 * y), 2.0, interval=(0.5, 1.0))
    y = torch.ones(3, 1, 1, 1, 1)
    sigma = torch.tensor([0.5, 1.0, 1.1]).view(3, 1, 1, 1, 1)
    assert guided(y, sigma).flatten().tolist() == [1, 2, 1]


def test_guidance_of_a_clip_does_not_depend_on_its_neighbours() -> None:
    denoise, reference = exact.mixture(MEANS, 0.04, WEIGHTS), exact.mixture(MEANS, 0.4, WEIGHTS)
    guided = guide(*two(denoise, reference), 2.0, interval=(0.2, 3.0))
    y, sigma = normal(2, 1, 2, 1, 1), torch.tensor([1.0, 50.0]).double().view(2, 1, 1, 1, 1)
    rows = [guided(y[i : i + 1], sigma[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(guided(y, sigma), torch.cat(rows), rtol=0, atol=1e-14)


def test_guidance_extrapolates_from_the_reference() -> None:
    y, sigma = torch.ones(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1)
    guided = guide(*two(lambda y, s: 3 * y, lambda y, s: y), 1.5)
    assert float(guided(y, sigma)) == 4.0


def test_guidance_between_two_gaussians_tilts_to_the_known_law() -> None:
    # Scores mix linearly: 1 / (l_w + s^2) = w / (l + s^2) + (1 - w) / (l_ref + s^2).
    own, other, w = 0.25, 1.0, 2.0
    y, level = normal(5, 1, 1, 1, 1), 0.5
    sigma = torch.full((1, 1, 1, 1, 1), level, dtype=torch.float64)
    denoisers = (exact.gaussian(torch.eye(1).double() * v) for v in (own, other))
    out = guide(*two(*denoisers), w)(y, sigma)
    precision = w / (own + level**2) + (1 - w) / (other + level**2)
    torch.testing.assert_close(out, y * (1 - level**2 * precision))


def test_rescaling_returns_the_spread_of_each_frame() -> None:
    clean, y = normal(2, 3, 4, 5, 5), normal(2, 3, 4, 5, 5, seed=1)
    sigma = torch.ones(2, 1, 4, 1, 1, dtype=torch.float64)
    guided = guide(*two(lambda y, s: clean, lambda y, s: 0 * y), 3.0, rescale=1.0)
    torch.testing.assert_close(guided(y, sigma).std((1, 3, 4)), clean.std((1, 3, 4)))


def test_rescaling_of_a_flat_frame_stays_finite() -> None:
    flat, sigma = torch.zeros(1, 3, 2, 4, 4), torch.ones(1, 1, 2, 1, 1)
    guided = guide(*two(lambda y, s: 0 * y, lambda y, s: 0 * y), 3.0, rescale=0.7)
    assert bool(torch.isfinite(guided(flat, sigma)).all())


@pytest.mark.parametrize("level", [0.012, 0.5, 80.0])
def test_history_is_seen_through_exactly_the_noise_it_is_said_to_have(level: float) -> None:
    held = torch.tensor([True, False]).view(1, 1, 2, 1, 1)
    sigma = torch.tensor([0.1, 3.0]).double().view(1, 1, 2, 1, 1).expand(20_000, 1, 2, 1, 1)
    noisy = sigma * normal(20_000, 1, 2, 1, 1)
    noise = normal(20_000, 1, 2, 1, 1, seed=1)
    y, told = raise_history(held.expand(20_000, 1, 2, 1, 1), noise, level)(noisy, sigma)
    assert torch.equal(y[:, :, 1], noisy[:, :, 1])
    assert float(told[0, 0, 0]) == pytest.approx(max(level, 0.1))
    assert float(y[:, 0, 0].std()) == pytest.approx(float(told[0, 0, 0]), rel=0.03)
