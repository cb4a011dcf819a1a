"""Is a generated clip a training clip? Nearest neighbours, against an honest yardstick.

Held-out real clips have never met the model, so their distances to the training set show how near
a new clip comes by chance. A generated clip is flagged when it lies nearer to training than all
but 1 % of the held-out clips do; without copying 1 % of the clips are flagged (cf. van den Burg &
Williams 2021). Beside it the rank test of Meehan et al. (AISTATS 2020): a clearly negative z means
that generated clips as a whole lie nearer to training than held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8

THUMBNAIL = 8
"""Side of the frames that are compared, in pixels: content and layout, not texture."""
PERCENTILE = 1.0


@dataclass(frozen=True)
class Copies:
    """The check in one kind of feature, row i belonging to generated clip i."""

    flagged: Bool[np.ndarray, "b"]
    distance: Float[np.ndarray, "b"]
    nearest: Int[np.ndarray, "b"]
    """Row of the nearest training clip."""
    threshold: float
    """1st percentile of the distance from held-out to training."""
    z: float
    """Mann-Whitney z of generated against held-out distances; clearly negative = copying."""


def shrink_clips(clips: UInt8[np.ndarray, "b t h w c"]) -> Float[np.ndarray, "b d"]:
    """8 x 8 x t thumbnails; the Euclidean distance of two rows is their rms in grey levels."""
    size = (THUMBNAIL, THUMBNAIL)
    flat = rearrange(clips, "b t h w c -> (b t) h w c")
    small = [cv2.resize(f, size, interpolation=cv2.INTER_AREA).ravel() for f in flat]
    rows = rearrange(np.stack(small).astype(np.float32), "(b t) d -> b (t d)", b=len(clips))
    return rows / np.sqrt(np.float32(rows.shape[1]))


def check_copies(
    generated: tuple[Float[np.ndarray, "b d"], ...],
    held_out: tuple[Float[np.ndarray, "n d"], ...],
    train: Float[np.ndarray, "m d"],
) -> Copies:
    """Compare distances to training of generated and of held-out clips.

    Args:
        generated: features of the same clips in one or several guises (as they are, mirrored);
            the nearest guise counts.
        held_out: likewise, in the same guises.
        train: features of the training clips, as they are.
    """
    distance, nearest = _nearest(generated, train)
    yardstick, _ = _nearest(held_out, train)
    threshold = float(np.percentile(yardstick, PERCENTILE))
    return Copies(distance < threshold, distance, nearest, threshold, _rank_z(distance, yardstick))


def _nearest(
    guises: tuple[Float[np.ndarray, "b d"], ...], train: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    y = train.astype(np.float64)
    best = np.full(len(guises[0]), np.inf)
    where = np.zeros(len(best), dtype=np.int64)
    for guise in guises:
        x = guise.astype(np.float64)
        squares = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)[None]
        index = squares.argmin(axis=1)
        distance = np.sqrt(np.clip(squares[np.arange(len(x)), index], 0, None))
        where = np.where(distance < best, index, where)
        best = np.minimum(distance, best)
    return best, where


def _rank_z(x: Float[np.ndarray, "b"], y: Float[np.ndarray, "n"]) -> float:
    ordered = np.sort(y)
    below = np.searchsorted(ordered, x, side="left")
    ties = np.searchsorted(ordered, x, side="right") - below
    u = float((below + ties / 2).sum())
    n, m = len(x), len(y)
    return (u - n * m / 2) / float(np.sqrt(n * m * (n + m + 1) / 12))
