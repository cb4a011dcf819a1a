from __future__ import annotations

import math

import exact
import pytest
import torch
from torch import Tensor

from vidiff.diffusion import process, samplers
from vidiff.diffusion.process import SIGMA_DATA

LEVELS = (0.002, 0.1, 1.0, 80.0)
CONVERTERS = {
    "noise": (process.noise_from_clean, process.clean_from_noise),
    "velocity": (process.velocity_from_clean, process.clean_from_velocity),
    "flow": (process.flow_from_clean, process.clean_from_flow),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("level", LEVELS)
def test_input_and_target_have_unit_variance_and_no_correlation(level: float) -> None:
    count = 400_000
    clean, noise = SIGMA_DATA * normal(count), normal(count, seed=1)
    sigma = torch.tensor(level, dtype=torch.float64)
    c = process.scalings(sigma)
    noisy = clean + sigma * noise
    into, target = c.into * noisy, (clean - c.skip * noisy) / c.out
    error = math.sqrt(2 / count)
    assert abs(float(into.var()) - 1) < 4 * error
    assert abs(float(target.var()) - 1) < 4 * error
    assert abs(float((into * target).mean())) < 4 / math.sqrt(count)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CONVERTERS)
def test_every_parameterisation_goes_there_and_back(name: str, level: float) -> None:
    there, back = CONVERTERS[name]
    sigma = torch.tensor(level, dtype=torch.float64)
    clean, noise = SIGMA_DATA * normal(1000), normal(1000, seed=1)
    noisy = clean + sigma * noise
    torch.testing.assert_close(back(there(clean, noisy, sigma), noisy, sigma), clean,
                               rtol=0, atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("level", LEVELS)
def test_the_parameterisations_are_what_their_names_say(level: float) -> None:
    sigma = torch.tensor(level, dtype=torch.float64)
    clean, noise = SIGMA_DATA * normal(1000), normal(1000, seed=1)
    noisy = clean + sigma * noise
    c = process.scalings(sigma)
    network = (clean - c.skip * noisy) / c.out
    close = {"rtol": 1e-9, "atol": 1e-11 / level}
    torch.testing.assert_close(process.noise_from_clean(clean, noisy, sigma), noise, **close)
    torch.testing.assert_close(process.flow_from_clean(clean, noisy, sigma), noise - clean, **close)
    torch.testing.assert_close(process.velocity_from_clean(clean, noisy, sigma), -network, **close)


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_sampler_walks_the_same_path_under_every_parameterisation(name: str) -> None:
    there, back = CONVERTERS[name]
    denoise = exact.mixture(normal(3, 6), 0.05)

    def wrapped(noisy: Tensor, sigma: Tensor) -> Tensor:
        return back(there(denoise(noisy, sigma), noisy, sigma), noisy, sigma)

    levels = exact.together(samplers.karras_grid(12, 0.01, 80))
    start = 80 * normal(5, 1, 6, 1, 1, seed=2)
    ends = [samplers.dpm2m(d, start, levels) for d in (denoise, wrapped)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-11)


def test_no_denoiser_gets_below_the_closed_form_floor() -> None:
    variance, count = torch.tensor([4.0, 1.0, 0.1, 0.01], dtype=torch.float64), 20_000
    denoise = exact.gaussian(variance.diag())
    clean = normal(count, 4).mul(variance.sqrt()).view(count, 1, 4, 1, 1)
    for level in (0.1, 0.5, 3.0):
        sigma = torch.full((1, 1, 4, 1, 1), level, dtype=torch.float64)
        everywhere = sigma.expand(count, 1, 4, 1, 1)
        noisy = process.add_noise(clean, everywhere, normal(count, 1, 4, 1, 1, seed=1))
        floor = float((variance * level**2 / (variance + level**2)).sum())
        best = denoise(noisy, sigma)
        others = (noisy, 0 * noisy, 0.9 * best, best + 0.1 * (noisy - best))
        losses = [(d - clean).square().sum((1, 2, 3, 4)) for d in (best, *others)]
        error = float(losses[0].std()) / math.sqrt(count)
        assert abs(float(losses[0].mean()) - floor) < 4 * error
        assert all(float((loss - losses[0]).mean()) > 0 for loss in losses[1:])


@pytest.mark.parametrize("level", [1e-3, 0.5, 1e3])
def test_the_weighted_error_of_white_clips_is_one_at_every_level(level: float) -> None:
    clean, noise = (normal(64, 1, 4, 16, 16, seed=s) for s in (0, 1))
    clean, sigma = SIGMA_DATA * clean, torch.full((64, 1, 4, 1, 1), level, dtype=torch.float64)
    noisy = process.add_noise(clean, sigma, noise)
    silent = process.scalings(sigma).skip * noisy
    error = process.weighted_error(silent, clean, sigma)
    assert error.shape == (64, 4)
    assert float(error.mean()) == pytest.approx(1, abs=0.02)


def test_motion_emphasis_counts_each_change_once() -> None:
    clean, denoised = normal(2, 3, 5, 4, 4), normal(2, 3, 5, 4, 4, seed=1)
    sigma = torch.full((2, 1, 5, 1, 1), 0.7, dtype=torch.float64)
    e = (denoised - clean) / process.scalings(sigma).out
    expected = e.square().mean((1, 3, 4)).sum(1) + 0.5 * e.diff(dim=2).square().mean((1, 3, 4)).sum(
        1
    )
    got = process.weighted_error(denoised, clean, sigma, mu=0.5).sum(1)
    torch.testing.assert_close(got, expected)


def test_motion_emphasis_has_the_same_minimiser() -> None:
    cov, level = SIGMA_DATA**2 * exact.ar1(3, 0.9), 0.5
    denoise = exact.gaussian(cov)
    clean = (normal(20_000, 3) @ torch.linalg.cholesky(cov).T).view(-1, 1, 3, 1, 1)
    sigma = torch.full((1, 1, 3, 1, 1), level, dtype=torch.float64)
    noisy = clean + level * normal(20_000, 1, 3, 1, 1, seed=1)
    best = denoise(noisy, sigma).requires_grad_()
    loss = process.weighted_error(best, clean, sigma.expand(20_000, 1, 3, 1, 1), mu=0.5).mean()
    (gradient,) = torch.autograd.grad(loss, best)
    # At the minimiser the gradient is uncorrelated with anything made from the noisy clip.
    slope = torch.einsum("bcthw,bcshw->ts", 20_000 * gradient, noisy) / 20_000
    assert float(slope.abs().max()) < 0.03


def test_pixels_of_no_weight_do_not_count_beside_others_of_their_frame() -> None:
    clean, denoised = normal(1, 3, 2, 4, 4), normal(1, 3, 2, 4, 4, seed=1)
    sigma = torch.full((1, 1, 2, 4, 4), 0.7, dtype=torch.float64)
    weight = torch.zeros(1, 1, 2, 4, 4, dtype=torch.float64)
    weight[:, :, 0, :2] = 1
    error = process.weighted_error(denoised, clean, sigma, weight=weight)
    half = [part[:, :, :, :2] for part in (denoised, clean, sigma)]
    torch.testing.assert_close(error[:, 0], process.weighted_error(*half)[:, 0])
    plain = process.weighted_error(denoised, clean, sigma)
    torch.testing.assert_close(error[:, 1], plain[:, 1])


def test_the_learned_u_settles_at_the_log_of_the_error() -> None:
    error = torch.tensor([[0.2, 0.9, 3.0]], dtype=torch.float64)
    u = error.log().requires_grad_()
    weight = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(process.balance(error, u, weight).sum(), u)
    torch.testing.assert_close(gradient, torch.zeros(1, 3, dtype=torch.float64))
    value = process.balance(error, u.detach(), weight)
    assert float(value) == pytest.approx(1 + (math.log(0.2) + math.log(0.9)) / 2)


def test_levels_follow_the_normal_law_and_the_tail_spans_the_range() -> None:
    q = (torch.arange(100_000).double() + 0.5) / 100_000
    levels = process.draw_levels(q, -0.4, 1.4, 0.05, 0.001, 500)
    low, high = levels[q < 0.05].log(), levels[q >= 0.05].log()
    assert float(levels.min()) == pytest.approx(0.001, rel=1e-2)
    assert float(levels.max()) == pytest.approx(500, rel=1e-2)
    assert float(low.mean()) == pytest.approx((math.log(0.001) + math.log(500)) / 2, abs=0.01)
    assert float(high.mean()) == pytest.approx(-0.4, abs=0.01)
    assert float(high.std()) == pytest.approx(1.4, abs=0.01)


@pytest.mark.parametrize("tail", [0.0, 0.05, 1.0])
def test_levels_stay_in_their_range_at_the_ends_of_the_quantiles(tail: float) -> None:
    q = torch.tensor([0.0, 1e-9, 0.05, 0.5, 1 - 1e-7, 1.0])
    levels = process.draw_levels(q, -0.8, 1.6, tail, 0.01, 80)
    assert bool(((levels >= 0.0099999) & (levels <= 80.0001)).all())


def test_stratified_quantiles_put_one_level_into_every_bin() -> None:
    uniform, slots = torch.rand(64), torch.randperm(64).float()
    q = process.stratify(uniform, slots, 64)
    assert sorted((q * 64).long().tolist()) == list(range(64))
