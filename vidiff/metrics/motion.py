"""How clips move, without learned weights: dense flow, tracks, and what follows from them.

F_t is the flow of `flow` on luma I_t. Lengths are in frame widths W, so that sizes compare. Of each
clip:

    motion.amount           mean |F_t(p)| / (W dt), frame widths per second                      (1)
    motion.static_fraction  share of pairs (t, t + 1) whose fastest 5 % of pixels
                            move less than STILL frame widths on average                         (2)
    smooth.interp_ratio     sum |M_t - I_t| / sum (|I_t - I_t-1| + |I_t - I_t+1|) / 2 over odd
                            t, with M_t made of both neighbours, flow-warped half way            (3)
    smooth.jerk_ratio       mean |x'''| / mean |x'| along tracks x, differences per frame        (4)
    flicker.brightness      sd over t of the second difference of mean luma, grey levels         (5)
    sharpness               mean squared gradient of luma, (grey levels / pixel)^2               (6)
    jump                    largest over median mean |I_t+1 - I_t|, the median taken as at
                            least 1 grey level (coding noise)                                    (7)
    colour.drift            rms over channels of the mean colour of the last quarter of the
                            frames minus that of the first, grey levels                          (8)

(3), (4) and (7) are NaN where no pair moves, (5) and (8) where no pixel ever changes: a frozen clip
is undefined there, not perfect.
None of them is better when higher or lower; each is to be held against real clips.

Motion histograms follow the idea of FVMD (Liu et al. 2024) with flow-chained tracks: velocities
and accelerations of 10 x 10 points, pooled in 2 x 2 x 2 cells of time and space, 8 orientations
each, every vector voting with log2(1 + its length in 1/256 frame widths).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float, UInt8

from vidiff.errors import RequestError
from vidiff.metrics.flow import Clips as Clips
from vidiff.metrics.flow import as_clips as as_clips
from vidiff.metrics.flow import enlarge, find_flows, follow, make_flow_finder, one_thread, to_luma

STILL = 0.0075
"""Frame widths per pair: half a pixel in 64. Noise in the flow of a still, grainy clip stays
below it; VBench's filter for static clips sits at 3/256 = 0.0117 for the fastest 2 %."""

FASTEST = 0.05
GRID = 10
ORIENTATIONS = 8

STATISTICS = (
    "motion.amount",
    "motion.static_fraction",
    "smooth.interp_ratio",
    "smooth.jerk_ratio",
    "flicker.brightness",
    "sharpness",
    "jump",
    "colour.drift",
)


@dataclass(frozen=True)
class Motion:
    """What was measured of a set of clips, row i belonging to clip i."""

    statistics: dict[str, Float[np.ndarray, "b"]]
    """One array per name in `STATISTICS`; NaN = undefined, nothing moves."""
    histograms: Float[np.ndarray, "b d"]
    """Velocity and acceleration histograms, d = 2 fields x 8 cells x 8 orientations."""


