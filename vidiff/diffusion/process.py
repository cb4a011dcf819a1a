"""The process: what is added to a clip, what the network is asked, how it is scored.

With sd = sigma_data, one noise level sigma for each frame (or pixel), n ~ N(0, I):

  (1) noisy     y = x + sigma n
  (2) denoiser  D = c_skip y + c_out F(c_in y; c_noise)
      c_skip = sd^2 / (sigma^2 + sd^2)      c_out = sigma sd / sqrt(sigma^2 + sd^2)
      c_in   = 1 / sqrt(sigma^2 + sd^2)     c_noise = ln(sigma) / 4
  (3) loss      mean over frames of  (lambda / e^u) ||D - x||^2 + u,   lambda = 1 / c_out^2
  (4) levels    sigma = exp(p_mean + p_std Phi^-1(q)), or log-uniform with probability `tail`

(1), (2) and lambda: Karras et al. 2022 (EDM, arXiv 2206.00364); the learned u: Karras et al. 2023
(EDM2, arXiv 2312.02696), here a function of the frame's level and the clip's mean level, since with
mixed levels the error of a frame depends on its neighbours'. At the optimum u = ln E[loss], so the
learned u is the learning curve of every level.

D is the one currency: velocity, noise and flow are the same network under other names, see the
converters below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vidiff.runs.config import Config

Denoiser = Callable[[Float[Tensor, "b c t h w"], Float[Tensor, "b 1 t h w"]], Tensor]
"""`denoise(noisy, sigma) -> clean`, sigma broadcastable to the clip."""

SIGMA_DATA = 0.5
"""Standard deviation of calibrated clips; every level is in these units."""


class ProcessConfig(Config):
    """Noise levels in training."""

    p_mean: float | None = None
    """Mean of ln sigma; by default from the calibration."""
    p_std: float = Field(1.4, gt=0)
    """Standard deviation of ln sigma."""
    tail: float = Field(0.05, ge=0, le=1)
    """Share of levels drawn log-uniformly over the whole range, so that its ends are trained."""
    motion_emphasis: float = Field(0.0, ge=0)
    """mu in  ||e||^2 + mu ||e_{f+1} - e_f||^2 : capacity to motion, same minimiser."""
    objective: Literal["denoise", "consistency"] = "denoise"
    """What the network answers: the expected clean clip, or the end of its path (consistency.py),
    for sampling in one to four calls."""


class Scalings(NamedTuple):
    """Equation (2)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor


def scalings(sigma: Tensor) -> Scalings:
    """The four coefficients of (2) at `sigma`, of the same shape."""
    total = (sigma**2 + SIGMA_DATA**2).sqrt()
    return Scalings(
        skip=(SIGMA_DATA / total) ** 2,
        out=sigma * SIGMA_DATA / total,
        into=1 / total,
        noise=sigma.log() / 4,
    )


def add_noise(
    clean: Float[Tensor, "b c t h w"],
    sigma: Float[Tensor, "b 1 t #h #w"],
    noise: Float[Tensor, "b c t h w"],
) -> Float[Tensor, "b c t h w"]:
    """Equation (1)."""
    return clean + sigma * noise


def draw_levels(
    quantiles: Float[Tensor, "*axes"],
    p_mean: float,
    p_std: float,
    tail: float,
    sigma_min: float,
    sigma_max: float,
) -> Float[Tensor, "*axes"]:
    """Equation (4): uniform quantiles in [0, 1) to noise levels in [sigma_min, sigma_max]."""
    q = quantiles.double()
    lo, hi = math.log(sigma_min), math.log(sigma_max)
    even = lo + (hi - lo) * (q / max(tail, 1e-12)).clamp(max=1)
    inner = ((q - tail) / max(1 - tail, 1e-12)).clamp(1e-9, 1 - 1e-9)
    normal = p_mean + p_std * torch.special.ndtri(inner)
    return torch.where(q < tail, even, normal).clamp(lo, hi).exp().to(quantiles.dtype)


def stratify(
    uniform: Float[Tensor, "b"], slots: Float[Tensor, "b"], batch_size: int
) -> Float[Tensor, "b"]:
    """One quantile in each of `batch_size` equal bins over the global batch."""
    return (slots + uniform) / batch_size


def weighted_error(
    denoised: Float[Tensor, "b c t h w"],
    clean: Float[Tensor, "b c t h w"],
    sigma: Float[Tensor, "b 1 t #h #w"],
    mu: float = 0.0,
    weight: Float[Tensor, "b 1 t #h #w"] | None = None,
) -> Float[Tensor, "b t"]:
    """lambda ||D - x||^2 per dimension of each frame; 1 at every level for a network that says 0.

    With `mu` the change of the error between frames counts too; any positive-definite norm has the
    same minimiser E[x | y], so this moves capacity and not the answer.

    Args:
        weight: how much each pixel counts beside the others of its frame; no matter in a frame
            where all are 0.
    """
    error = (denoised - clean) / scalings(sigma).out
    square = error.square()
    if mu:
        change = error.diff(dim=2).square()
        half = torch.nn.functional.pad(change, (0, 0, 0, 0, 0, 1))
        half = half + torch.nn.functional.pad(change, (0, 0, 0, 0, 1, 0))
        square = square + 0.5 * mu * half
    if weight is not None:
        share = weight.mean(dim=(3, 4), keepdim=True)
        square = square * torch.where(share > 0, weight / share, 1.0)
    return square.mean(dim=(1, 3, 4))


def balance(
    error: Float[Tensor, "b t"], u: Float[Tensor, "b t"], weight: Float[Tensor, "b t"]
) -> Float[Tensor, "b"]:
    """Equation (3), for each clip: errors of weight 0 do not count."""
    per_frame = (error / u.exp() + u) * weight
    return per_frame.sum(1) / weight.sum(1).clamp_min(1e-8)


# The same network under other names. `x` clean, `n` noise, `y` noisy at level sigma.


def noise_from_clean(clean: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """epsilon = (y - D) / sigma."""
    return (noisy - clean) / sigma


def clean_from_noise(epsilon: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """D = y - sigma epsilon."""
    return noisy - sigma * epsilon


def velocity_from_clean(clean: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """TrigFlow v = cos(phi) n - sin(phi) x / sd with phi = atan(sigma / sd); it equals -F."""
    phi = torch.atan(sigma / SIGMA_DATA)
    noise = noise_from_clean(clean, noisy, sigma)
    return torch.cos(phi) * noise - torch.sin(phi) * clean / SIGMA_DATA


def clean_from_velocity(velocity: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """D = c_skip y - c_out v."""
    c = scalings(sigma)
    return c.skip * noisy - c.out * velocity


def flow_time(sigma: Tensor) -> Tensor:
    """Rectified-flow time t = sigma / (1 + sigma), where z = (1 - t) x + t n = (1 - t) y."""
    return sigma / (1 + sigma)


def flow_from_clean(clean: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Rectified-flow velocity dz/dt = n - x (Liu et al. 2022, arXiv 2209.03003)."""
    return noise_from_clean(clean, noisy, sigma) - clean


def clean_from_flow(flow: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """D = z - t v."""
    t = flow_time(sigma)
    return (1 - t) * noisy - t * flow
