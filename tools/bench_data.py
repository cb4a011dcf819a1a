"""What a random 16-frame window costs, reader by reader, in CPU milliseconds of one run.

    python tools/bench_data.py --folder /tmp/bench_data

Writes H.264 files (3 B-frames, key frames every 12 to 250 frames, ten seconds at 30 a second; a
panning 1/f texture, discs, grain, one cut) into the folder, or takes those that are there, and
reads the same windows by every way in turn, round after round, so that what else runs on the
machine meets all of them alike. Stride 1 to 4, random start, 128 pixels wide. Times are those of
the CPU, all threads together; a ratio is to decord opened for each clip.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from jaxtyping import UInt8

from vidiff.data import video
from vidiff.data.cache import RawCache
from vidiff.data.clips import decode
from vidiff.data.index import DataConfig, scan
from vidiff.data.preparing import prepare_cache
from vidiff.data.verdict import cover_size
from vidiff.runs.tracking import read_metrics
from vidiff.training import train

FRAMES = 300
FPS = 30
GOPS = (12, 30, 60, 125, 250)
SIZE = (96, 128)

Read = Callable[[Path, np.ndarray], UInt8[np.ndarray, "t h w c"]]


def cpu_seconds() -> float:
    """User and system time of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def scene(seed: int, size: tuple[int, int]) -> UInt8[np.ndarray, "t h w c"]:
    """A 1/f texture that pans, three discs that drift over it, grain, and one cut."""
    rng = np.random.default_rng(seed)
    h, w = size
    out = np.empty((FRAMES, h, w, 3), np.uint8)
    cut = int(rng.integers(FRAMES // 4, 3 * FRAMES // 4))
    ys, xs = np.mgrid[:h, :w]
    for first, last in ((0, cut), (cut, FRAMES)):
        ground = texture(rng, (h, 2 * w))
        place, speed = rng.uniform(0, 1, (3, 2)) * (h, w), rng.normal(0, h / 90, (3, 2))
        colours, pan = rng.integers(40, 255, (3, 3)), rng.uniform(0.5, 2) * w / 320
        for k in range(first, last):
            frame = np.roll(ground, -int(k * pan), axis=1)[:, :w].astype(np.int16)
            for spot, colour in zip((place + k * speed) % (h, w), colours, strict=True):
                frame[(ys - spot[0]) ** 2 + (xs - spot[1]) ** 2 < (h / 9) ** 2] = colour
            frame += rng.integers(-3, 4, (h, w, 1), dtype=np.int16)
            out[k] = frame.clip(0, 255)
    return out


def texture(rng: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"]:
    """Noise whose amplitude falls as one over frequency, periodic, in three colours."""
    fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / max(size))
    phase = np.exp(2j * np.pi * rng.uniform(size=(3, *falling.shape)))
    waves = np.fft.irfft2(falling * phase, s=size)
    waves = (waves / waves.std() * 40 + 120).clip(0, 255)
    return np.moveaxis(waves, 0, -1).astype(np.uint8)


def write_files(folder: Path, size: tuple[int, int], count: int) -> None:
    """The files of one size that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        path = folder / f"{k:03d}.mp4"
        if path.exists():
            continue
        part = path.with_suffix(".part")
        options = {"bf": "3", "g": str(GOPS[k % len(GOPS)]), "preset": "veryfast", "crf": "20"}
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for image in scene(k, size):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        part.rename(path)


def windows(folder: Path, count: int) -> list[tuple[Path, np.ndarray]]:
    """Random windows of 16 frames, stride 1 to 4, the times asked for in mid-frame."""
    paths = sorted(folder.glob("*.mp4"))
    rng = np.random.default_rng(7)
    chosen = []
    for k in range(count):
        stride = int(rng.integers(1, 5))
        start = int(rng.integers(0, FRAMES - 15 * stride))
        times = (start + stride * np.arange(16) + 0.5) / FPS
        chosen.append((paths[k % len(paths)], times))
    return chosen


def decord_as_found(threads: int) -> Read:
    """decord as its users open it for each clip: the size given, indices from the mean rate."""
    import decord

    def read(path: Path, times: np.ndarray) -> UInt8[np.ndarray, "t h w c"]:
        reader = decord.VideoReader(str(path), width=SIZE[1], height=SIZE[0], num_threads=threads)
        return reader.get_batch((times * FPS).astype(int).tolist()).asnumpy()

    return read


def by(reader: video.Reader) -> Read:
    """vidiff's own door, by one reader."""
    return lambda path, times: video.read_frames(path, times, SIZE, reader)


def default(folder: Path) -> Read:
    """vidiff's own door, by the reader that the index chose for each file."""
    chosen = {e.path: e.reader for e in scan(DataConfig(root=str(folder), size=96)).usable}
    print(f"  readers chosen: { {r: list(chosen.values()).count(r) for r in chosen.values()} }")
    return lambda path, times: video.read_frames(path, times, SIZE, chosen[path.name])


def cached(folder: Path) -> Read:
    """vidiff's prepared cache; making it is not counted."""
    index = scan(DataConfig(root=str(folder), size=SIZE[0], held_out=0, cuts=False))
    out = folder.parent / f"{folder.name}-cache"
    prepare_cache(index, out, workers=1)
    fetch = RawCache(out, decode)
    entries = {e.path: e for e in index.usable}

    def read(path: Path, times: np.ndarray) -> UInt8[np.ndarray, "t h w c"]:
        entry = entries[path.name]
        # The cache keeps the picture's shape, so it is a little wider here.
        return fetch(index, entry, times, cover_size(entry, SIZE[0]))

    return read


def waiting(folder: Path, steps: int) -> None:
    """Prints the share of a tiny network's CPU training that waits for two warm workers."""
    words = [f"data.root={folder}", f"out={folder.parent / 'run'}", "data.workers=2",
             "data.size=48", "model.size=tiny", "model.patch=4", f"train.steps={steps}",
             "data.cuts=false", "train.log_every=1", "train.calibration_clips=16",
             "train.held_out_clips=4", "train.threads=1"]  # fmt: skip
    shutil.rmtree(folder.parent / "run", ignore_errors=True)
    train(None, *words, say=lambda text: None)
    lines = read_metrics(folder.parent / "run" / "timing.jsonl")[steps // 3 :]
    seconds, waited = (sum(line[key] for line in lines) for key in ("seconds", "waited"))
    longest = max(line["waited"] for line in lines)
    print(f"Two warm workers, {len(lines)} steps of a tiny network in {seconds:.1f} s: ", end="")
    print(f"{waited / seconds:.2%} waited for data, at most {longest:.3f} s")


def measure(ways: dict[str, Read], chosen: list[tuple[Path, np.ndarray]], rounds: int) -> None:
    """Prints CPU milliseconds a clip: the median over rounds of the mean over windows."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            began = cpu_seconds()
            for path, times in chosen:
                read(path, times)
            spent[name].append((cpu_seconds() - began) * 1000 / len(chosen))
    base = statistics.median(spent["decord, opened per clip"])
    for name, values in spent.items():
        each = statistics.median(values)
        print(f"  {name:34} {each:8.2f} ms  {each / base:6.3f}  ({base / each:.1f}x)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files lie")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="of the training that may wait")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, size, count in (("240p", (240, 320), 50), ("720p", (720, 1280), 12)):
        folder = args.folder / name
        write_files(folder, size, count)
        chosen = windows(folder, args.windows)
        print(f"{name}: {count} files, {len(chosen)} windows, {args.rounds} rounds")
        ways = {
            "decord, opened per clip": decord_as_found(0),
            "decord, one thread": decord_as_found(1),
            "vidiff by decord": by("decord"),
            "vidiff by PyAV": by("pyav"),
            "vidiff, as the index chose": default(folder),
            "vidiff, prepared cache": cached(folder),
        }
        measure(ways, chosen, args.rounds)
    waiting(args.folder / "240p", args.steps)


if __name__ == "__main__":
    main()
