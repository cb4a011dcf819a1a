"""Moving textures for tests of metrics: smooth noise under a camera whose path is known."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def film_path(
    path: Float[np.ndarray, "t 2"], size: int = 64, seed: int = 0
) -> UInt8[np.ndarray, "t h w c"]:
    """A camera that stands at `path[t]` (x, y in frame widths) before a wall of texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (64, 64, 3)).astype(np.float32)
    # Eight cells of texture per frame width, the same wall at every size.
    x, y = np.meshgrid((np.arange(size) + 0.5) / size, (np.arange(size) + 0.5) / size)
    frames = []
    for px, py in path:
        at = [((grid + p) * 8 + 28).astype(np.float32) for grid, p in ((x, px), (y, py))]
        frames.append(cv2.remap(coarse, at[0], at[1], cv2.INTER_CUBIC, None, cv2.BORDER_WRAP))
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def straight(speed: float, num_frames: int, angle: float = 0.0) -> Float[np.ndarray, "t 2"]:
    """Even motion of `speed` frame widths per frame; the picture moves against the camera."""
    direction = np.array([np.cos(angle), np.sin(angle)])
    return np.arange(num_frames)[:, None] * speed * direction


def walk_clips(
    count: int, num_frames: int = 8, size: int = 32, seed: int = 0
) -> UInt8[np.ndarray, "b t h w c"]:
    """Clips of smooth walks with a start, a speed and a bend of their own."""
    clips = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        heading = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.2, 0.2) * np.arange(num_frames)
        steps = rng.uniform(0.015, 0.05) * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        clips.append(film_path(np.cumsum(steps, axis=0), size, seed=int(rng.integers(2**31))))
    return np.stack(clips)
