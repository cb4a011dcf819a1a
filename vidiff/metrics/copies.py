"""Is a generated clip a training clip? Nearest neighbours, against an honest yardstick.

Held-out real clips have never met the model, so their distances to the training set show how near
a new clip comes by chance. A generated clip is *near* when it lies closer to training than all
but 1 % of the held-out clips do; without copying 1 % of the clips are (cf. van den Burg & Williams
2021). It is called *copied* at three quarters of that distance: real clips hardly ever come so
close, and copies that were mirrored, compressed again or moved in time do. Beside it the rank
test of Meehan et al. (AISTATS 2020): a clearly negative z means that generated clips as a whole
lie nearer to training than held-out ones.

Where held-out clips are as near to training as a compressed copy is (one room, filmed for an
hour), no distance can tell the two apart; `threshold` shows it, in grey levels.
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
CLOSER = 0.75
"""Share of the threshold under which a clip is called copied."""


@dataclass(frozen=True)
class Copies:
    """The check in one kind of feature, row i belonging to generated clip i."""

    flagged: Bool[np.ndarray, "b"]
    """Near: under the threshold."""
    copied: Bool[np.ndarray, "b"]
    """Under `CLOSER` times the threshold."""
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
    return _judge(_nearest(generated, train), _nearest(held_out, train)[0])


def check_clip_copies(
    generated: Float[np.ndarray, "b d"],
    held_out: Float[np.ndarray, "n d"],
    train: Float[np.ndarray, "m d"],
    num_frames: int,
) -> Copies:
    """The same of `shrink_clips`, each clip also mirrored and moved by up to half its length.

    The distance of two clips is that of the frames which they then share, in grey levels.

    Args:
        generated: thumbnails of the clips under suspicion.
        held_out: thumbnails of clips that the model has not seen.
        train: thumbnails of the training clips.
        num_frames: frames of a clip.
    """
    rows = (generated, held_out, train)
    scale = np.sqrt(np.float32(train.shape[1]))
    x, yardstick, y = (rearrange(r * scale, "b (t d) -> b t d", t=num_frames) for r in rows)
    centre = y.mean(axis=(0, 1))
    found = [_nearest_moved(side, y, centre) for side in (x, yardstick)]
    return _judge(found[0], found[1][0])


def _judge(
    found: tuple[Float[np.ndarray, "b"], Int[np.ndarray, "b"]], yardstick: Float[np.ndarray, "n"]
) -> Copies:
    distance, nearest = found
    threshold = float(np.percentile(yardstick, PERCENTILE))
    near, copied = distance < threshold, distance < CLOSER * threshold
    return Copies(near, copied, distance, nearest, threshold, _rank_z(distance, yardstick))


def _nearest_moved(
    clips: Float[np.ndarray, "b t d"], train: Float[np.ndarray, "m t d"], centre: np.ndarray
) -> tuple[Float[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    t = clips.shape[1]
    pattern = "b t (y x c) -> b t y x c"
    picture = rearrange(clips, pattern, y=THUMBNAIL, x=THUMBNAIL)
    mirrored = rearrange(picture[..., ::-1, :], "b t y x c -> b t (y x c)")
    best = np.full(len(clips), np.inf)
    where = np.zeros(len(clips), dtype=np.int64)
    # Small numbers near the centre keep float32 exact enough: 0.03 grey levels.
    y = train - centre
    for x in (clips - centre, mirrored - centre):
        for move in range(-(t // 2), t // 2 + 1):
            a = x[:, max(0, -move) : t - max(0, move)].reshape(len(x), -1)
            b = y[:, max(0, move) : t - max(0, -move)].reshape(len(y), -1)
            squares = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None]
            index = squares.argmin(axis=1)
            least = squares[np.arange(len(x)), index].clip(min=0) / a.shape[1]
            where = np.where(least < best, index, where)
            best = np.minimum(least, best)
    return np.sqrt(best), where


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
