"""Guidance: wrap a denoiser, get a denoiser.

  (1) D_w = D_ref + w (D - D_ref)

What D_ref is gives the method its name: the same network without the condition (classifier-free,
Ho & Salimans 2022, arXiv 2207.12598), a smaller or earlier network (autoguidance, Karras et al.
2024, arXiv 2406.02507: it needs no labels), the history at a higher noise level (history guidance,
Song et al. 2025, arXiv 2502.06764), or the network without its temporal layers (after Hyung et al.
2024, arXiv 2411.18664). `interval` keeps w to the levels where it helps (Kynkaanniemi et al. 2024,
arXiv 2404.07724); `rescale` takes back the spread that w adds (Lin et al. 2023, arXiv 2305.08891).

Both answers come as a `Pair`: from two denoisers, or from one call with twice the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidiff.diffusion.process import Denoiser

Kind = Literal["condition", "auto", "history", "time"]
"""What D_ref is: no label or text; another network; a noisier history; no temporal layers."""

Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`pair(noisy, sigma) -> D, D_ref`."""

View = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`view(noisy, sigma) -> noisy, sigma` as the reference sees them."""


def guide(
    denoise: Denoiser,
    pair: Pair,
    w: float,
    interval: tuple[float, float] = (0.0, float("inf")),
    rescale: float = 0.0,
) -> Denoiser:
    """Equation (1) for clips whose largest level lies in `(low, high]`; others as they are.

    Args:
        denoise: called where no clip of the batch is inside the interval.
        pair: called where one is.
        w: 1 leaves `denoise` unchanged, and the pair is then never called.
        interval: noise levels between which the guidance acts.
        rescale: 0..1, how far the spread of each frame is brought back to that of D.
    """
    if w == 1:
        return denoise

    def guided(noisy: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.amax(dim=(1, 2, 3, 4), keepdim=True)
        inside = (level > interval[0]) & (level <= interval[1])
        if not bool(inside.any()):
            return denoise(noisy, sigma)
        clean, ref = pair(noisy, sigma)
        out = ref + w * (clean - ref)
        if rescale:
            spread = out.std((1, 3, 4), keepdim=True).clamp_min(1e-8)
            scale = clean.std((1, 3, 4), keepdim=True) / spread
            out = out * (rescale * scale + 1 - rescale)
        return torch.where(inside, out, clean)

    return guided


def apart(denoise: Denoiser, reference: Denoiser) -> Pair:
    """Two denoisers, two calls."""

    def pair(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return denoise(noisy, sigma), reference(noisy, sigma)

    return pair


def stacked(both: Denoiser, view: View | None = None) -> Pair:
    """One call with 2 b rows.

    Args:
        both: its first b rows answer as D, its last b as D_ref.
        view: what the last b rows are shown; by default the same.
    """

    def pair(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        sigma = sigma.expand(len(noisy), *sigma.shape[1:])
        seen, told = view(noisy, sigma) if view else (noisy, sigma)
        clean, ref = both(torch.cat([noisy, seen]), torch.cat([sigma, told])).chunk(2)
        return clean, ref

    return pair


def raise_history(
    held: Bool[Tensor, "b 1 t #h #w"], noise: Float[Tensor, "b c t h w"], level: float
) -> View:
    """The reference of history guidance: held frames seen through noise at `level`, or their own.

    Args:
        noise: standard normal, independent of what the held frames already carry.
    """

    def view(noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        raised = torch.where(held, sigma.clamp_min(level), sigma)
        extra = (raised**2 - sigma**2).sqrt()
        return noisy + extra * noise, raised

    return view
