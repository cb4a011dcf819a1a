"""Guidance: wrap a denoiser, get a denoiser.

  (1) D_w = D_ref + w (D - D_ref)

What D_ref is gives the method its name: the same network without the condition (classifier-free,
Ho & Salimans 2022, arXiv 2207.12598), a smaller or earlier network (autoguidance, Karras et al.
2024, arXiv 2406.02507: it needs no labels), the history at a higher noise level (history guidance,
Song et al. 2025, arXiv 2502.06764), or the network without its temporal layers (after Hyung et al.
2024, arXiv 2411.18664). `interval` keeps w to the levels where it helps (Kynkaanniemi et al. 2024,
arXiv 2404.07724).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidiff.diffusion.process import Denoiser


def guide(
    denoise: Denoiser,
    reference: Denoiser,
    w: float,
    interval: tuple[float, float] = (0.0, float("inf")),
    rescale: float = 0.0,
) -> Denoiser:
    """Equation (1) for clips whose largest level lies in `(low, high]`; others as they are.

    Args:
        w: 1 leaves `denoise` unchanged, and the reference is then never called.
        interval: noise levels between which the guidance acts.
        rescale: 0..1, how far the spread of each frame is brought back to that of D.
    """
    if w == 1:
        return denoise

    def guided(noisy: Tensor, sigma: Tensor) -> Tensor:
        clean = denoise(noisy, sigma)
        level = sigma.amax(dim=(1, 2, 3, 4), keepdim=True)
        inside = (level > interval[0]) & (level <= interval[1])
        if not bool(inside.any()):
            return clean
        ref = reference(noisy, sigma)
        out = ref + w * (clean - ref)
        if rescale:
            spread = out.std((1, 3, 4), keepdim=True).clamp_min(1e-8)
            scale = clean.std((1, 3, 4), keepdim=True) / spread
            out = out * (rescale * scale + 1 - rescale)
        return torch.where(inside, out, clean)

    return guided


def raise_history(
    denoise: Denoiser,
    held: Bool[Tensor, "b 1 t h w"],
    noise: Float[Tensor, "b c t h w"],
    level: float,
) -> Denoiser:
    """The reference of history guidance: held frames seen through noise at `level`, or their own.

    Args:
        noise: standard normal, independent of what the held frames already carry.
    """

    def reference(noisy: Tensor, sigma: Tensor) -> Tensor:
        raised = torch.where(held, sigma.clamp_min(level), sigma)
        extra = (raised**2 - sigma**2).sqrt()
        return denoise(noisy + extra * noise, raised)

    return reference
