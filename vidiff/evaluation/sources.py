"""Anything that holds or makes clips, brought to one form: runs, folders of any model, indexes.

A run's samples are compared with clips cut exactly as its training clips were. Two folders meet at
what both can show: the lower of their two frame rates, the smaller of their two sides, since frames
and pixels that were never there would count against whoever lacks them. What was done stands
in the notes of the protocol.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
from jaxtyping import UInt8

from vidiff.data.export import write_mp4
from vidiff.data.index import Index, Side, index_clips, scan
from vidiff.data.loading import read_all
from vidiff.data.video import probe, read_frames
from vidiff.errors import RequestError
from vidiff.evaluation.card import FILES, TENSORS
from vidiff.evaluation.scoring import EvalConfig, Origin
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Batch
from vidiff.runs.crew import Crew
from vidiff.saved import load

FrameArray = UInt8[np.ndarray, "b t h w c"]

DEFAULT_SIZE = 64
SAMPLES_AT_ONCE = 16
"""Clips sampled together. Fixed, because the last digit of a sample may depend on it."""


@dataclass(frozen=True)
class HeldOut:
    """The real side of an evaluation, read."""

    index: Index
    batch: Batch
    train: FrameArray | None

    @property
    def clips(self) -> FrameArray:
        """The held-out clips."""
        return self.batch.frames.numpy()

    @property
    def dt(self) -> float:
        """Seconds between frames, the median over clips."""
        return float(self.batch.dt.median())


def read_held_out(
    real: Index | str | Path,
    model: VideoDiffusion | None,
    config: EvalConfig,
    *,
    split: Side = "test",
    train: Index | None = None,
    beside: str | Path | None = None,
) -> HeldOut:
    """The held-out clips, cut like the model's, or like two folders can both be.

    Args:
        real: a folder, split as the model's was, or an index of one side of one.
        model: whose clips are to be compared, if a model makes them.
        config: counts, and form where neither model nor index has one.
        split: side of the folder; an index says its own.
        train: training clips for the copy check; the folder's other side by default.
        beside: folder of the clips to be compared, if a folder holds them.

    Raises:
        DataError: nothing that can be read.
    """
    if isinstance(real, Index):
        index = real
    else:
        whole = index_real(real, model, config, beside)
        index = whole.split(split)
        train = whole.split("train") if train is None and split == "test" else train
    held_out = read_all(index, 2 * config.num_clips, config.seed)
    known = None
    if train is not None and train.num_windows:
        known = read_all(train, 4 * config.num_clips, config.seed).frames.numpy()
    return HeldOut(index, held_out, known)


def find_model(source: VideoDiffusion | str | Path) -> VideoDiffusion | None:
    """The model of a run; None for a folder of clips.

    Raises:
        RequestError: neither.
    """
    if isinstance(source, VideoDiffusion):
        return source
    folder = Path(source)
    if not folder.is_dir():
        raise RequestError(
            f"{source} is neither a run nor a folder of clips.",
            "Name a folder that `vidiff train` wrote, or one with video files.",
        )
    if (folder / "checkpoints").is_dir() or (folder / "manifest.json").is_file():
        return load(folder)
    return None


def make_clips(
    source: VideoDiffusion | str | Path, held_out: HeldOut, config: EvalConfig, crew: Crew
) -> tuple[FrameArray, Origin]:
    """As many clips as the held-out side can meet: sampled, or read from a folder.

    Returns:
        clips: uint8 `b t h w c`.
        origin: how they got here.
    """
    model = find_model(source)
    split = held_out.index.digest
    if model is None:
        form = held_out.index.config
        index = index_clips(
            str(source), num_frames=form.num_frames, size=form.size, fps=1 / held_out.dt
        )
        index = _without_previews(index)
        clips = read_all(index, config.num_clips, config.seed).frames.numpy()
        return clips, Origin(FILES, split, tuple(_describe(index, held_out)))
    count = min(config.num_clips, len(held_out.batch))
    chunks = [range(i, min(i + SAMPLES_AT_ONCE, count)) for i in range(0, count, SAMPLES_AT_ONCE)]
    parts = crew.map(lambda seeds: _sample(model, seeds, config), chunks)
    codec = FILES if config.codec == "mp4" else TENSORS
    return np.concatenate(parts), Origin(codec, split)


def load_folder(
    folder: str | Path,
    num_frames: int = 16,
    size: int = 64,
    fps: float | None = None,
    *,
    count: int = 256,
    seed: int = 0,
) -> tuple[FrameArray, float]:
    """Read evenly spread windows of the videos in a folder, whoever made them.

    Args:
        folder: scanned like training data; nothing is held out of it.
        num_frames: frames per clip.
        size: side of the centre square in pixels.
        fps: frames per second; None keeps the files' own rate.
        count: most clips.
        seed: chooses the windows.

    Returns:
        clips: uint8 `b t h w c`.
        dt: seconds between frames, the median over clips.

    Raises:
        DataError: nothing usable in the folder.
    """
    # A generated clip that jumps, or that comes twice, is to be scored as it is.
    as_it_is = {"cuts": False, "duplicates": False}
    index = index_clips(folder, num_frames=num_frames, size=size, fps=fps, **as_it_is)
    batch = read_all(_without_previews(index), count, seed)
    return batch.frames.numpy(), float(batch.dt.median())


def number_sources(batch: Batch) -> list[int]:
    """Source videos as numbers, so that intervals go by videos and not by clips."""
    numbers = {source: i for i, source in enumerate(dict.fromkeys(batch.sources))}
    return [numbers[source] for source in batch.sources]


def pass_through_mp4(clips: FrameArray, fps: float, crf: int = 16) -> FrameArray:
    """Clips as a player would see them: through the package's own H.264 encoder and back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        out = []
        for clip in clips:
            write_mp4(path, clip, Fraction(fps).limit_denominator(1001), crf=crf)
            frames = read_frames(path, probe(path).pts_seconds)
            out.append(frames[:, : clip.shape[1], : clip.shape[2]])
    return np.stack(out)


