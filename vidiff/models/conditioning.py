"""What a frame is told: its noise level, the frame rate, a class, a text.

  e_f = act( sum of  Lin(Fourier(c_noise_f)),  Lin(Fourier(ln dt)),  class row,  Lin(text) )

with the sum of n parts over sqrt(n), so that it keeps the variance of one. The learned loss weight
u (process.py) reads features of the frame's own level and of the clip's mean level; a picture of
its own has no mean level (zeros), which is how u tells pictures from clips.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vidiff.models.layers import Fourier, Norm, Weighted, activation


class Embedding(nn.Module):
    """Conditions to one vector a frame.

    Args:
        width: of the result.
        classes: number of class labels; index `classes` means "none".
        text_width: width of the pooled text embedding; zeros mean "none".
    """

    def __init__(self, width: int, norm: Norm, classes: int, text_width: int) -> None:
        super().__init__()
        self.act, self.classes = activation(norm), classes
        self.level = Fourier(width // 2)
        self.mean_level = Fourier(width // 2)
        self.rate = Fourier(width // 4)
        self.from_level = Weighted(width // 2, width, (), norm)
        self.from_rate = Weighted(width // 4, width, (), norm)
        self.from_class = Weighted(classes, width, (), norm) if classes else None
        self.from_text = Weighted(text_width, width, (), norm) if text_width else None

    def forward(
        self,
        c_noise: Float[Tensor, "b t"],
        dt: Float[Tensor, "b"],
        label: Int[Tensor, "b"] | None,
        text: Float[Tensor, "b d"] | None,
        apart: bool = False,
    ) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b t f"]]:
        """The embedding, and the level features for the learned loss weight.

        Args:
            c_noise: noise level of each frame, `ln(sigma) / 4`.
            dt: seconds between frames over the reference spacing.
            label: class; `classes`, -1 or no labels at all mean "none".
            text: pooled text embedding of unit variance; zeros or no text at all mean "none".
            apart: each frame is a picture of its own.
        """
        clip = c_noise.mean(1, keepdim=True).expand_as(c_noise)
        own, mean = self.level(c_noise), self.mean_level(clip)
        mean = torch.zeros_like(mean) if apart else mean
        parts = [self.from_level(own)]
        parts.append(self.from_rate(self.rate(dt.log()))[:, None])
        # "None" is zeros, not a part left out: the sum keeps one scale, and every weight gets a
        # gradient, for which distributed training waits.
        if self.from_class is not None:
            rows = torch.eye(self.classes + 1, self.classes, device=dt.device)
            row = rows[-1].expand(len(dt), -1) if label is None else rows[label]
            parts.append(self.from_class(row * math.sqrt(self.classes))[:, None])
        if self.from_text is not None:
            blank = dt.new_zeros(len(dt), self.from_text.weight.shape[1])
            parts.append(self.from_text(blank if text is None else text)[:, None])
        total = torch.stack(torch.broadcast_tensors(*parts)).sum(0) / math.sqrt(len(parts))
        return self.act(total), torch.cat([own, mean], dim=-1)
