"""Three formulas of VBench (Huang et al., CVPR 2024), only to compare with other tables.

    temporal_flickering    1 - mean |I_t+1 - I_t| / 255                                          (1)
    motion_smoothness      1 - mean |M_t - I_t| / 255 over odd t, M_t made of both neighbours    (2)
    dynamic_degree         1 if at least round(4 n / 16) of the pairs of n frames, taken at 8 a
                           second, have a flow whose largest 5 % exceed 6 s / 256 pixels on
                           average, s the shorter side; else 0                                   (3)

A frozen clip gets a perfect 1 by (1) and (2), and a blurred one beats the real one: no verdict here
rests on them. (1) is VBench's own to the digit. (2) interpolates with the network AMT-S there, (3)
finds flow with RAFT; both are done with DIS flow here, which their names say.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vidiff.errors import RequestError
from vidiff.metrics.flow import Clips, as_clips, enlarge, find_flows, one_thread, to_luma
from vidiff.metrics.motion import interpolate_middle

MIN_SIDE = 12
"""Pixels of a frame under which DIS finds no flow; (2) is undefined there."""

FORMULAS = (
    "vbench.temporal_flickering",
    "vbench.motion_smoothness@dis",
    "vbench.dynamic_degree@dis",
)


def measure_vbench(clips: Clips, dt: float) -> dict[str, Float[np.ndarray, "b"]]:
    """The three of every clip, each in [0, 1].

    Args:
        clips: uint8 `b t h w c`, at least 4 frames.
        dt: seconds between frames.

    Raises:
        RequestError: clips of another kind, or dt not positive.
    """
    array = as_clips(clips)
    if not dt > 0:
        raise RequestError(f"dt is {dt}; it is the seconds between frames and must be positive.")
    with one_thread():
        rows = [(_flickering(c), _smoothness(c), _dynamic(c, dt)) for c in array]
    return dict(zip(FORMULAS, np.array(rows, dtype=np.float64).T, strict=True))


def _flickering(clip: UInt8[np.ndarray, "t h w c"]) -> float:
    return 1 - float(np.mean([cv2.absdiff(a, b).mean() for a, b in pairwise(clip)])) / 255


def _smoothness(clip: UInt8[np.ndarray, "t h w c"]) -> float:
    luma = to_luma(clip)
    if min(luma.shape[1:]) < MIN_SIDE:
        return float("nan")
    errors = []
    for t in range(1, len(clip) - 1, 2):
        made = interpolate_middle(luma[t - 1], luma[t + 1], clip[t - 1], clip[t + 1])
        errors.append(np.abs(np.rint(made).reshape(clip[t].shape) - clip[t]).mean())
    return 1 - float(np.mean(errors)) / 255


def _dynamic(clip: UInt8[np.ndarray, "t h w c"], dt: float) -> float:
    taken = clip[:: max(1, round(1 / dt / 8))]
    if len(taken) < 2:
        return 0.0
    large = enlarge(to_luma(taken))
    flat = np.linalg.norm(find_flows(large), axis=-1).reshape(len(taken) - 1, -1)
    count = max(1, int(0.05 * flat.shape[1]))
    fastest = np.partition(flat, -count, axis=1)[:, -count:].mean(axis=1)
    pairs = int((fastest > 6 * min(large.shape[1:]) / 256).sum())
    return float(pairs >= round(4 * len(taken) / 16))
