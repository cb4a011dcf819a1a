"""The ladder: on Gaussian video every network's held-out loss lands on its own closed-form rung.

Clips of T = 8 frames of 8 x 8 pixels, unit variance, with s the noise level:

  (1) covariance  C = C_t (x) C_s,  C_t[f, g] = 0.9^|f-g|  (an AR(1) process),  C_s that of a field
                  with spectrum (k^2 + 0.02)^-1.5, k in cycles a pixel
  (2) best guess  E[x_f | y_V] = C_fV (C_VV + s^2)^-1 y_V   of frame f from the frames V it may see
  (3) its floor   tr(C_ff - C_fV (C_VV + s^2)^-1 C_Vf) / 64  a pixel

V is {f} for a network without temporal layers, {g <= f} for a causal one and all frames for the
full one: per frame > causal > joint. Nothing can go below its floor, except by a leak; what stays
far above does not use what it sees. The frames are windows of a 16 x 16 torus and do not wrap
around, as the networks pad with zeros. Errors are paired: a network's against that of (2) on the
same noisy clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from vidiff.diffusion import process, samplers
from vidiff.diffusion.process import SIGMA_DATA
from vidiff.models.layout import ModelConfig
from vidiff.models.optimizers import OptimizerConfig, learning_rate, make_optimizers
from vidiff.models.unet import SpaceTimeUNet, hidden_matrix

pytestmark = pytest.mark.timeout(900)  # a minute on a free core, many on a busy one

T, SIDE, LAG_ONE = 8, 8, 0.9
PIXELS = SIDE * SIDE
LEVELS = (0.3, 1.0, 3.0)
"""Noise levels over the data's standard deviation."""
SIGMA_MAX = 18.0
"""Five times the deviation of the largest principal component."""

SEES: dict[str, Callable[[int], range]] = {
    "frame": lambda f: range(f, f + 1),
    "causal": lambda f: range(f + 1),
    "joint": lambda f: range(T),
}
SETTINGS = {"frame": {"temporal": False}, "causal": {"causal": True}, "joint": {}}
STEPS = {"frame": 100, "causal": 180, "joint": 240}


@cache
def covariances() -> tuple[Float[Tensor, "t t"], Float[Tensor, "l l"]]:
    """C_t and C_s of (1)."""
    frames = torch.arange(T, dtype=torch.float64)
    k = torch.fft.fftfreq(2 * SIDE, dtype=torch.float64)
    torus = torch.fft.ifft2((k[:, None] ** 2 + k**2 + 0.02) ** -1.5).real
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    dy, dx = (place[:, None] - place).unbind(-1)
    return LAG_ONE ** (frames[:, None] - frames).abs(), torus[dy, dx] / torus[0, 0]


@cache
def best_guess(level: float, sees: str) -> tuple[Float[Tensor, "tl tl"], float]:
    """The linear map (2) on whole clips, and its floor (3)."""
    c = torch.kron(*covariances())
    weights, floor = torch.zeros_like(c), 0.0
    for f in range(T):
        own = slice(f * PIXELS, (f + 1) * PIXELS)
        seen = slice(SEES[sees](f)[0] * PIXELS, (SEES[sees](f)[-1] + 1) * PIXELS)
        noisy = c[seen, seen] + level**2 * torch.eye(len(c[seen]), dtype=c.dtype)
        weights[own, seen] = torch.linalg.solve(noisy, c[seen, own]).T
        left = c[own, own] - weights[own, seen] @ c[seen, own]
        floor += float(left.diagonal().sum()) / (T * PIXELS)
    return weights, floor


def draw_clips(count: int, generator: torch.Generator) -> Float[Tensor, "b 1 t h w"]:
    """Clips of covariance SIGMA_DATA^2 C."""
    in_time, in_space = (torch.linalg.cholesky(c).float() for c in covariances())
    z = torch.randn(count, T, PIXELS, generator=generator)
    x = torch.einsum("fg,bgl,kl->bfk", in_time, z, in_space)
    return SIGMA_DATA * x.view(count, 1, T, SIDE, SIDE)


