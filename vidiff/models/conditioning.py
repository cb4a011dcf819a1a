"""What a frame is told: its noise level, the frame rate, a class, a text, the level of a hint.

  e_f = act( sum of  Lin(Fourier(c_noise_f)),  Lin(Fourier(ln dt)),  class row,  Lin(text),
             Lin(Fourier(c_noise of the hint)) )

with the sum of n parts over sqrt(n), so that it keeps the variance of one. The learned loss weight
u (process.py) reads features of the frame's own level and of the clip's mean level; a picture of
its own has no mean level (zeros), which is how u tells pictures from clips.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidiff.models.layers import Fourier, Norm, Weighted, activation
from vidiff.models.text import WordEncoder
from vidiff.runs.config import Config


class DropConfig(Config):
    """How often training leaves a condition out, so that the network also works without it and
    guidance has something to point away from. Probabilities a clip, drawn apart."""

    label: float = Field(0.1, ge=0, le=1)
    """The class."""
    text: float = Field(0.1, ge=0, le=1)
    """The caption, or the text embedding."""
    rate: float = Field(0.1, ge=0, le=1)
    """The frame rate."""
    hint: float = Field(0.1, ge=0, le=1)
    """The low-resolution clip."""
    pixels: float = Field(0.0, ge=0, le=1)
    """Which pixels stand at another level than their frame."""


class HintConfig(Config):
    """A low-resolution clip beside the noisy one, under noise of its own: spatial upscaling.

    The noise makes a network forgive what real low-resolution clips have that averaged ones do not
    (Ho et al. 2021, cascaded diffusion, arXiv 2106.15282).
    """

    factor: int = Field(4, ge=2, le=16)
    """Pixels of a side that training averages into one."""
    low: float = Field(0.01, gt=0)
    """Smallest noise level of the hint in training, in units of calibrated clips."""
    high: float = Field(1.0, gt=0)
    """Largest; levels are log-uniform between the two."""
    level: float = Field(0.1, gt=0)
    """Its noise level in sampling."""

    @model_validator(mode="after")
    def _ordered(self) -> HintConfig:
        if not self.low <= self.level <= self.high:
            raise ValueError(
                f"low={self.low:g}, level={self.level:g}, high={self.high:g} must not decrease"
            )
        return self


class Embedding(nn.Module):
    """Conditions to one vector a frame.

    Args:
        width: of the result.
        classes: number of class labels; index `classes` means "none".
        text_width: width of the pooled text embedding; zeros mean "none".
        words: whether captions come as hashed words, for an encoder of its own.
        hint: whether a hint clip has a level to tell.
    """

    def __init__(
        self,
        width: int,
        norm: Norm,
        classes: int,
        text_width: int = 0,
        *,
        words: bool = False,
        hint: bool = False,
    ) -> None:
        super().__init__()
        self.act, self.classes = activation(norm), classes
        self.level = Fourier(width // 2)
        self.mean_level = Fourier(width // 2)
        self.rate = Fourier(width // 4)
        self.from_level = Weighted(width // 2, width, (), norm)
        self.from_rate = Weighted(width // 4, width, (), norm)
        self.from_class = Weighted(classes, width, (), norm) if classes else None
        self.from_text = Weighted(text_width, width, (), norm) if text_width else None
        self.words = WordEncoder(width // 4, norm) if words else None
        self.from_words = Weighted(width // 4, width, (), norm) if words else None
        self.hint = Fourier(width // 4) if hint else None
        self.from_hint = Weighted(width // 4, width, (), norm) if hint else None

    def forward(
        self,
        c_noise: Float[Tensor, "b t"],
        dt: Float[Tensor, "b"],
        label: Int[Tensor, "b"] | None,
        text: Float[Tensor, "b d"] | None,
        apart: bool = False,
        *,
        words: Int[Tensor, "b l"] | None = None,
        hint_noise: Float[Tensor, "b"] | None = None,
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b t f"]]:
        """The embedding, and the level features for the learned loss weight.

        Args:
            c_noise: noise level of each frame, `ln(sigma) / 4`.
            dt: seconds between frames over the reference spacing; 0 for an unknown rate.
            label: class; `classes`, -1 or no labels at all mean "none".
            text: pooled text embedding of unit variance; zeros or no text at all mean "none".
            apart: each frame is a picture of its own.
            words: rows of hashed words, 0 for no word; zeros or none at all mean no caption.
            hint_noise: noise level of the hint, `ln(sigma) / 4`; infinite for no hint.
        """
        clip = c_noise.mean(1, keepdim=True).expand_as(c_noise)
        own, mean = self.level(c_noise), self.mean_level(clip)
        mean = torch.zeros_like(mean) if apart else mean
        parts = [self.from_level(own)]
        parts.append(self.from_rate(_known(self.rate, dt.log()))[:, None])
        # "None" is zeros, not a part left out: the sum keeps one scale, and every weight gets a
        # gradient, for which distributed training waits.
        if self.from_class is not None:
            rows = torch.eye(self.classes + 1, self.classes, device=dt.device)
            row = rows[-1].expand(len(dt), -1) if label is None else rows[label]
            parts.append(self.from_class(row * math.sqrt(self.classes))[:, None])
        if self.from_text is not None:
            blank = dt.new_zeros(len(dt), self.from_text.weight.shape[1])
            parts.append(self.from_text(blank if text is None else text)[:, None])
        if self.words is not None and self.from_words is not None:
            none = torch.zeros(len(dt), 1, dtype=torch.long, device=dt.device)
            encoded = self.words(none if words is None else words)
            parts.append(self.from_words(encoded)[:, None])
        if self.hint is not None and self.from_hint is not None:
            level = torch.full_like(dt, torch.inf) if hint_noise is None else hint_noise
            parts.append(self.from_hint(_known(self.hint, level))[:, None])
        total = torch.stack(torch.broadcast_tensors(*parts)).sum(0) / math.sqrt(len(parts))
        return self.act(total), torch.cat([own, mean], dim=-1)


def _known(features: Fourier, number: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
    """Features of finite numbers, zeros for the others."""
    known = number.isfinite()
    return features(torch.where(known, number, 0.0)) * known[:, None]
