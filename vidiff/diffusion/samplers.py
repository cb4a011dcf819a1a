"""Level grids, and the samplers: each walks noisy clips along a field of noise levels.

The probability-flow ODE of every frame f (Karras et al. 2022, arXiv 2206.00364, equation 4), for
any path of the levels, all frames together or one after another:

  (1) dy_f / d sigma_f = (y_f - D_f(y; sigma)) / sigma_f

A sampler takes `y` at `levels[0]` and returns it at `levels[-1]`. Where two successive levels
agree nothing moves, so a frame that is held stays bit for bit what it is. Levels may also rise:
the way up encodes a clip. In ln sigma (1) becomes

  (2) y' = (s'/s) y + (1 - s'/s) D              exact while D is constant
  (3) D at mid-step = D_i + (h_i / 2 h_{i-1}) (D_i - D_{i-1}),   h_i = ln(s_i / s_{i+1})

with (3) making DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095) second order at one call a
step; the same extrapolation in flow time is Adams-Bashforth. Each frame has its own h. D changes
with ln sigma only where sigma is above the data's scale sd and settles below it; taken as linear
in tau = ln(sigma + sd) between calls and integrated exactly (after Zhang & Chen 2022, arXiv
2204.13902), (2) becomes

  (4) y' = (s'/s) y + (1 - s'/s) D_i + I (D_i - D_{i-1}) / (tau_i - tau_{i-1})
      I = int_{s'/s}^1 tau(s'/v) - tau(s) dv = (1 + s'/sd) (tau' - tau) + (s'/sd) ln(s/s')
The way down starts at infinite noise, where every law is N(0, sigma^2 I) exactly. With u = 1/sigma
(1) is d(y / sigma) / du = D, and y / sigma = n at u = 0; the midpoint rule for the first step is

  (5) y = sigma n + D(2 sigma n; 2 sigma)

which brings the mean clip and the largest components along: on a component of variance l the sd
is right to (l / 4 sigma^2)^3, where a start from sigma n would lose l / 2 sigma^2 of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidiff.diffusion.process import SIGMA_DATA, Denoiser

Levels = Float[Tensor, "n b 1 t h w"]
Draw = Callable[[int], Tensor]
"""`draw(step)`: fresh standard normal noise like the clip, for the stochastic samplers."""

LAST = 0.8
"""Level that the second of two jumps starts from (Geng et al. 2024, arXiv 2406.14548)."""

LONGEST = 3.0
"""Steps this many times longer than the one before are first order: (3) would reach too far. It
happens at the last step to 0, and where a frame that follows with a lag sets out in mid-step."""

_ZERO = torch.zeros(1, dtype=torch.float64)


def karras_grid(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """`steps` levels, evenly spaced in sigma^(1/rho), and a final 0."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    lo, hi = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(hi + ramp * (lo - hi)) ** rho, _ZERO])


