"""Clips as arrays, their luma, and where its pixels go.

Flow F_t(p) is the displacement of pixel p from frame t to t + 1, found by DIS (Kroeger et al.,
ECCV 2016) at its finest scale: on photographs moved by a known way its end points are off by 0.05
to 0.13 pixels, a tenth of what Farneback's method leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from vidiff.errors import RequestError

MIN_SIDE = 64

Clips = UInt8[np.ndarray, "_b _t _h _w _c"] | UInt8[Tensor, "_b _t _h _w _c"]
"""uint8 `b t h w c` from anywhere; nothing yet says that two of them agree in size."""

Flow = Float[np.ndarray, "h w 2"]
"""Displacement (x, y) of every pixel, in pixels."""


def as_clips(clips: Clips) -> UInt8[np.ndarray, "b t h w c"]:
    """The one door of this room: tensors and arrays in, a checked uint8 array out.

    Raises:
        RequestError: not uint8, not `b t h w c`, not 1 or 3 channels, or under 4 frames.
    """
    array = clips.detach().cpu().numpy() if isinstance(clips, Tensor) else np.asarray(clips)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] not in (1, 3):
        raise RequestError(
            f"Clips are {array.dtype} with shape {list(array.shape)}; "
            "metrics take uint8 b t h w c with 1 or 3 channels.",
            "Convert them with vidiff.data.video.to_bytes and move the axes.",
        )
    if array.shape[1] < 4:
        raise RequestError(
            f"Clips have {array.shape[1]} frames; jerk is a third difference and needs 4.",
            "Evaluate clips of 4 frames or more.",
        )
    return array


def as_pairs(
    x: Clips, y: Clips
) -> tuple[UInt8[np.ndarray, "b t h w c"], UInt8[np.ndarray, "b t h w c"]]:
    """Two sets of clips of one shape, row i of one belonging to row i of the other.

    Raises:
        RequestError: clips of another kind, or of differing shapes.
    """
    a, b = as_clips(x), as_clips(y)
    if a.shape != b.shape:
        raise RequestError(
            f"Clips {list(a.shape)} and {list(b.shape)} cannot be paired.",
            "Give as many clips on each side, of one size.",
        )
    return a, b


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold OpenCV to one thread: DIS splits the picture among them, and the flow shows where."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def to_luma(clip: UInt8[np.ndarray, "t h w c"]) -> UInt8[np.ndarray, "t h w"]:
    """Grey levels: the one channel, or 0.299 R + 0.587 G + 0.114 B."""
    if clip.shape[-1] == 1:
        return clip[..., 0]
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])


def enlarge(luma: UInt8[np.ndarray, "t h w"]) -> UInt8[np.ndarray, "t y x"]:
    """Frames whose sides are 64 or more: DIS matches patches of 8 x 8 on a pyramid."""
    factor = math.ceil(MIN_SIDE / min(luma.shape[1:]))
    if factor <= 1:
        return luma
    size = (luma.shape[2] * factor, luma.shape[1] * factor)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in luma])


def make_flow_finder() -> Any:
    """OpenCV's DIS with its medium preset, down to whole pixels: `.calc(from, to, None)`."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return dis


def find_flows(luma: UInt8[np.ndarray, "t h w"]) -> Float[np.ndarray, "s h w 2"]:
    """Forward flow of the s = t - 1 pairs, in pixels."""
    dis = make_flow_finder()
    return np.stack([dis.calc(a, b, None) for a, b in pairwise(luma)])


def find_ends(flow: Flow) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Where every pixel goes, x and y."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x + flow[..., 0], y + flow[..., 1]


def follow(image: Float[np.ndarray, "h w *c"], flow: Flow) -> Float[np.ndarray, "h w *c"]:
    """The image pulled back along a flow: value at p taken from p + F(p), the border repeated."""
    x, y = find_ends(flow)
    out = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out.reshape(image.shape)