def measure_motion(clips: Clips, dt: float) -> Motion:
    """Statistics (1) to (8) and motion histograms of every clip, flow being computed once.

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
        rows = [_measure_clip(clip, dt) for clip in array]
    names = zip(STATISTICS, zip(*(row[0] for row in rows), strict=True), strict=True)
    statistics = {name: np.array(values, dtype=np.float64) for name, values in names}
    return Motion(statistics, np.stack([row[1] for row in rows]))


def motion_histograms(clips: Clips) -> Float[np.ndarray, "b d"]:
    """Velocity and acceleration histograms alone, at half the cost of `measure_motion`."""
    array = as_clips(clips)
    with one_thread():
        return np.stack([_histogram(_track(find_flows(enlarge(to_luma(clip))))) for clip in array])


def measure_seams(clips: Clips, seams: Sequence[int]) -> Float[np.ndarray, "b"]:
    """How much the joints of a rollout show: change across them over the median change elsewhere.

    1 for a joint like any other pair of frames; the median counts as at least 1 grey level (coding
    noise). NaN where no pixel ever changes.

    Args:
        clips: uint8 `b t h w c`.
        seams: index of the first frame of every block after the first.

    Raises:
        RequestError: no seam, one outside 1..t-1, or no pair of frames besides the seams.
    """
    array = as_clips(clips)
    at = np.unique(np.asarray(seams, dtype=np.int64)) - 1
    pairs = array.shape[1] - 1
    if not len(at) or at.min() < 0 or at.max() >= pairs or len(at) == pairs:
        raise RequestError(
            f"Seams {list(seams)} do not fit clips of {pairs + 1} frames.",
            f"Name first frames of later blocks, from 1 to {pairs}, and not all of them.",
        )
    rest = np.setdiff1d(np.arange(pairs), at)
    change = np.stack([_mean_change(to_luma(clip)) for clip in array])
    score = change[:, at].mean(axis=1) / np.maximum(np.median(change[:, rest], axis=1), 1.0)
    frozen = (array[:, 1:] == array[:, :-1]).all(axis=(1, 2, 3, 4))
    return np.where(frozen, np.nan, score)


def _measure_clip(
    clip: UInt8[np.ndarray, "t h w c"], dt: float
) -> tuple[tuple[float, ...], Float[np.ndarray, "d"]]:
    luma = to_luma(clip)
    large = enlarge(luma)
    flows = find_flows(large)
    tracks = _track(flows)
    speed = np.linalg.norm(flows, axis=-1) / large.shape[-1]
    static = _static_fraction(speed)
    moves, changes = static < 1, bool((clip[1:] != clip[:-1]).any())
    statistics = (
        float(speed.mean()) / dt,
        static,
        _interp_ratio(large) if moves else math.nan,
        _jerk_ratio(tracks) if moves else math.nan,
        float(np.diff(luma.mean(axis=(1, 2)), n=2).std()) if changes else math.nan,
        _sharpness(luma),
        _jump(luma) if moves else math.nan,
        _colour_drift(clip) if changes else math.nan,
    )
    return statistics, _histogram(tracks)


def _track(flows: Float[np.ndarray, "s h w 2"]) -> Float[np.ndarray, "t g g 2"]:
    """Positions of a grid of points carried along the flow, in frame widths; t = s + 1."""
    height, width = flows.shape[1:3]
    centres = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(centres * width - 0.5, centres * height - 0.5)
    points = [np.stack([x, y], axis=-1).astype(np.float32)]
    for flow in flows:
        x, y = points[-1][..., 0], points[-1][..., 1]
        # A point that has left the picture goes on with the flow of the nearest border.
        step = cv2.remap(flow, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        points.append(points[-1] + step)
    return np.stack(points).astype(np.float64) / width


def _static_fraction(speed: Float[np.ndarray, "s h w"]) -> float:
    flat = rearrange(speed, "s h w -> s (h w)")
    count = max(1, round(FASTEST * flat.shape[1]))
    fastest = np.partition(flat, -count, axis=1)[:, -count:].mean(axis=1)
    return float((fastest < STILL).mean())


def _interp_ratio(luma: UInt8[np.ndarray, "t h w"]) -> float:
    error = change = 0.0
    for t in range(1, len(luma) - 1, 2):
        before, middle, after = (luma[i].astype(np.float32) for i in (t - 1, t, t + 1))
        made = interpolate_middle(luma[t - 1], luma[t + 1], luma[t - 1], luma[t + 1])
        error += float(np.abs(made - middle).mean())
        change += float((np.abs(middle - before) + np.abs(middle - after)).mean()) / 2
    return error / change if change > 0 else math.nan


def interpolate_middle(
    luma_before: UInt8[np.ndarray, "h w"],
    luma_after: UInt8[np.ndarray, "h w"],
    before: UInt8[np.ndarray, "h w *c"],
    after: UInt8[np.ndarray, "h w *c"],
) -> Float[np.ndarray, "h w *c"]:
    """The frame half way between two: both warped along half their flow, and averaged."""
    dis = make_flow_finder()
    forward = dis.calc(luma_before, luma_after, None)
    backward = dis.calc(luma_after, luma_before, None)
    half = (forward - backward) / 4
    parts = [follow(frame.astype(np.float32), u) for frame, u in ((before, -half), (after, half))]
    return (parts[0] + parts[1]) / 2


def _jerk_ratio(tracks: Float[np.ndarray, "t g g 2"]) -> float:
    velocity = np.linalg.norm(np.diff(tracks, axis=0), axis=-1).mean()
    jerk = np.linalg.norm(np.diff(tracks, n=3, axis=0), axis=-1).mean()
    return float(jerk / velocity) if velocity > 0 else math.nan


def _sharpness(luma: UInt8[np.ndarray, "t h w"]) -> float:
    grey = luma.astype(np.float32)
    return float((np.diff(grey, axis=1) ** 2).mean() + (np.diff(grey, axis=2) ** 2).mean())


def _jump(luma: UInt8[np.ndarray, "t h w"]) -> float:
    change = _mean_change(luma)
    return float(change.max() / max(float(np.median(change)), 1.0))


def _mean_change(luma: UInt8[np.ndarray, "t h w"]) -> Float[np.ndarray, "s"]:
    return np.abs(np.diff(luma.astype(np.float32), axis=0)).mean(axis=(1, 2))


def _colour_drift(clip: UInt8[np.ndarray, "t h w c"]) -> float:
    colours = clip.mean(axis=(1, 2), dtype=np.float64)
    quarter = max(1, len(clip) // 4)
    drift = colours[-quarter:].mean(axis=0) - colours[:quarter].mean(axis=0)
    return float(np.sqrt((drift**2).mean()))


def _histogram(tracks: Float[np.ndarray, "t g g 2"]) -> Float[np.ndarray, "d"]:
    velocity = np.diff(tracks, axis=0)
    return np.concatenate([_oriented(velocity), _oriented(np.diff(velocity, axis=0))])


def _oriented(vectors: Float[np.ndarray, "s g g 2"]) -> Float[np.ndarray, "d"]:
    weight = np.log2(1 + 256 * np.linalg.norm(vectors, axis=-1))
    angle = np.arctan2(vectors[..., 1], vectors[..., 0])
    # Bins are centred on the axes: a camera that turns moves all points along one of them.
    orientation = np.round(angle * ORIENTATIONS / (2 * np.pi)).astype(int) % ORIENTATIONS
    votes = weight[..., None] * (orientation[..., None] == np.arange(ORIENTATIONS))
    pattern = "s (cy y) (cx x) k -> cy cx k"
    cells = [reduce(v, pattern, "mean", cy=2, cx=2) for v in np.array_split(votes, 2)]
    return np.stack(cells).ravel()