def log_grid(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even steps of ln(1 + 20 s / sd) down to 0: even in ln s above sd / 20, in s below.

    Clips have components of every size from sigma_max / 5 down, so every octave down to there
    needs its share of steps; below, only the removal of the last noise is left.
    """
    knee = SIGMA_DATA / 20
    return knee * _even(steps, math.log1p(sigma_min / knee), math.log1p(sigma_max / knee)).expm1()


def flow_grid(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even steps of the flow time s / (s + sd) from its largest value to 0."""
    time = _even(steps, *(s / (s + SIGMA_DATA) for s in (sigma_min, sigma_max)))
    return SIGMA_DATA * time / (1 - time)


def _even(steps: int, low: float, top: float) -> Tensor:
    """Even steps from `top` to 0, but none between `low` and 0: no network was trained there."""
    if top / steps >= low:
        return torch.linspace(top, 0, steps + 1, dtype=torch.float64)
    return torch.cat([torch.linspace(top, low, steps, dtype=torch.float64), _ZERO])


def quantile_grid(
    steps: int, sigma_min: float, sigma_max: float, p_mean: float, p_std: float
) -> Tensor:
    """Quantiles of the training levels between the two ends, and a final 0."""
    lo, hi = (
        0.5 * (1 + math.erf((math.log(s) - p_mean) / p_std / math.sqrt(2)))
        for s in (sigma_min, sigma_max)
    )
    q = torch.linspace(hi, lo, steps, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    inner = (p_mean + p_std * torch.special.ndtri(q)).exp()
    inner[-1], inner[0] = sigma_min, sigma_max  # in this order: one step starts at the top
    return torch.cat([inner, _ZERO])


def jump_grid(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Where consistency models jump from: sigma_max, then down to LAST / (steps - 1), and 0."""
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    return karras_grid(steps, max(sigma_min, min(LAST / (steps - 1), sigma_max)), sigma_max)


GridName = Literal["log", "karras", "flow", "quantile", "jump"]
GRIDS: dict[str, Callable[..., Tensor]] = {
    "log": log_grid,
    "karras": karras_grid,
    "flow": flow_grid,
    "quantile": quantile_grid,
    "jump": jump_grid,
}


def make_grid(
    name: str, steps: int, sigma_min: float, sigma_max: float, p_mean: float, p_std: float
) -> Float[Tensor, "k"]:
    """The grid of that name: `steps` levels from `sigma_max` on, none below `sigma_min`, and 0.

    Args:
        p_mean, p_std: mean and sd of ln sigma in training.
    """
    law = (p_mean, p_std) if name == "quantile" else ()
    return GRIDS[name](steps, sigma_min, sigma_max, *law)


def spread(
    grid: Float[Tensor, "k"],
    floor: Float[Tensor, "b 1 t h w"],
    start: Float[Tensor, "b 1 t h w"],
    lag: Float[Tensor, "t"] | None = None,
) -> Levels:
    """The field of levels of a schedule: `clamp(grid, floor, start)` for every frame and pixel.

    With `lag` frame f follows `lag[f]` steps behind (fractions interpolate ln sigma), and the
    schedule grows by the largest lag. Frames that arrive early wait at the last level above 0 and
    take the step to 0 together: a network is never asked about sigma = 0.
    """
    n, t = len(grid), floor.shape[2]
    if lag is None:
        columns = grid[:, None].expand(n, t)
    else:
        steps = torch.arange(n - 1 + math.ceil(float(lag.max())), dtype=torch.float64)
        place = (steps[:, None] - lag.double()[None, :]).clamp(0, n - 2)
        low = place.floor().long().clamp(max=max(n - 3, 0))
        upper, lower = grid[low].log(), grid[(low + 1).clamp(max=n - 2)].log()
        falling = torch.lerp(upper, lower, place - low).exp()
        columns = torch.cat([falling, grid[-1:, None].expand(1, t)])
    field = columns[:, None, None, :, None, None].to(floor)
    return torch.minimum(torch.maximum(field, floor), start)


def enter(
    denoise: Denoiser,
    y: Float[Tensor, "b c t h w"],
    level: Float[Tensor, "b 1 t #h #w"],
    free: Bool[Tensor, "b 1 t #h #w"],
) -> Float[Tensor, "b c t h w"]:
    """Equation (5) where `free`: pure noise at `level` becomes the noisy clips there. One call."""
    seen, told = torch.where(free, 2 * y, y), torch.where(free, 2 * level, level)
    return torch.where(free, y + denoise(seen, told), y)


def _ratio(s: Tensor, after: Tensor) -> Tensor:
    """s'/s of (2); 1 where a frame has arrived at 0."""
    return torch.where(s > 0, after / s, 1.0)


def _extrapolate(new: Tensor, old: Tensor | None, step: Tensor, before: Tensor) -> Tensor:
    """(3), where it may be used."""
    if old is None:
        return new
    ratio = step / before
    return new + torch.where(_usable(ratio), 0.5 * ratio, 0.0) * (new - old)


def _usable(ratio: Tensor) -> Tensor:
    """Where there was a step before, and the new one is not too long for it."""
    return (ratio > 0) & (ratio <= LONGEST)


def _log_step(s: Tensor, after: Tensor) -> Tensor:
    """h of (3); very long, but finite, for the step to 0."""
    return -_ratio(s, after).clamp_min(1e-30).log()


def euler(denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw | None = None) -> Tensor:
    """First order: (2) as it stands, one call a step (also known as DDIM)."""
    for s, after in pairwise(levels):
        keep = _ratio(s, after)
        y = keep * y + (1 - keep) * denoise(y, s)
    return y


def heun(denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw | None = None) -> Tensor:
    """Trapezoid rule on (1): second order, two calls a step; a step to 0 is first order."""
    for s, after in pairwise(levels):
        first = denoise(y, s)
        keep = _ratio(s, after)
        y_euler = keep * y + (1 - keep) * first
        if not bool((after > 0).all()):
            y = y_euler
            continue
        slope = (y - first) / s
        slope_after = (y_euler - denoise(y_euler, after)) / after
        y = y + (after - s) * 0.5 * (slope + slope_after)
    return y


def dpm2m(denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw | None = None) -> Tensor:
    """DPM-Solver++(2M): (2) with (3), one call a step; first and last step are first order."""
    old, before = None, torch.zeros_like(levels[0])
    for s, after in pairwise(levels):
        clean, h, keep = denoise(y, s), _log_step(s, after), _ratio(s, after)
        y = keep * y + (1 - keep) * _extrapolate(clean, old, h, before)
        old, before = clean, h
    return y


def exp2m(denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw | None = None) -> Tensor:
    """Equation (4): exponential, two-step, second order, one call a step; good to the last step."""
    old, tau_old = None, None
    for s, after in pairwise(levels.double()):
        clean, keep = denoise(y, s.to(y)), _ratio(s, after).to(y)
        tau, tau_after = (s + SIGMA_DATA).log(), (after + SIGMA_DATA).log()
        y = keep * y + (1 - keep) * clean
        if old is not None and tau_old is not None:
            step, before = tau_after - tau, tau - tau_old
            share = after / SIGMA_DATA
            weight = ((1 + share) * step + share * _log_step(s, after)) / before
            y = y + torch.where(_usable(step / before), weight, 0.0).to(y) * (clean - old)
        old, tau_old = clean, tau
    return y


def ab2(denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw | None = None) -> Tensor:
    """Adams-Bashforth of second order on flow time t = s / (s + sd), one call a step.

    With z = (1 - t) y equation (1) is dz/dt = (z - D) / t, smooth down to t = 0.
    """
    old, before = None, torch.zeros_like(levels[0])
    for s, after in pairwise(levels):
        t, t_after = s / (s + SIGMA_DATA), after / (after + SIGMA_DATA)
        z, dt = (1 - t) * y, t_after - t
        velocity = torch.where(t > 0, (z - denoise(y, s)) / t, 0.0)
        moved = (z + dt * _extrapolate(velocity, old, dt, before)) / (1 - t_after)
        y = torch.where(dt != 0, moved, y)
        old, before = velocity, dt
    return y


def churn(
    denoise: Denoiser,
    y: Tensor,
    levels: Levels,
    draw: Draw,
    amount: float = 0.2,
    s_noise: float = 1,
) -> Tensor:
    """Heun with noise put back first (EDM, algorithm 2); the network is told the raised level."""
    for i, (s, after) in enumerate(pairwise(levels)):
        raised = torch.where(after < s, s * (1 + amount), s)
        y = y + (raised**2 - s**2).sqrt() * s_noise * draw(i)
        y = heun(denoise, y, torch.stack([raised, after]))
    return y


def sde2m(
    denoise: Denoiser, y: Tensor, levels: Levels, draw: Draw, eta: float = 1, s_noise: float = 1
) -> Tensor:
    """DPM-Solver++(2M) SDE: (2) and (3) on the reverse-time SDE, fresh noise each step."""
    old, before = None, torch.zeros_like(levels[0])
    for i, (s, after) in enumerate(pairwise(levels)):
        clean, h = denoise(y, s), _log_step(s, after)
        keep = _ratio(s, after) * (-eta * h).exp()
        fresh = after * (1 - (-2 * eta * h).exp()).clamp_min(0).sqrt()
        y = keep * y + (1 - keep) * _extrapolate(clean, old, h, before)
        y = y + fresh * s_noise * draw(i)
        old, before = clean, h
    return y


def jump(jump: Denoiser, y: Tensor, levels: Levels, draw: Draw) -> Tensor:
    """For consistency models: to the end, noise of the next level, to the end again."""
    for i, (s, after) in enumerate(pairwise(levels)):
        y = torch.where(after < s, jump(y, s) + after * draw(i), y)
    return y


Name = Literal["exp2m", "dpm2m", "heun", "euler", "ab2", "churn", "sde2m", "jump"]
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "exp2m": exp2m,
    "dpm2m": dpm2m,
    "heun": heun,
    "euler": euler,
    "ab2": ab2,
    "churn": churn,
    "sde2m": sde2m,
    "jump": jump,
}
CALLS_A_STEP = {"heun": 2, "churn": 2}
"""Denoiser calls a step, where it is not one (the last step always takes one)."""


def count_calls(name: str, steps: int) -> int:
    """Denoiser calls of a whole schedule that ends at 0."""
    return steps * CALLS_A_STEP.get(name, 1) - (name in CALLS_A_STEP)
