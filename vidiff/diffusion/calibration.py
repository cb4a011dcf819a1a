"""Fit the process to the clips: colour scale, noise shift, and the range of noise levels.

EDM's formulas assume data of zero mean and sd `sigma_data`; clips from a folder do not comply.

  (1) x' = sd (x - mean) / std                        per colour channel
  (2) R_T = largest eigenvalue of the T x T frame correlation   (1: independent, T: frozen)
  (3) p_mean = -0.8 + ln(size / 64) + 0.5 ln R_T
  (4) sigma_max = max(20, 5 sqrt(l_max)),  l_max the largest principal component of whole clips

(3): R_T copies of a pixel average noise down by sqrt(R_T), so the interesting levels lie that much
higher; it is the resolution shift of Esser et al. 2024 (arXiv 2403.03206) with the measured number
of copies. (4): started from N(0, S^2), a component of variance l comes out with its sd multiplied
by S / sqrt(l + S^2), which 5 sqrt(l_max) keeps above 0.98: the cure, in EDM's units, of the
non-zero terminal SNR of Lin et al. 2023 (arXiv 2305.08891).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from vidiff.diffusion.process import SIGMA_DATA
from vidiff.errors import DataError
from vidiff.runs.config import Config

MEMORY_LIMIT = 256 * 2**20
"""Bytes of clips kept for (2) and (4); beyond, every second row and column is dropped, again and
again: both are properties of what varies smoothly."""


class Calibration(Config):
    """What was measured on the training clips; stored with the run, needed to train and sample."""

    mean: tuple[float, ...]
    """Mean of each colour channel, clips in [-1, 1]."""
    std: tuple[float, ...]
    """Standard deviation of each colour channel, clips in [-1, 1]."""
    redundancy: float
    """R_T: how many of the T frames say the same."""
    principal: float
    """sqrt(l_max), in calibrated units."""
    p_mean: float
    """Mean of ln sigma in training."""
    sigma_min: float = 0.01
    """Smallest level: 8-bit clips have steps of about this size."""
    sigma_max: float
    """Largest level."""
    dt: float
    """Median seconds between frames: the reference of time."""
    num_clips: int
    """How many clips were measured."""

    @model_validator(mode="after")
    def _spread(self) -> Calibration:
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: a colour channel never changes")
        return self

    def scale(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Equation (1): [-1, 1] to model range."""
        mean, std = self._channels(x)
        return (x - mean) * (SIGMA_DATA / std)

    def unscale(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        """Model range back to [-1, 1]."""
        mean, std = self._channels(x)
        return x * (std / SIGMA_DATA) + mean

    def _channels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        return x.new_tensor(self.mean).view(shape), x.new_tensor(self.std).view(shape)

    def table(self) -> str:
        """The numbers as a person reads them."""
        rows = [
            ("clips measured", f"{self.num_clips}"),
            ("mean (R, G, B)", " ".join(f"{m:+.3f}" for m in self.mean)),
            ("std  (R, G, B)", " ".join(f"{s:.3f}" for s in self.std)),
            ("frame redundancy R_T", f"{self.redundancy:.2f}"),
            ("largest component sqrt(l)", f"{self.principal:.1f}"),
            ("mean of ln sigma", f"{self.p_mean:+.2f}"),
            ("noise levels", f"{self.sigma_min:g} .. {self.sigma_max:.0f}"),
            ("seconds between frames", f"{self.dt:.4f}"),
        ]
        return "\n".join(f"{name:<27}{value}" for name, value in rows)


def calibrate(clips: Iterable[Float[Tensor, "_ c t h w"]], dt: float) -> Calibration:
    """Measure (1)-(4) on clips in [-1, 1], read once as they come.

    Args:
        clips: batches, all of one shape but for `b`; a few hundred clips are enough.
        dt: median seconds between frames.

    Raises:
        DataError: fewer than two clips, or a colour channel that never changes.
    """
    kept: list[Tensor] = []
    size, thin = 0, 1
    total = total2 = torch.zeros(())
    pixels = 0
    for batch in clips:
        x = batch.double()
        total = total + x.sum(dim=(0, 2, 3, 4))
        total2 = total2 + x.square().sum(dim=(0, 2, 3, 4))
        pixels += x.numel() // x.shape[1]
        size = batch.shape[-1]
        kept.append(batch[..., ::thin, ::thin].float().clone())
        while sum(part.nbytes for part in kept) > MEMORY_LIMIT and kept[0].shape[-1] > 1:
            kept, thin = [part[..., ::2, ::2].clone() for part in kept], 2 * thin
    count = sum(len(batch) for batch in kept)
    if count < 2:
        raise DataError(
            f"Calibration got {count} clip(s); it needs at least 2.",
            "Add clips, or shorten data.num_frames.",
        )
    mean = total / pixels
    std = (total2 / pixels - mean**2).clamp_min(0).sqrt()
    if float(std.min()) < 1e-4:
        raise DataError(
            f"A colour channel never changes over {count} clips (std {std.tolist()}).",
            "Check the clips: are they black, or all one picture?",
        )
    shape = (1, -1, 1, 1, 1)
    scale = SIGMA_DATA / std.float().view(shape)
    x = torch.cat([(batch - mean.float().view(shape)) * scale for batch in kept])
    redundancy = _redundancy(x)
    principal = thin * _principal(x)
    return Calibration(
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        redundancy=redundancy,
        principal=principal,
        p_mean=-0.8 + math.log(size / 64) + 0.5 * math.log(redundancy),
        sigma_max=max(20.0, 5 * principal),
        dt=dt,
        num_clips=count,
    )


def _redundancy(x: Float[Tensor, "b c t h w"]) -> float:
    frames = x.transpose(1, 2).flatten(2).transpose(0, 1).flatten(1)
    correlation = torch.corrcoef(frames) if len(frames) > 1 else torch.ones(1, 1)
    return float(torch.linalg.eigvalsh(correlation.nan_to_num(1.0).double())[-1])


def _principal(x: Float[Tensor, "b c t h w"]) -> float:
    """sqrt of the largest eigenvalue of the covariance, from the b x b Gram matrix."""
    rows = x.flatten(1)
    rows = rows - rows.mean(0)
    gram = rows @ rows.T / len(rows)
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram.double())[-1])))