def _sample(model: VideoDiffusion, seeds: Sequence[int], config: EvalConfig) -> FrameArray:
    clips = model.sample(seeds=seeds, config=config.sample, chunk=SAMPLES_AT_ONCE).numpy()
    return pass_through_mp4(clips, model.fps) if config.codec == "mp4" else clips


def _without_previews(index: Index) -> Index:
    """A GIF beside a video of the same name is its preview, not another clip."""
    stems = {Path(e.path).with_suffix("") for e in index.entries if not e.path.endswith(".gif")}
    kept = [
        e
        for e in index.entries
        if not (e.path.endswith(".gif") and Path(e.path).with_suffix("") in stems)
    ]
    return replace(index, entries=tuple(kept)).require()


def index_real(
    root: str | Path,
    model: VideoDiffusion | None,
    config: EvalConfig,
    beside: str | Path | None = None,
) -> Index:
    """Both sides of a folder of real clips, in the form of a model, or of two folders."""
    if model is not None and model.data is not None:
        return scan(model.data.model_copy(update={"root": str(root)}), model.seed).require()
    if model is not None:
        return index_clips(root, num_frames=model.num_frames, size=model.size, fps=config.fps)
    roots = [root] if beside is None else [root, beside]
    forms = [_form(index_clips(r, num_frames=2, size=8)) for r in roots]
    size = config.size or min(DEFAULT_SIZE, *(side for side, _ in forms))
    rates = {round(rate, 3) for _, rate in forms}
    fps = config.fps or (min(rates) if len(rates) > 1 else None)
    return index_clips(root, num_frames=config.num_frames, size=size, fps=fps)


def _form(index: Index) -> tuple[int, float]:
    """The shorter side and the frame rate of an ordinary file of a folder."""
    files = index.usable
    side = median(min(e.width, e.height) for e in files)
    return int(side), float(median(e.fps for e in files))


def _describe(index: Index, held_out: HeldOut) -> list[str]:
    sides = {"generated": index, "held-out": held_out.index}
    form, rate = held_out.index.config, 1 / held_out.dt
    out = []
    for name, side in sides.items():
        pixels, fps = _form(side)
        if pixels != form.size:
            verb = "reduced" if pixels > form.size else "enlarged"
            out.append(f"The {name} files, {pixels} pixels on their shorter side, were {verb} to "
                       f"{form.size}.")  # fmt: skip
        if abs(fps - rate) > 0.01 * rate:
            out.append(f"The {name} files, {fps:.4g} frames a second, were read at {rate:.4g}.")
    return out
