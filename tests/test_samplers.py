from __future__ import annotations

import math
import warnings
from typing import Any

import exact
import pytest
import torch
from torch import Tensor

from vidiff.diffusion import samplers
from vidiff.diffusion.process import SIGMA_DATA, scalings

SAMPLERS = samplers.SAMPLERS
DETERMINISTIC = ("euler", "heun", "dpm2m", "ab2", "exp2m")
ORDERS = {"euler": 1, "heun": 2, "dpm2m": 2, "ab2": 2, "exp2m": 2}
VARIANCES = torch.logspace(-2, math.log10(4), 6).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_samplers_have_their_order(name: str, order: int) -> None:
    mean, top, low = torch.linspace(-1, 1, 6).double(), 80.0, 0.002
    denoise = exact.gaussian(VARIANCES.diag(), mean)
    start = mean + (VARIANCES + top**2).sqrt() * torch.tensor([1.0, -1, 1, -1, 1, -1]).double()
    flow = mean + (start - mean) * ((VARIANCES + low**2) / (VARIANCES + top**2)).sqrt()
    errors = []
    for steps in (256, 512):
        levels = exact.together(samplers.karras_grid(steps + 1, low, top)[:-1])
        end = SAMPLERS[name](denoise, start.view(1, 1, 6, 1, 1), levels).flatten()
        errors.append(float((end - flow).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("top", [2.0, 20.0])
def test_a_start_from_pure_noise_shrinks_components_by_the_known_factor(
    name: str, top: float
) -> None:
    levels = exact.together(samplers.karras_grid(400, 0.002, top))
    denoise = exact.gaussian(VARIANCES.diag())
    end = SAMPLERS[name](denoise, torch.full((1, 1, 6, 1, 1), top).double(), levels).flatten()
    expected = VARIANCES.sqrt() * top / (VARIANCES + top**2).sqrt()
    torch.testing.assert_close(end, expected, rtol=0.02 if name == "euler" else 2e-3, atol=1e-4)


def log_density(x: Tensor, cov: Tensor) -> Tensor:
    law = torch.distributions.MultivariateNormal(torch.zeros(len(cov)).double(), cov)
    return law.log_prob(x)


def with_likelihood(denoise: Any, d: int) -> Any:
    """One more number a clip, moved by the same solver: dL/ds = (d - tr dD/dy) / s."""

    def augmented(noisy: Tensor, sigma: Tensor) -> Tensor:
        y, s, unit = noisy[:, :, :d], sigma[:, :, :d], torch.eye(d).double().view(d, 1, d, 1, 1)
        zero = torch.zeros_like(unit)
        jacobian = (denoise(unit, s) - denoise(zero, s)).view(d, d)
        total = noisy[:, :, d:] - (d - jacobian.trace())
        return torch.cat([denoise(y, s), total], dim=2)

    return augmented


def test_the_likelihood_along_the_ode_is_that_of_the_gaussian() -> None:
    d, low, top = 5, 1e-3, 80.0
    cov = exact.ar1(d) + 0.05 * torch.eye(d).double()
    x = normal(3, d) @ torch.linalg.cholesky(cov).T
    grid = samplers.karras_grid(1500, low, top)[:-1].flip(0)
    start = torch.cat([x, torch.zeros(3, 1).double()], dim=1).view(3, 1, d + 1, 1, 1)
    denoise = with_likelihood(exact.gaussian(cov), d)
    end = samplers.heun(denoise, start, exact.together(grid, d + 1)).flatten(1)
    found = log_density(end[:, :d], cov + top**2 * torch.eye(d).double()) + end[:, d]
    expected = log_density(x, cov + low**2 * torch.eye(d).double())
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_random_probes_estimate_the_divergence_without_bias() -> None:
    cov, sigma = exact.ar1(8), torch.full((1, 1, 8, 1, 1), 0.6).double()
    denoise = exact.gaussian(cov)
    probes = normal(4000, 1, 8, 1, 1).sign()
    values = (probes * denoise(probes, sigma)).sum((1, 2, 3, 4))
    trace = torch.linalg.solve(cov + 0.36 * torch.eye(8).double(), cov).trace()
    assert abs(float(values.mean() - trace)) < 4 * float(values.std()) / math.sqrt(4000)


def round_trip(name: str, denoise: Any, x: Tensor, steps: int) -> float:
    levels = exact.together(samplers.karras_grid(steps + 1, 0.01, 80)[:-1])
    up = SAMPLERS[name](denoise, x, levels.flip(0))
    return float((SAMPLERS[name](denoise, up, levels) - x).abs().max())


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_up_and_down_again_returns_the_clip_with_the_solvers_order(name: str, order: int) -> None:
    denoise = exact.gaussian(exact.ar1(4))
    x = normal(4, 1, 4, 1, 1)
    errors = [round_trip(name, denoise, x, steps) for steps in (200, 400)]
    # The trapezoid rule is symmetric: up and down cancel one order more.
    assert math.log2(errors[0] / errors[1]) > order - 0.15


def test_heun_encodes_and_decodes_to_a_millionth() -> None:
    x = normal(8, 1, 4, 1, 1, seed=1)
    error = round_trip("heun", exact.gaussian(exact.ar1(4)), x, 512)
    assert error < 1e-6 * float(x.abs().max())
    assert round_trip("heun", exact.mixture(normal(3, 4), 0.3), x, 512) < 4e-6


@pytest.mark.parametrize("name", ["churn", "sde2m"])
def test_stochastic_samplers_keep_the_law_only_with_honest_noise(name: str) -> None:
    cov, top = 0.25 * exact.ar1(3), 10.0
    denoise = exact.gaussian(cov)
    levels = exact.together(samplers.karras_grid(150, 0.01, top), 3)
    start = cov + top**2 * torch.eye(3).double()

    def off(s_noise: float) -> float:
        end = exact.end_covariance(SAMPLERS[name], denoise, levels, start, s_noise=s_noise)
        return float((end - cov).abs().max()) / 0.25

    assert off(1.0) < 0.01
    assert off(1.2) > 0.1


def test_an_sde_without_noise_is_the_ode() -> None:
    denoise = exact.mixture(normal(3, 4), 0.3)
    levels = exact.together(samplers.log_grid(15, 0.01, 80))
    start = 80 * normal(6, 1, 4, 1, 1, seed=1)
    quiet = samplers.sde2m(denoise, start, levels, lambda step: torch.zeros(1), eta=0)
    torch.testing.assert_close(quiet, samplers.dpm2m(denoise, start, levels))


def paths(grid: Tensor) -> dict[str, Tensor]:
    """Levels of eight frames whose columns fall together or one after another."""
    floor, step = torch.zeros(1, 1, 8, 1, 1).double(), (len(grid) - 1) / 12
    start = torch.full_like(floor, torch.inf)
    frame = torch.arange(8).double()
    lags = {
        "pyramid": frame * step,
        "reversed": (7 - frame) * step,
        "random": torch.tensor([0.13, 7.7, 2.41, 5.05, 0.0, 6.3, 1.99, 3.6]).double() * step,
    }
    fields = {name: samplers.spread(grid, floor, start, lag) for name, lag in lags.items()}
    return fields | {"shared": samplers.spread(grid, floor, start)}


@pytest.mark.parametrize("name", ["heun", "dpm2m", "ab2", "exp2m"])
@pytest.mark.parametrize("path", ["shared", "pyramid", "reversed", "random"])
def test_every_path_of_the_levels_ends_at_the_same_law(name: str, path: str) -> None:
    cov, top = exact.ar1(8), 40.0
    start = cov + top**2 * torch.eye(8).double()
    errors = []
    for steps in (120, 240):
        levels = paths(samplers.karras_grid(steps, 0.002, top))[path]
        matrix = exact.transfer(SAMPLERS[name], exact.gaussian(cov), levels, (8, 1, 1))
        errors.append(float((matrix @ start @ matrix.T - cov).abs().max()))
    assert errors[1] < 3e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.35)


@pytest.mark.parametrize("name", SAMPLERS)
def test_lagging_frames_never_meet_level_zero(name: str) -> None:
    asked = []

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma.min()))
        return 0.5 * noisy

    levels = paths(samplers.log_grid(9, 0.01, 80))["random"].float()
    end = SAMPLERS[name](denoise, torch.ones(2, 1, 8, 1, 1), levels, lambda step: torch.ones(1))
    assert min(asked) == pytest.approx(float(samplers.log_grid(9, 0.01, 80)[-2]))
    assert bool(torch.isfinite(end).all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_frames_that_stand_still_keep_every_bit(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(2, 3, 4, 5, 5, generator=g)
    levels = samplers.karras_grid(7, 0.01, 80).float().view(-1, 1, 1, 1, 1, 1)
    levels = levels.repeat(1, 1, 1, 4, 1, 1)
    levels[:, :, :, 1] = 0.012
    end = SAMPLERS[name](
        lambda noisy, sigma: noisy.tanh(), y, levels, lambda step: torch.randn(y.shape, generator=g)
    )
    assert torch.equal(end[:, :, 1], y[:, :, 1])
    assert not torch.equal(end[:, :, 0], y[:, :, 0])


@pytest.mark.parametrize("grid", samplers.GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 24, 500])
def test_grids_fall_from_the_top_to_zero(grid: str, steps: int) -> None:
    levels = exact.grid_of(grid, steps, 0.01, 155.0)
    assert len(levels) == steps + 1
    assert float(levels[0]) == pytest.approx(155)
    assert float(levels[-1]) == 0
    assert bool((levels.diff() < 0).all())
    assert steps == 1 or float(levels[-2]) > 0.01 - 1e-9


def test_the_quantile_grid_follows_the_levels_of_training() -> None:
    for mean in (-1.0, 0.5):
        levels = samplers.make_grid("quantile", 41, 0.001, 1000.0, mean, 1.2)
        assert float(levels[20].log()) == pytest.approx(mean, abs=0.02)
        middle = (levels[5:36].log() - mean).abs() < 1.2
        assert float(middle.double().mean()) > 0.8


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 6])
def test_the_calls_are_counted(name: str, steps: int) -> None:
    calls = []

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return 0.5 * noisy

    levels = exact.together(samplers.karras_grid(steps, 0.01, 80))
    SAMPLERS[name](denoise, torch.ones(1, 1, 1, 1, 1).double(), levels, lambda step: torch.ones(1))
    assert len(calls) == samplers.count_calls(name, steps)


