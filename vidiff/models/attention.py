"""Attention over time, over space, and over both together, with rotary positions in seconds.

  q, k  each normalised per head to unit RMS, then rotated; logits q.k / sqrt(d)
  angle omega_i * position, position = time / reference spacing, or row and column / map size

so the logits depend on time differences in seconds (Su et al. 2021, arXiv 2104.09864), and a clip
at half the rate with half the indices is the same clip.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vidiff.errors import RequestError
from vidiff.models.layers import Gate, Norm, Weighted, frame_mask, make_norm, unit_rms

Backend = Literal["auto", "sdpa", "xformers", "math"]
Over = Literal["time", "space", "joint"]

GRID_LIMIT = 65_535
"""Largest batch x heads of one kernel launch: CUDA's grid limit (facebookresearch/xformers#845)."""


def attend(
    q: Float[Tensor, "n heads l d"],
    k: Float[Tensor, "n heads l d"],
    v: Float[Tensor, "n heads l d"],
    mask: Bool[Tensor, "l l"] | None,
    backend: Backend,
) -> Float[Tensor, "n heads l d"]:
    """softmax(q k / sqrt(d)) v, in pieces that stay below the grid limit."""
    piece = max(1, GRID_LIMIT // q.shape[1])
    if len(q) > piece:
        parts = zip(q.split(piece), k.split(piece), v.split(piece), strict=True)
        return torch.cat([attend(a, b, c, mask, backend) for a, b, c in parts])
    if backend == "math":
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(-1) @ v
    if backend == "xformers":
        return _attend_xformers(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _attend_xformers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    bias = None
    if mask is not None:
        length = len(mask)
        # Its kernels want the rows of a bias to start at multiples of eight numbers.
        rows = torch.zeros(length, -(-length // 8) * 8, dtype=q.dtype, device=q.device)
        bias = rows[:, :length].masked_fill_(~mask, -torch.inf).expand(*q.shape[:2], -1, -1)
    q, k, v = (rearrange(x, "n heads l d -> n l heads d") for x in (q, k, v))
    out = memory_efficient_attention(q, k, v, attn_bias=bias)
    return rearrange(out, "n l heads d -> n heads l d")


def require_backend(backend: Backend, device: torch.device) -> None:
    """Stop at the start, in one sentence, where the asked kernels do not really run."""
    if backend != "xformers":
        return
    try:
        x = torch.zeros(1, 1, 16, 32, device=device)
        _attend_xformers(x, x, x, None)
    except Exception as error:  # whatever a foreign build dies of, the person needs one sentence
        raise RequestError(
            f"model.attention=xformers: its kernels do not run here on {device.type} "
            f"({type(error).__name__}).",
            "Use model.attention=auto (torch's own kernels), or install an xformers build made "
            "for this torch and CUDA.",
        ) from error


def rotate(
    x: Float[Tensor, "... l d"], angle: Float[Tensor, "b 1 1 l d2"]
) -> Float[Tensor, "... l d"]:
    """Rotate pairs (i, i + d/2) of the last axis by `angle`; norms are kept."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def time_frequencies(count: int) -> Float[Tensor, "d"]:
    """Angles a reference frame, from pi (every other frame) down to pi / 64, log-spaced."""
    return math.pi * torch.logspace(0, -6, count, base=2)


def space_frequencies(count: int) -> Float[Tensor, "d"]:
    """Angles a map side, from pi to 8 pi, log-spaced."""
    return math.pi * torch.logspace(0, 3, count, base=2)


class _Fold(NamedTuple):
    """How a map becomes `s` sequences of `l` tokens in each of `b` clips, and back."""

    apart: str
    back: str


_FOLDS = {
    "time": _Fold(
        "(b t) (three heads d) h w -> three b (h w) heads t d",
        "(b h w) heads t d -> (b t) (heads d) h w",
    ),
    "joint": _Fold(
        "(b t) (three heads d) h w -> three b 1 heads (t h w) d",
        "b heads (t h w) d -> (b t) (heads d) h w",
    ),
    "space": _Fold(
        "(b t) (three heads d) h w -> three b t heads (h w) d",
        "(b t) heads (h w) d -> (b t) (heads d) h w",
    ),
}


class Attention(nn.Module):
    """Multi-head attention on one map, among the tokens that `over` names.

    Heads are 64 wide, or as much wider as it takes to divide the channels.

    Args:
        channels: width of the map, also the attention's width; even.
        theta: start of the gate, radians.
        over: `time`: the frames of one position; `space`: the positions of one frame; `joint`:
            all tokens of a clip.
        causal: a frame sees itself and earlier frames only.
    """

    time: Tensor
    space: Tensor

    def __init__(
        self,
        channels: int,
        norm: Norm,
        theta: float,
        *,
        over: Over,
        causal: bool,
        backend: Backend,
    ) -> None:
        super().__init__()
        self.over, self.causal, self.norm = over, causal, norm
        self.backend: Backend = backend
        self.heads = next(n for n in range(channels // 64 or 1, 0, -1) if channels % (2 * n) == 0)
        self.before = make_norm(channels, norm)
        self.qkv = Weighted(channels, 3 * channels, (1, 1), norm)
        self.out = Weighted(channels, channels, (1, 1), norm)
        self.gate = Gate(channels, theta)
        half = channels // self.heads // 2
        space = {"time": 0, "joint": half // 4, "space": half // 2}[over]
        self.register_buffer("time", time_frequencies(half - 2 * space), persistent=False)
        self.register_buffer("space", space_frequencies(space), persistent=False)

    def angles(
        self, times: Float[Tensor, "b t"], height: int, width: int
    ) -> Float[Tensor, "b t h w d2"]:
        """Rotary angles: time in reference frames; rows and columns in map sides."""
        h = (torch.arange(height, device=times.device) + 0.5) / height
        w = (torch.arange(width, device=times.device) + 0.5) / width
        shape = (*times.shape, height, width, -1)
        along_t = (times[..., None] * self.time)[:, :, None, None].expand(shape)
        along_h = (h[:, None] * self.space)[None, None, :, None].expand(shape)
        along_w = (w[:, None] * self.space)[None, None, None].expand(shape)
        return torch.cat([along_t, along_h, along_w], dim=-1)

    def forward(
        self, x: Float[Tensor, "n c h w"], times: Float[Tensor, "b t"], image_mode: bool = False
    ) -> Float[Tensor, "n c h w"]:
        """The map after gated attention.

        Args:
            x: features, the frames of b clips folded into the batch.
            times: of each frame, in reference frames.
            image_mode: tokens see their own frame only; attention over time is bypassed.
        """
        if image_mode and self.over == "time":
            return x
        t, (height, width) = times.shape[1], x.shape[2:]
        over = "space" if image_mode else self.over
        fold = _FOLDS[over]
        if over == "space":
            angle = self.angles(times.new_zeros(1, 1), height, width)
        else:
            angle = self.angles(times, *((height, width) if over == "joint" else (1, 1)))
        angle = rearrange(angle, "b t h w d -> b 1 1 (t h w) d")
        qkv = rearrange(self.qkv(self.before(x)), fold.apart, t=t, three=3, heads=self.heads)
        # Under "mp" v is normalised too: no output exceeds unit RMS before the last map.
        qkv = unit_rms(qkv, -1) if self.norm == "mp" else qkv
        qk = qkv[:2] if self.norm == "mp" else unit_rms(qkv[:2], -1)
        q, k, v = (y.flatten(0, 1) for y in (*rotate(qk, angle), qkv[2]))
        mask = None
        if self.causal and over != "space":
            mask = frame_mask(t, height * width if over == "joint" else 1, x.device)
        y = attend(q, k, v, mask, self.backend)
        y = rearrange(y, fold.back, t=t, h=height, w=width)
        return self.gate(x, self.out(y))
