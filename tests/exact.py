"""Denoisers whose answer is known: Gaussians, Gaussian mixtures, AR(1) video. All in float64.

For y = x + S n with S = diag(s), one level for each number of the clip:

  (1) x ~ N(m, C)                D = m + C (C + S^2)^-1 (y - m)
  (2) x ~ sum_k w_k N(m_k, l I)  D = sum_k r_k (m_k + l / (l + s^2) (y - m_k)),
                                 r_k ~ w_k exp(-|y - m_k|^2 / 2 (l + s^2))
  (3) AR(1) over frames          C_fg = rho^|f - g|

Under (1) with m = 0 every sampler is a matrix, so its law is known without drawing a number.
Clips are `b 1 t h w`; covariances are over the `d = t h w` numbers of a clip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidiff.diffusion import samplers
from vidiff.diffusion.process import SIGMA_DATA, Denoiser
from vidiff.diffusion.samplers import Levels

Sampler = Callable[..., Tensor]


def gaussian(cov: Float[Tensor, "d d"], mean: Float[Tensor, "d"] | float = 0.0) -> Denoiser:
    """Equation (1) at any field of levels, given once for all clips or for each."""

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        s2 = sigma.expand(len(sigma), *noisy.shape[1:]).flatten(1).square()
        gain = torch.linalg.solve(cov + torch.diag_embed(s2), cov).mT
        clean = (gain @ (noisy.flatten(1) - mean)[:, :, None])[:, :, 0]
        return (clean + mean).view_as(noisy)

    return denoise


def mixture(
    means: Float[Tensor, "k d"], variance: float, weights: Float[Tensor, "k"] | None = None
) -> Denoiser:
    """Equation (2), one level a clip; equal weights by default."""
    prior = torch.zeros(len(means)).double() if weights is None else weights.log()

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        y, s2 = noisy.flatten(1), sigma.flatten(1)[:, :1].square()
        responsible = (prior - torch.cdist(y, means).square() / 2 / (variance + s2)).softmax(1)
        centre = responsible @ means
        return (centre + variance / (variance + s2) * (y - centre)).view_as(noisy)

    return denoise


def ar1(num_frames: int, rho: float = 0.9) -> Float[Tensor, "t t"]:
    """Equation (3)."""
    frame = torch.arange(num_frames, dtype=torch.float64)
    return rho ** (frame[:, None] - frame[None, :]).abs()


def textured(num_frames: int, size: int, rho: float = 0.9) -> Float[Tensor, "d d"]:
    """AR(1) video whose neighbouring pixels agree, too."""
    line = ar1(size, 0.6)
    return torch.kron(ar1(num_frames, rho), torch.kron(line, line))


def conditional(
    cov: Float[Tensor, "d d"], given: Bool[Tensor, "d"], level: float
) -> tuple[Float[Tensor, "g k"], Float[Tensor, "g g"]]:
    """Gaussian-process regression on `given`, seen through noise at `level`.

    Returns:
        gain: the mean of the rest is gain @ y_given.
        covariance: of the rest.
    """
    seen = cov[given][:, given] + level**2 * torch.eye(int(given.sum())).double()
    across = cov[given][:, ~given]
    gain = torch.linalg.solve(seen, across).T
    return gain, cov[~given][:, ~given] - gain @ across


def together(grid: Float[Tensor, "n"], num_frames: int = 1) -> Levels:
    """All frames at one level, for any number of clips."""
    return grid.view(-1, 1, 1, 1, 1, 1).expand(-1, 1, 1, num_frames, 1, 1)


def transfer(
    sampler: Sampler, denoise: Denoiser, levels: Levels, shape: tuple[int, int, int]
) -> Float[Tensor, "d d"]:
    """The matrix of a sampler under a linear denoiser."""
    d = shape[0] * shape[1] * shape[2]
    unit = torch.eye(d, dtype=torch.float64).view(d, 1, *shape)
    return sampler(denoise, unit, levels).view(d, d).T


def end_covariance(
    sampler: Sampler, denoise: Denoiser, levels: Levels, start: Tensor, **options: float
) -> Float[Tensor, "d d"]:
    """Covariance that a stochastic sampler ends with under a linear denoiser.

    One row for each direction of the start and of every step's noise: the sum of what they become.
    """
    d, steps = len(start), len(levels) - 1
    rows = torch.cat([torch.linalg.cholesky(start).T, torch.zeros(steps * d, d).double()])

    def draw(step: int) -> Tensor:
        noise = torch.zeros_like(rows)
        noise[d * (step + 1) : d * (step + 2)] = torch.eye(d, dtype=torch.float64)
        return noise.view(-1, 1, d, 1, 1)

    end = sampler(denoise, rows.view(-1, 1, d, 1, 1), levels, draw, **options).view(-1, d)
    return end.T @ end


class EndPoints:
    """Where samplers end on a mixture of eight Gaussians in 64 dimensions, sd 0.5 a number.

    Half of the variance lies between the modes. Differences to the exact end points (2,000 small
    steps of Heun) are the solver's alone.
    """

    sigma_min, sigma_max = 0.01, 80.0

    def __init__(self, clips: int = 256, reference_steps: int = 2000) -> None:
        g = torch.Generator().manual_seed(0)
        means = torch.randn(8, 64, generator=g, dtype=torch.float64)
        means = means - means.mean(0)
        means = means * (0.5 * SIGMA_DATA**2 / means.square().mean()).sqrt()
        self.denoise = mixture(means, 0.5 * SIGMA_DATA**2)
        self.noise = torch.randn(clips, 1, 64, 1, 1, generator=g, dtype=torch.float64)
        self.exact = self._solve("heun", "karras", reference_steps)

    def error(self, sampler: str, grid: str, calls: int) -> float:
        """Root mean square error over the data's sd; `calls` is what the sampler may ask."""
        difference = self._solve(sampler, grid, _steps(sampler, calls)) - self.exact
        return float(difference.square().mean().sqrt()) / SIGMA_DATA

    def _solve(self, sampler: str, grid: str, steps: int) -> Tensor:
        levels = together(grid_of(grid, steps, self.sigma_min, self.sigma_max))
        return samplers.SAMPLERS[sampler](self.denoise, self.noise * levels[0], levels)


def spectrum_error(sampler: str, grid: str, calls: int, sigma_max: float) -> Float[Tensor, "k"]:
    """Relative error of the sd of Gaussian components, the largest sigma_max / 5, the least 0.1."""
    sd = torch.logspace(-1, torch.tensor(sigma_max / 5).log10().item(), 9).double()
    levels = together(grid_of(grid, _steps(sampler, calls), 0.01, sigma_max))
    start = torch.full((1, 1, 9, 1, 1), float(levels[0].max()), dtype=torch.float64)
    end = samplers.SAMPLERS[sampler](gaussian(sd.square().diag()), start, levels).flatten()
    return end / (sigma_max * sd / (sd.square() + sigma_max**2).sqrt()) - 1


def grid_of(name: str, steps: int, sigma_min: float, sigma_max: float) -> Float[Tensor, "k"]:
    """A grid of levels, those of training around the scale of the data."""
    return samplers.make_grid(name, steps, sigma_min, sigma_max, -0.4, 1.6)


def _steps(sampler: str, calls: int) -> int:
    return (calls + 1) // 2 if sampler in samplers.CALLS_A_STEP else calls
