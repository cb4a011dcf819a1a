"""A clip against the one it should have been: predictions, fillings, reconstructions, upscalings.

    psnr, ssim, st_lpips   of `perceptual`, mean over frames
    tof        mean |F(x) - F(y)| over pixels and pairs, pixels; F the flow of Farneback         (1)
    tlp.st_lpips   100 mean over pairs of |d(x_t, x_t+1) - d(y_t, y_t+1)|, d = ST-LPIPS          (2)
    warp_error     of `warping`, along the flow of the target

(1) and (2) follow TecoGAN (Chu et al., ACM TOG 2020), which further cuts two frames from each end
and a border of 8 pixels or more; clips of 16 small frames are taken whole here. Every number is to
be read beside that of the trivial answer (repeat the last frame, blend, enlarge): a network
that does not beat it has learnt nothing about motion.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from einops import repeat
from jaxtyping import Float, UInt8

from vidiff.errors import RequestError
from vidiff.metrics.flow import Clips, as_pairs, one_thread, to_luma
from vidiff.metrics.perceptual import PerceptualDistance, measure_psnr, measure_ssim
from vidiff.metrics.warping import measure_warp_error

Video = UInt8[np.ndarray, "b t h w c"]
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
"""Pyramid scale, levels, window, iterations, polynomial size and sd, flags."""


def measure_pairs(
    made: Clips, target: Clips, perceptual: PerceptualDistance | None = None
) -> dict[str, Float[np.ndarray, "b"]]:
    """Every paired number of every clip, row i belonging to clip i.

    Args:
        made: uint8 `b t h w c`, at least 4 frames.
        target: the same in shape: what `made` should have been.
        perceptual: adds its distance under its own name, and (2).

    Raises:
        RequestError: clips of another kind, or of differing shapes.
    """
    x, y = as_pairs(made, target)
    out = {
        "psnr": np.array([measure_psnr(a, b).mean() for a, b in zip(x, y, strict=True)]),
        "ssim": np.array([measure_ssim(a, b).mean() for a, b in zip(x, y, strict=True)]),
        "tof": measure_tof(x, y),
        "warp_error": measure_warp_error(x, y),
    }
    if perceptual is not None:
        rows = [_perceive(a, b, perceptual) for a, b in zip(x, y, strict=True)]
        name = perceptual.name
        out[name], out[f"tlp.{name}"] = (np.array(column) for column in zip(*rows, strict=True))
    return out


def measure_tof(made: Clips, target: Clips) -> Float[np.ndarray, "b"]:
    """Equation (1) of every clip, in pixels."""
    x, y = as_pairs(made, target)
    with one_thread():
        return np.array([_tof(a, b) for a, b in zip(x, y, strict=True)])


def _tof(made: UInt8[np.ndarray, "t h w c"], target: UInt8[np.ndarray, "t h w c"]) -> float:
    flows = [
        np.stack([cv2.calcOpticalFlowFarneback(a, b, None, *_FARNEBACK) for a, b in pairwise(luma)])
        for luma in (to_luma(made), to_luma(target))
    ]
    return float(np.linalg.norm(flows[0] - flows[1], axis=-1).mean())


def _perceive(
    made: UInt8[np.ndarray, "t h w c"],
    target: UInt8[np.ndarray, "t h w c"],
    perceptual: PerceptualDistance,
) -> tuple[float, float]:
    x, y = perceptual.see(made), perceptual.see(target)
    steps = np.abs(perceptual.steps(x) - perceptual.steps(y))
    return float(perceptual.between(x, y).mean()), 100 * float(steps.mean())


def repeat_last(known: Video, count: int) -> UInt8[np.ndarray, "b n h w c"]:
    """The trivial prediction: the last known frame, `count` times."""
    return repeat(known[:, -1], "b h w c -> b t h w c", t=count).copy()


def blend(
    before: UInt8[np.ndarray, "b h w c"], after: UInt8[np.ndarray, "b h w c"], count: int
) -> Video:
    """The trivial filling: `count` frames that dissolve from one known frame to the next."""
    share = (np.arange(1, count + 1, dtype=np.float32) / (count + 1))[:, None, None, None]
    mixed = (1 - share) * before[:, None] + share * after[:, None]
    return np.rint(mixed).astype(np.uint8)


def enlarge_bicubic(small: Video, size: tuple[int, int]) -> UInt8[np.ndarray, "b t y x c"]:
    """The trivial upscaling, to (height, width).

    Raises:
        RequestError: a side smaller than it was.
    """
    if min(size[0] - small.shape[2], size[1] - small.shape[3]) < 0:
        raise RequestError(f"{list(small.shape[2:4])} pixels cannot be enlarged to {list(size)}.")
    b, t, c = small.shape[0], small.shape[1], small.shape[-1]
    frames = small.reshape(b * t, *small.shape[2:])
    large = [cv2.resize(f, size[::-1], interpolation=cv2.INTER_CUBIC) for f in frames]
    return np.stack(large).reshape(b, t, *size, c)