def test_ten_and_twenty_calls_come_close_to_the_exact_end_points() -> None:
    problem = exact.EndPoints(clips=64, reference_steps=500)
    assert problem.error("ab2", "flow", 10) <= 0.05
    assert problem.error("ab2", "flow", 20) <= 0.015
    assert problem.error("exp2m", "log", 10) <= 0.05
    assert problem.error("exp2m", "log", 20) <= 0.015


def test_the_log_grid_keeps_the_brightness_that_even_flow_time_loses() -> None:
    log, flow = (exact.spectrum_error("exp2m", grid, 24, 155) for grid in ("log", "flow"))
    assert float(log.abs().max()) < 0.02
    assert float(flow.min()) < -0.3


PEERS = {
    "euler": ("EDMEulerScheduler", {}),
    "dpm2m": ("EDMDPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "midpoint"}),
}


@pytest.mark.parametrize("name", PEERS)
def test_samplers_agree_with_diffusers(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        kind, options = PEERS[name]
        peer = getattr(diffusers, kind)(
            sigma_min=0.02, sigma_max=20.0, sigma_data=SIGMA_DATA, sigma_schedule="karras",
            final_sigmas_type="zero", **options,
        )  # fmt: skip
        peer.set_timesteps(18)
    denoise = exact.mixture(normal(4, 16), 0.1)
    start = 20 * normal(8, 1, 16, 1, 1, seed=1)
    y = start
    for t, level in zip(peer.timesteps, peer.sigmas[:-1].double(), strict=True):
        c = scalings(level)
        noisy = peer.scale_model_input(y, t) / c.into
        network = (denoise(noisy, level.view(1, 1, 1, 1, 1)) - c.skip * noisy) / c.out
        y = peer.step(network, t, y).prev_sample
    ours = SAMPLERS[name](denoise, start, exact.together(samplers.karras_grid(18, 0.02, 20.0)))
    torch.testing.assert_close(ours, y.double(), rtol=0, atol=1e-5)


def test_heun_agrees_with_diffusers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        peer = diffusers.HeunDiscreteScheduler(prediction_type="epsilon")
        peer.set_timesteps(12)
    grid = samplers.karras_grid(12, 0.02, 20.0)
    twice = grid[1:-1].repeat_interleave(2)
    peer.sigmas = torch.cat([grid[:1], twice, grid[-1:]])
    denoise = exact.mixture(normal(4, 16), 0.1)
    start = y = 20 * normal(8, 1, 16, 1, 1, seed=1)
    peer.set_begin_index(0)
    for t, level in zip(peer.timesteps, peer.sigmas[:-1], strict=True):
        epsilon = (y - denoise(y, level.view(1, 1, 1, 1, 1))) / level
        y = peer.step(epsilon, t, y).prev_sample
    ours = samplers.heun(denoise, start, exact.together(grid))
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-5)
