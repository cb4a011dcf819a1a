"""Few-step models: a denoiser tuned until it jumps to the end of its own path.

A consistency function f maps every point of a path of the probability-flow ODE to where the path
ends. A trained denoiser becomes one by asking, for one clip x and one noise n at two levels,

  (1) loss  = || f(x + t n; t) - stopgrad f(x + r n; r) || / (t - r),     r < t,  f(.; 0) = x
  (2) r     = t (1 - q^-(stage + 1) (1 + k sigmoid(-b t)))                clamped at 0

where r moves towards t as `stage` rises: at the first stages (1) is nearly the denoising loss, at
the last it is nearly the derivative along the path. Geng et al. 2024, Easy Consistency Tuning
(arXiv 2406.14548), after Song et al. 2023 (arXiv 2303.01469). The norm is over a whole clip and is
not squared. With a field of levels each frame has its own t and r, so every task gets fast.

Sampling jumps, adds fresh noise of a smaller level, and jumps again (samplers.py).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

STAGES = 8
"""Stages of a run; each takes an equal share of the steps."""

Q, K, B = 2.0, 8.0, 1.0


def stage_of(progress: float) -> int:
    """The stage at a share 0..1 of the run."""
    return min(int(progress * STAGES), STAGES - 1)


def earlier(t: Float[Tensor, "*axes"], stage: int) -> Float[Tensor, "*axes"]:
    """Equation (2): the level that t is compared with."""
    shrink = Q ** -(stage + 1) * (1 + K * torch.sigmoid(-B * t))
    return t * (1 - shrink).clamp_min(0)


def distance(
    out: Float[Tensor, "b c t h w"],
    target: Float[Tensor, "b c t h w"],
    gap: Float[Tensor, "b 1 t #h #w"],
    weight: Float[Tensor, "b 1 t #h #w"],
) -> Float[Tensor, "b"]:
    """Equation (1), root of the mean square over a clip; pixels of weight 0 do not count.

    Args:
        gap: t - r.
    """
    square = ((out - target) / gap.clamp_min(1e-8)).square() * weight
    full = weight.expand(len(out), 1, *out.shape[2:]).mean(dim=(1, 2, 3, 4)).clamp_min(1e-8)
    return (square.mean(dim=(1, 2, 3, 4)) / full).clamp_min(1e-12).sqrt()
