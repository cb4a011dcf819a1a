"""How far apart two frames are: by their pixels, and as people judge it.

    PSNR     10 log10(255^2 / mean squared error), at most 100 dB                                (1)
    SSIM     mean over 11 x 11 Gaussian windows (sd 1.5) of luma, inside the frame only, of
             (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)),
             C1 = 2.55^2, C2 = 7.65^2 (Wang et al., IEEE TIP 2004)                               (2)
    LPIPS    sum over five taps l of a trunk of the mean over space of
             <w_l, (u_l(x) - u_l(y))^2>, u_l of unit length in every pixel, w_l >= 0
             fitted to what people called alike (Zhang et al., CVPR 2018)                        (3)

ST-LPIPS (Ghildyal & Liu, ECCV 2022) is (3) with an AlexNet that a shift by a pixel does not upset:
it blurs before it strides, and its weights were fitted that way. They ship in a package. Those of
LPIPS itself do not: it runs when someone hands them over, and nothing else bears its name.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vidiff.errors import RequestError
from vidiff.metrics.flow import Clips, as_clips, as_pairs, to_luma
from vidiff.metrics.weights import Shipped, hash_file, load_tensors

PSNR_LIMIT = 100.0
MIN_SIDE = 32
"""Smaller frames are enlarged by a whole factor: the last taps would have no pixels left."""

ST_LPIPS = Shipped(
    "stlpips-pytorch",
    "0.0.2",
    "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "'vidiff[eval]'",
)
LPIPS_TRUNKS = {
    "alex": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    "vgg": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
}
"""SHA-256 of torchvision's alexnet-owt-7be5be79.pth and vgg16-397923af.pth."""
LPIPS_HEADS = {
    net: Shipped(
        "lpips", "0.1.4", f"lpips/weights/v0.1/{net}.pth", digest, "--no-deps lpips==0.1.4"
    )
    for net, digest in (
        ("alex", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
        ("vgg", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"),
    )
}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Frames = UInt8[np.ndarray, "b h w c"]
Taps = list[Tensor]
"""Five maps `b c h w`, of unit length in every pixel."""


def measure_psnr(x: Frames, y: Frames) -> Float[np.ndarray, "b"]:
    """Equation (1) of each pair of frames, in dB over all channels."""
    error = ((x.astype(np.float64) - y) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 255**2 / 10 ** (PSNR_LIMIT / 10)))


def measure_ssim(x: Frames, y: Frames) -> Float[np.ndarray, "b"]:
    """Equation (2) of each pair of frames, in [-1, 1].

    Raises:
        RequestError: a side under 11 pixels, which holds no window.
    """
    if min(x.shape[1:3]) < 11:
        raise RequestError(f"Frames are {list(x.shape[1:3])}; SSIM needs 11 x 11 pixels.")
    return np.array([_ssim(a, b) for a, b in zip(to_luma(x), to_luma(y), strict=True)])


def _ssim(x: UInt8[np.ndarray, "h w"], y: UInt8[np.ndarray, "h w"]) -> float:
    a, b = x.astype(np.float64), y.astype(np.float64)

    def average(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "y x"]:
        return cv2.GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = average(a), average(b)
    spread = average(a * a) - mean_a**2 + average(b * b) - mean_b**2
    shared = average(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * (2 * shared + c2) / (spread + c2)).mean())


class PerceptualDistance:
    """Equation (3) with one trunk and its heads, under one name."""

    def __init__(self, name: str, trunk: Trunk, heads: list[Float[Tensor, "c"]], sha256: str):
        self.name = name
        self.card = {"name": name, "sha256": sha256}
        """What a result must say of it to be comparable."""
        self._trunk = trunk.eval().requires_grad_(False)
        self._heads = heads

    def to(self, device: torch.device | str) -> PerceptualDistance:
        """The same on another device, in place."""
        self._trunk.to(device)
        self._heads = [head.to(device) for head in self._heads]
        return self

    @torch.inference_mode()
    def see(self, frames: Frames) -> Taps:
        """What the trunk makes of every frame; grey ones count as RGB."""
        pixels = rearrange(torch.from_numpy(np.array(frames)), "b h w c -> b c h w")
        pixels = pixels.to(self._heads[0].device).float().div(127.5).sub(1).expand(-1, 3, -1, -1)
        factor = math.ceil(MIN_SIDE / min(frames.shape[1:3]))
        if factor > 1:
            pixels = F.interpolate(pixels, scale_factor=factor, mode="bilinear")
        shift, scale = (torch.tensor(v)[:, None, None].to(pixels) for v in (_SHIFT, _SCALE))
        taps = self._trunk((pixels - shift) / scale)
        return [tap / (tap.norm(dim=1, keepdim=True) + 1e-10) for tap in taps]

    @torch.inference_mode()
    def between(self, x: Taps, y: Taps) -> Float[np.ndarray, "b"]:
        """Equation (3) of each pair of frames already seen."""
        total = torch.zeros(len(x[0]), device=x[0].device)
        for a, b, head in zip(x, y, self._heads, strict=True):
            total += torch.einsum("bchw,c->bhw", (a - b) ** 2, head).mean(dim=(1, 2))
        return total.cpu().double().numpy()

    def compare(self, x: Clips, y: Clips) -> Float[np.ndarray, "b"]:
        """Mean distance of a clip's frames to those of its partner.

        Raises:
            RequestError: clips of another kind, or of differing shapes.
        """
        a, b = as_pairs(x, y)
        pairs = zip(a, b, strict=True)
        return np.array([self.between(self.see(p), self.see(q)).mean() for p, q in pairs])

    def flicker(self, clips: Clips) -> Float[np.ndarray, "b"]:
        """Mean distance of a frame to the next; NaN where no pixel ever changes."""
        array = as_clips(clips)
        values = np.array([self.steps(self.see(clip)).mean() for clip in array])
        frozen = (array[:, 1:] == array[:, :-1]).all(axis=(1, 2, 3, 4))
        return np.where(frozen, np.nan, values)

    def steps(self, taps: Taps) -> Float[np.ndarray, "s"]:
        """Distance of each frame to the next, of the frames of one clip."""
        return self.between([tap[:-1] for tap in taps], [tap[1:] for tap in taps])


