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
FLICKER = 0.08
"""Largest change of brightness of `flickering`, share of the value."""
NOISE = 12.0
"""Standard deviation of `grainy`, grey levels."""
STALL = 0.5
"""Share of the frames that `stalled` holds."""

Video = UInt8[np.ndarray, "b t h w c"]


def frozen(clips: Video, seed: int) -> Video:
    """The first frame, held."""
    return repeat(clips[:, 0], "b h w c -> b t h w c", t=clips.shape[1]).copy()


def frozen_grain(clips: Video, seed: int) -> Video:
    """The first frame, held, under faint grain that is new in every frame."""
    return grainy(frozen(clips, seed), seed, GRAIN)


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


def jitter(clips: Video, seed: int, amount: float = JITTER) -> Video:
    """Every frame displaced at random, as by a shaking hand, by `amount` frame widths at most."""
    out = []
    for i, clip in enumerate(clips):
        offsets = _rng(seed, i, "jitter").uniform(-amount, amount, (len(clip), 2))
        out.append(_shift(clip, offsets * clip.shape[2]))
    return np.stack(out)


def blurred(clips: Video, seed: int, amount: float = BLUR) -> Video:
    """Every frame under a Gaussian blur of sd `amount` frame widths."""
    sigma = amount * clips.shape[3]
    return np.stack(
        [_per_frame(clip, lambda f: cv2.GaussianBlur(f, (0, 0), sigma)) for clip in clips]
    )


def collapsed(clips: Video, seed: int) -> Video:
    """The first four clips, over and over."""
    return clips[np.arange(len(clips)) % COLLAPSED_TO]


def flickering(clips: Video, seed: int, amount: float = FLICKER) -> Video:
    """Every frame brighter or darker at random, by the share `amount` at most."""
    gains = [_rng(seed, i, "flickering").uniform(-1, 1, clips.shape[1]) for i in range(len(clips))]
    factor = 1 + amount * np.stack(gains)[:, :, None, None, None]
    return _to_bytes(clips.astype(np.float32) * factor)


def grainy(clips: Video, seed: int, amount: float = NOISE) -> Video:
    """Fresh Gaussian grain of sd `amount` grey levels on every frame."""
    rows = range(len(clips))
    noise = [_rng(seed, i, "grainy").normal(0, 1, clips.shape[1:]) for i in rows]
    return _to_bytes(clips.astype(np.float32) + amount * np.stack(noise))


def stalled(clips: Video, seed: int, amount: float = STALL) -> Video:
    """A random share `amount` of the frames replaced by the frame before."""
    out = []
    for i, clip in enumerate(clips):
        held = 1 + _rng(seed, i, "stalled").permutation(len(clip) - 1)
        index = np.arange(len(clip))
        index[held[: round(amount * (len(clip) - 1))]] = 0
        out.append(clip[np.maximum.accumulate(index)])
    return np.stack(out)


def copied(train: Video, count: int, seed: int) -> UInt8[np.ndarray, "n t h w c"]:
    """`count` training clips, drawn without repeats while they last: what rote learning makes."""
    rng = _rng(seed, 0, "copied")
    orders = [rng.permutation(len(train)) for _ in range(-(-count // len(train)))]
    return train[np.concatenate(orders)[:count]]


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
"""Made of held-out clips alone; `copied` needs the training clips as well."""

DOSES: dict[str, tuple[Callable[[Video, int, float], Video], tuple[float, ...]]] = {
    "jitter": (jitter, (0.25 / 64, 0.75 / 64, 2 / 64)),
    "flicker": (flickering, (0.02, 0.06, 0.18)),
    "blur": (blurred, (0.5 / 64, 1 / 64, 2 / 64)),
    "grain": (grainy, (3.0, 9.0, 27.0)),
    "freezing": (stalled, (0.15, 0.4, 0.8)),
}
"""Damage in growing amounts: a number that claims to see it must grow along."""


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
