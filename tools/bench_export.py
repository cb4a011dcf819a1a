"""CPU time of encoding a clip, against imageio with the same encoder, preset and crf.

    python tools/bench_export.py [--rounds 5]

imageio runs FFmpeg in a process of its own (`pip install imageio-ffmpeg`), which counts; ours reads
back what it wrote, which counts too. Medians over rounds that take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
from jaxtyping import UInt8

from vidiff.data.export import write_mp4

SHAPES = ((16, 64, 64), (16, 128, 128), (64, 256, 256), (64, 512, 512))


def main() -> None:
    """Print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("frames x h x w     ours    imageio   ratio   (CPU seconds, medians)")
    with tempfile.TemporaryDirectory() as folder:
        for shape in SHAPES:
            clip, path = moving(*shape), Path(folder) / "clip.mp4"
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(cpu(lambda c=clip, p=path: write_mp4(p, c, 24, crf=16)))
                theirs.append(cpu(lambda c=clip, p=path: peer(p, c)))
            a, b = statistics.median(ours), statistics.median(theirs)
            name = " x ".join(map(str, shape))
            print(f"{name:16s} {a:7.3f} {b:9.3f} {a / b:8.2f}")


def peer(path: Path, clip: UInt8[np.ndarray, "t h w c"]) -> None:
    """The same encoder settings through imageio."""
    options = ["-crf", "16", "-preset", "medium", "-threads", "1"]
    with imageio.get_writer(
        path, fps=24, codec="libx264", quality=None, pixelformat="yuv420p",
        macro_block_size=2, output_params=options,
    ) as writer:  # fmt: skip
        for frame in clip:
            writer.append_data(frame)


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of a call, its child processes included."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def moving(t: int, h: int, w: int) -> UInt8[np.ndarray, "t h w c"]:
    """Smooth texture that slides, with a little grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    k = np.arange(t)[:, None, None]
    planes = [128 + 90 * np.sin((x * a + y * b + 3 * k) / 17) for a, b in ((1, 2), (2, 1), (1, 1))]
    return (np.stack(planes, -1) + rng.normal(0, 3, (t, h, w, 3))).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
