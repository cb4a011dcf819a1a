"""Degenerate versions of real clips, scored in every evaluation beside the model.

Each is a way to win a one-sided score: a frozen clip is perfectly smooth, a panned photograph
even smoother than film, a blurred clip flickers less. A metric is worth reading only where it
puts these far from the real clips. Lengths scale with the frame, so that the damage is the same
at every size; every clip draws from (seed, its position, the anchor's name) alone.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from einops import repeat
from jaxtyping import Float, UInt8

from vidiff.records import derive_seed

GRAIN = 2.0
"""Standard deviation of the grain of `frozen_grain`, grey levels."""
PAN_SPEED = 0.0125
"""Frame widths per frame: 0.8 pixels in 64, the mean flow of ordinary film."""
JITTER = 1.5 / 64
"""Largest displacement of `jitter`, frame widths."""
BLUR = 1.5 / 64
"""Standard deviation of the Gaussian of `blurred`, frame widths."""
COLLAPSED_TO = 4

Video = UInt8[np.ndarray, "b t h w c"]


def frozen(clips: Video, seed: int) -> Video:
    """The first frame, held."""
    return repeat(clips[:, 0], "b h w c -> b t h w c", t=clips.shape[1]).copy()


def frozen_grain(clips: Video, seed: int) -> Video:
    """The first frame, held, under faint grain that is new in every frame."""
    still = frozen(clips, seed).astype(np.float32)
    rows = range(len(clips))
    noise = [_rng(seed, i, "frozen_grain").normal(0, GRAIN, still.shape[1:]) for i in rows]
    return _to_bytes(still + np.stack(noise))


def pan(clips: Video, seed: int) -> Video:
    """A camera gliding over the first frame as over a photograph, in a random direction."""
    steps = np.arange(clips.shape[1]) - (clips.shape[1] - 1) / 2
    out = []
    for i, clip in enumerate(clips):
        angle = _rng(seed, i, "pan").uniform(0, 2 * np.pi)
        unit = np.array([np.cos(angle), np.sin(angle)])
        still = np.broadcast_to(clip[:1], clip.shape)
        out.append(_shift(still, PAN_SPEED * clip.shape[2] * steps[:, None] * unit))
    return np.stack(out)


def crossfade(clips: Video, seed: int) -> Video:
    """The first frame dissolving into the last."""
    share = np.linspace(0, 1, clips.shape[1], dtype=np.float32)[:, None, None, None]
    first, last = clips[:, :1].astype(np.float32), clips[:, -1:].astype(np.float32)
    return _to_bytes((1 - share) * first + share * last)


def shuffled(clips: Video, seed: int) -> Video:
    """The frames of each clip in random order."""
    t = clips.shape[1]
    return np.stack([c[_rng(seed, i, "shuffled").permutation(t)] for i, c in enumerate(clips)])


def stutter(clips: Video, seed: int) -> Video:
    """Every second frame shown twice."""
    return clips[:, np.arange(clips.shape[1]) // 2 * 2]


def jitter(clips: Video, seed: int) -> Video:
    """Every frame displaced at random, as by a shaking hand."""
    out = []
    for i, clip in enumerate(clips):
        offsets = _rng(seed, i, "jitter").uniform(-JITTER, JITTER, (len(clip), 2))
        out.append(_shift(clip, offsets * clip.shape[2]))
    return np.stack(out)


def blurred(clips: Video, seed: int) -> Video:
    """Every frame under a Gaussian blur."""
    sigma = BLUR * clips.shape[3]
    return np.stack(
        [_per_frame(clip, lambda f: cv2.GaussianBlur(f, (0, 0), sigma)) for clip in clips]
    )


def collapsed(clips: Video, seed: int) -> Video:
    """The first four clips, over and over."""
    return clips[np.arange(len(clips)) % COLLAPSED_TO]


ANCHORS: dict[str, Callable[[Video, int], Video]] = {
    "frozen": frozen,
    "frozen_grain": frozen_grain,
    "pan": pan,
    "crossfade": crossfade,
    "shuffled": shuffled,
    "stutter": stutter,
    "jitter": jitter,
    "blurred": blurred,
    "collapsed": collapsed,
}


def _rng(seed: int, position: int, name: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, position, f"anchor/{name}"))


def _to_bytes(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _per_frame(
    clip: UInt8[np.ndarray, "t h w c"], change: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "t h w c"]:
    # OpenCV drops the axis of a single channel.
    return np.stack([change(np.ascontiguousarray(f)).reshape(f.shape) for f in clip])


def _shift(
    clip: UInt8[np.ndarray, "t h w c"], offsets: Float[np.ndarray, "t 2"]
) -> UInt8[np.ndarray, "t h w c"]:
    height, width = clip.shape[1:3]
    out = []
    for frame, (x, y) in zip(clip, offsets, strict=True):
        matrix = np.array([[1, 0, x], [0, 1, y]], dtype=np.float64)
        moved = cv2.warpAffine(
            np.ascontiguousarray(frame), matrix, (width, height), borderMode=cv2.BORDER_REFLECT
        )
        out.append(moved.reshape(frame.shape))
    return np.stack(out)