def field(sigma: Float[Tensor, "b"]) -> Float[Tensor, "b 1 t 1 1"]:
    return sigma.view(-1, 1, 1, 1, 1).expand(-1, 1, T, 1, 1)


def ask(net: SpaceTimeUNet, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The denoised clip and u."""
    c = process.scalings(sigma)
    out, u = net(c.into * noisy, c.noise[:, 0, :, 0, 0], torch.ones(len(noisy)))
    return c.skip * noisy + c.out * out, u


def train(net: SpaceTimeUNet, steps: int, batch: int = 16) -> None:
    """The real losses, levels and optimisers on clips that never repeat."""
    config = OptimizerConfig(lr=0.02, warmup=10)
    optimizers = make_optimizers(config, net, hidden_matrix, mp=True)
    g = torch.Generator().manual_seed(1)
    for step in range(steps):
        clean = draw_clips(batch, g)
        slots = torch.randperm(batch, generator=g).float()
        q = process.stratify(torch.rand(batch, generator=g), slots, batch)
        sigma = field(process.draw_levels(q, 0.0, 1.3, 0.05, 0.002, SIGMA_MAX))
        noisy = process.add_noise(clean, sigma, torch.randn(clean.shape, generator=g))
        denoised, u = ask(net, noisy, sigma)
        error = process.weighted_error(denoised, clean, sigma)
        net.zero_grad()
        process.balance(error, u, torch.ones_like(error)).mean().backward()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(config, step, steps)
            optimizer.step()
        net.normalize_weights()


@dataclass(frozen=True)
class Rung:
    """Held-out errors at one level, a pixel of unit variance."""

    error: float
    best: float
    floor: float

    @property
    def excess(self) -> float:
        """Share by which the network's error exceeds that of (2) on the same clips."""
        return self.error / self.best - 1


class Climber:
    """A trained network and where it stands."""

    def __init__(self, sees: str) -> None:
        torch.manual_seed(0)
        config = ModelConfig(
            patch=1, widths=(24,), blocks=2, temporal_map=SIDE, joint_map=0, **SETTINGS[sees]
        )
        self.net = SpaceTimeUNet(config, SIDE, channels=1)
        train(self.net, STEPS[sees])
        self.net.eval()
        self.rungs = {level: self.measure(level, sees) for level in LEVELS}

    @torch.no_grad()
    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return ask(self.net, noisy, sigma)[0]

    def measure(self, level: float, sees: str, count: int = 256) -> Rung:
        g = torch.Generator().manual_seed(99)
        clean, sigma = draw_clips(count, g), field(torch.full((count,), level * SIGMA_DATA))
        noisy = process.add_noise(clean, sigma, torch.randn(clean.shape, generator=g))
        weights, floor = best_guess(level, sees)
        guess = guess_clean(noisy, weights)
        error, best = (
            float((x - clean).square().mean()) / SIGMA_DATA**2
            for x in (self.denoise(noisy, sigma), guess)
        )
        return Rung(error, best, floor)


def guess_clean(noisy: Tensor, weights: Tensor) -> Tensor:
    flat = noisy.double().flatten(1) @ weights.T
    return flat.view(noisy.shape).float()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Maps this small gain little from a second thread and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def per_frame() -> Climber:
    return Climber("frame")


@pytest.fixture(scope="module")
def causal() -> Climber:
    return Climber("causal")


@pytest.fixture(scope="module")
def full() -> Climber:
    return Climber("joint")


def test_the_floors_are_a_ladder() -> None:
    for level in LEVELS:
        blind = level**2 / (1 + level**2)
        floors = [blind, *(best_guess(level, sees)[1] for sees in SEES)]
        assert all(lower < 0.9 * upper for upper, lower in pairwise(floors))


def test_the_floors_agree_with_principal_components() -> None:
    in_time, in_space = (torch.linalg.eigvalsh(c) for c in covariances())
    for level in LEVELS:
        for sees, variances in (("frame", in_space), ("joint", torch.kron(in_time, in_space))):
            expected = (variances * level**2 / (variances + level**2)).mean()
            assert best_guess(level, sees)[1] == pytest.approx(float(expected), rel=1e-9)


def test_the_clips_have_the_covariance_they_claim() -> None:
    x = draw_clips(4000, torch.Generator().manual_seed(3)).flatten(1).double() / SIGMA_DATA
    error = x.T @ x / len(x) - torch.kron(*covariances())
    assert float(error.abs().max()) < 5.5 / math.sqrt(4000) * math.sqrt(2)


def test_without_temporal_layers_a_network_reaches_the_per_frame_rung(per_frame: Climber) -> None:
    for rung in per_frame.rungs.values():
        assert -0.02 <= rung.excess <= 0.03
        assert rung.best == pytest.approx(rung.floor, rel=0.03)


def test_a_causal_network_reaches_the_causal_rung(causal: Climber) -> None:
    for level, rung in causal.rungs.items():
        assert -0.02 <= rung.excess <= 0.05
        assert rung.error < 0.98 * best_guess(level, "frame")[1]
        assert rung.best == pytest.approx(rung.floor, rel=0.03)


def test_the_full_network_passes_the_causal_rung_and_stays_above_the_joint(full: Climber) -> None:
    for level, rung in full.rungs.items():
        assert rung.error < 0.98 * best_guess(level, "causal")[1]
        assert -0.02 <= rung.excess <= 0.05
        assert rung.best == pytest.approx(rung.floor, rel=0.03)


def test_samples_have_the_autocorrelation_and_the_spectrum_of_the_clips(full: Climber) -> None:
    # Sampled twice from the same noise, by the network and by (2), whose law is known: the
    # comparison is free of the luck of the draw and of the solver's error.
    count = 128
    noise = SIGMA_MAX * torch.randn(
        count, 1, T, SIDE, SIDE, generator=torch.Generator().manual_seed(5)
    )
    grid = samplers.karras_grid(20, 0.01, SIGMA_MAX)
    anywhere = torch.zeros(count, 1, T, 1, 1)
    levels = samplers.spread(grid, anywhere, anywhere + torch.inf)

    def exactly(noisy: Tensor, sigma: Tensor) -> Tensor:
        return guess_clean(noisy, best_guess(float(sigma.flatten()[0]) / SIGMA_DATA, "joint")[0])

    found = [
        statistics(samplers.dpm2m(denoise, noise, levels)) for denoise in (full.denoise, exactly)
    ]
    (correlation, spectrum), (exact_correlation, exact_spectrum) = found
    truth = LAG_ONE ** torch.arange(T)
    assert float((exact_correlation - truth).abs().max()) < 0.03
    assert float((exact_spectrum - 1).abs().max()) < 0.05
    assert float((correlation - exact_correlation).abs().max()) < 0.03
    assert float((spectrum / exact_spectrum - 1).abs().max()) < 0.05


def statistics(clips: Float[Tensor, "b 1 t h w"]) -> tuple[Float[Tensor, "t"], Float[Tensor, "k"]]:
    """Autocorrelation at each lag; deviation over the truth in four bands of components of C_s."""
    x = clips.double().view(len(clips), T, PIXELS) / SIGMA_DATA
    c = torch.einsum("bfl,bgl->fg", x, x)
    lags = torch.stack([c.diagonal(k).mean() for k in range(T)])
    variances, components = torch.linalg.eigh(covariances()[1])
    power = (x @ components).square().mean((0, 1))
    bands = [power[k].sum() / variances[k].sum() for k in torch.arange(PIXELS).split(16)]
    return lags / lags[0], torch.stack(bands).sqrt()
