"""Warping error: what of a clip does not follow the motion that it should have.

Frame t + 1 is pulled back to t along the flow F and held against frame t (Lai et al., ECCV 2018):

    e = mean over pairs of mean over visible pixels p, channels of
        (I_t+1(p + F(p)) - I_t(p))^2,   I in [0, 1]                                              (1)

A pixel is left out when the flow B back from where it goes does not return, when it lies on an edge
of motion, or when it goes outside:

    |F(p) + B(p + F(p))|^2 > 0.01 (|F(p)|^2 + |B(p + F(p))|^2) + 0.5                             (2)
    |grad u|^2 + |grad v|^2 > 0.01 |F(p)|^2 + 0.002,   F = (u, v)                                (3)

Lengths in (2) and (3) are squared, which copies of this formula have missed. The flow must come
from the clip that is aimed at: flow of the clip itself explains its own faults away. A frozen clip
has 0 along its own flow, which is why (1) stands in the paired block only, beside the target's own.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from vidiff.metrics.flow import (
    Clips,
    Flow,
    as_clips,
    as_pairs,
    enlarge,
    find_ends,
    find_flows,
    follow,
    one_thread,
    to_luma,
)


def measure_warp_error(clips: Clips, target: Clips) -> Float[np.ndarray, "b"]:
    """Equation (1) of every clip along the flow of its target; NaN where no pixel is visible.

    Raises:
        RequestError: clips of another kind, or of differing shapes.
    """
    made, aim = as_pairs(clips, target)
    with one_thread():
        return np.array([_warp_error(a, b) for a, b in zip(made, aim, strict=True)])


def measure_own_warp_error(clips: Clips) -> Float[np.ndarray, "b"]:
    """Equation (1) of every clip along its own flow: what its target can reach at best."""
    array = as_clips(clips)
    return measure_warp_error(array, array)


def _warp_error(clip: UInt8[np.ndarray, "t h w c"], target: UInt8[np.ndarray, "t h w c"]) -> float:
    luma = to_luma(target)
    size = (luma.shape[2], luma.shape[1])
    large = enlarge(luma)
    factor = large.shape[1] // luma.shape[1]
    forward = [_shrink(flow, size, factor) for flow in find_flows(large)]
    backward = [_shrink(flow, size, factor) for flow in find_flows(large[::-1])][::-1]
    errors = []
    frames = clip.astype(np.float32) / 255
    for (now, after), there, back in zip(pairwise(frames), forward, backward, strict=True):
        visible = find_visible(there, back)
        if visible.any():
            difference = follow(after, there) - now
            errors.append(float((difference[visible] ** 2).mean()))
    return float(np.mean(errors)) if errors else float("nan")


def find_visible(there: Flow, back: Flow) -> Bool[np.ndarray, "h w"]:
    """Pixels that neither (2), nor (3), nor the frame's border leaves out."""
    height, width = there.shape[:2]
    returned = follow(back, there)
    length = _squared(there)
    lost = _squared(there + returned) > 0.01 * (length + _squared(returned)) + 0.5
    slopes = [np.gradient(there[..., k]) for k in (0, 1)]
    edge = sum(g**2 for pair in slopes for g in pair) > 0.01 * length + 0.002
    x, y = find_ends(there)
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    return ~(lost | edge | outside)


def _squared(flow: Flow) -> Float[np.ndarray, "h w"]:
    return (flow**2).sum(axis=-1)


def _shrink(
    flow: Float[np.ndarray, "y x 2"], size: tuple[int, int], factor: int
) -> Float[np.ndarray, "h w 2"]:
    return flow if factor == 1 else cv2.resize(flow, size, None, 0, 0, cv2.INTER_AREA) / factor
