"""How many planted near duplicates are found, and how many films are wrongly called the same.

    python tools/bench_duplicates.py FOLDER [--films 100]

Each film of FOLDER (which must hold no near duplicates of its own) gets five copies, written as
real files: re-encoded at two thirds of the size and CRF 34, cropped to 75 to 95 % of each side at
a random place, mirrored, its first 10 to 40 % cut away, and all of these at once.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vidiff.data.duplicates import find_pairs, group_films
from vidiff.data.index import index_clips
from vidiff.data.scanning import find_facts
from vidiff.data.video import probe, read_frames, write_mp4
from vidiff.data.walk import walk

KINDS = ("encoded", "cropped", "mirrored", "shifted", "all")

Frames = UInt8[np.ndarray, "t h w c"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--films", type=int, default=100)
    args = parser.parse_args()
    films = index_clips(args.folder, num_frames=2, duplicates=False, cuts=False).usable
    chosen = random.Random(0).sample(films, min(args.films, len(films)))
    with tempfile.TemporaryDirectory() as place:
        for number, film in enumerate(chosen):
            plant(Path(args.folder) / film.path, Path(place), f"{number:05d}")
        report(Path(place))


def plant(source: Path, place: Path, name: str) -> None:
    """Writes a film and its five copies."""
    info = probe(source)
    frames = read_frames(source, info.pts_seconds + 0.3 / info.fps)
    write_mp4(place / f"{name}.mp4", frames, info.fps, preset="veryfast")
    rng = random.Random(name)
    for kind in KINDS:
        copy = change(frames, kind, rng)
        crf = 34 if kind in ("encoded", "all") else 16
        write_mp4(place / f"{name}~{kind}.mp4", copy, info.fps, crf=crf, preset="veryfast")


def change(frames: Frames, kind: str, rng: random.Random) -> Frames:
    """One kind of copy."""
    t, h, w, _ = frames.shape
    if kind in ("mirrored", "all"):
        frames = frames[:, :, ::-1]
    if kind in ("cropped", "all"):
        share = rng.uniform(0.75, 0.95)
        high, wide = int(h * share) // 2 * 2, int(w * share) // 2 * 2
        top, left = rng.randrange(h - high + 1), rng.randrange(w - wide + 1)
        frames = frames[:, top : top + high, left : left + wide]
    if kind in ("shifted", "all"):
        frames = frames[int(t * rng.uniform(0.1, 0.4)) :]
    if kind in ("encoded", "all"):
        side = (max(w // 3, 16) * 2, max(h // 3, 16) * 2)
        frames = np.stack([cv2.resize(f, side, interpolation=cv2.INTER_AREA) for f in frames])
    return np.ascontiguousarray(frames)


def report(place: Path) -> None:
    """Groups found against groups planted."""
    facts = find_facts(str(place), walk(place)[0])
    names = sorted(name for name in facts if not facts[name][1].reason)
    sources = [name[:5] for name in names]
    began = time.process_time()
    pairs = find_pairs([facts[name][1].traits for name in names])
    spent = time.process_time() - began
    groups = group_films(len(names), pairs)
    for kind in KINDS:
        copies = [k for k, name in enumerate(names) if f"~{kind}." in name]
        hits = sum(groups[k] == groups[names.index(f"{sources[k]}.mp4")] for k in copies)
        print(f"{kind:9} {hits} of {len(copies)} grouped with their source")
    false = sum(sources[p.whole] != sources[p.part] for p in pairs)
    print(f"{len(pairs)} pairs, {false} false; {len(names)} films in {spent:.0f} s of CPU time")


if __name__ == "__main__":
    main()