@cache
def load_st_lpips() -> PerceptualDistance:
    """ST-LPIPS on AlexNet, its weights checked; loaded once.

    Raises:
        RequestError: its package missing, or its file not the known one.
    """
    state = ST_LPIPS.load()
    weights = [(state[f"net.{n}.weight"], state[f"net.{n}.bias"]) for n in _ST_NAMES]
    heads = [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]
    return PerceptualDistance("st_lpips", Trunk(_ST_ALEX, weights), heads, ST_LPIPS.sha256)


def load_lpips(trunk: Path, net: str = "alex") -> PerceptualDistance:
    """LPIPS 0.1 itself, from torchvision's weights and the heads of the package lpips.

    Args:
        trunk: the file alexnet-owt-7be5be79.pth or vgg16-397923af.pth.
        net: "alex" or "vgg".

    Raises:
        RequestError: another network, another file, or the package of the heads missing.
    """
    if net not in LPIPS_TRUNKS:
        raise RequestError(f"LPIPS has no trunk {net!r}.", "Choose alex or vgg.")
    if not trunk.is_file() or hash_file(trunk) != LPIPS_TRUNKS[net]:
        raise RequestError(
            f"{trunk} is not the file that LPIPS was fitted on "
            f"(SHA-256 {LPIPS_TRUNKS[net][:16]}...), so its distance would not be LPIPS.",
            "Give alexnet-owt-7be5be79.pth or vgg16-397923af.pth from download.pytorch.org/models.",
        )
    state = load_tensors(trunk)
    names = [n.removesuffix(".weight") for n, v in state.items() if v.ndim == 4]
    weights = [(state[f"{n}.weight"], state[f"{n}.bias"]) for n in names]
    heads = [v.flatten() for v in LPIPS_HEADS[net].load().values()]
    plan = _ALEX if net == "alex" else _VGG
    return PerceptualDistance(f"lpips.{net}", Trunk(plan, weights), heads, LPIPS_TRUNKS[net])


# Layers of a trunk, in order: a convolution (stride, padding), "relu", "blur" (and halve),
# a maximum over 3 x 3 or 2 x 2 (side, stride), and "tap" where (3) looks.
_ST_ALEX = (
    *((1, 2), "blur", "relu", "tap", "max31", "blur", (1, 2), "relu", "tap"),
    *("max31", "blur", (1, 1), "relu", "tap", (1, 1), "relu", "tap", (1, 1), "relu", "tap"),
)
_ST_NAMES = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
_ALEX = (
    *((4, 2), "relu", "tap", "max32", (1, 2), "relu", "tap"),
    *("max32", (1, 1), "relu", "tap", (1, 1), "relu", "tap", (1, 1), "relu", "tap"),
)
_VGG = (
    *((1, 1), "relu", (1, 1), "relu", "tap"),
    *("max22", (1, 1), "relu", (1, 1), "relu", "tap"),
    *("max22", *((1, 1), "relu") * 3, "tap") * 3,
)


class Trunk(nn.Module):
    """Convolutions of an image classifier by a plan, looked into at its taps."""

    def __init__(
        self, plan: tuple[str | tuple[int, int], ...], weights: list[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self._plan = plan
        convolutions, width = iter(weights), 3
        layers: list[nn.Module] = []
        for step in plan:
            if isinstance(step, tuple):
                weight, bias = next(convolutions)
                width = len(weight)
                layer: nn.Module = nn.Conv2d(weight.shape[1], width, weight.shape[2], *step)
                layer.load_state_dict({"weight": weight, "bias": bias})
            elif step.startswith("max"):
                layer = nn.MaxPool2d(int(step[3]), int(step[4]))
            else:
                layer = {"blur": Blur, "relu": nn.ReLU, "tap": nn.Identity}[step]()
            layers.append(layer)
        self.layers = nn.ModuleList(layers)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Taps:
        """The maps at the taps."""
        taps = []
        for step, layer in zip(self._plan, self.layers, strict=True):
            pixels = layer(pixels)
            if step == "tap":
                taps.append(pixels)
        return taps


class Blur(nn.Module):
    """Binomial (1, 2, 1) blur that keeps every second pixel, borders mirrored by two."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(row, row)[None, None])
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
        """Half the size."""
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        channels = x.shape[1]
        return F.conv2d(padded, self.kernel.expand(channels, -1, -1, -1), None, 2, groups=channels)
