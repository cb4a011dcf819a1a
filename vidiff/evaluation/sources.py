"""`evaluate`: anything that holds or makes clips on either side, brought to one form and scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vidiff.data.index import Index, Side, index_clips, scan
from vidiff.data.loading import read_all
from vidiff.errors import RequestError
from vidiff.evaluation.report import Report
from vidiff.evaluation.scoring import EvalConfig, Progress, score_clips
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Batch
from vidiff.saved import load

FrameArray = UInt8[np.ndarray, "b t h w c"]


def evaluate(
    generated: VideoDiffusion | str | Path,
    real: Index | str | Path,
    *,
    split: Side = "test",
    train: Index | None = None,
    config: EvalConfig | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score a model, a run, or a folder of clips from any model, against real clips.

    Args:
        generated: a model or a run folder, which is sampled; or a folder of clips, read as it is.
        real: a folder of real clips, split as the model's was; or an index of one side of one.
        split: side of the folder; an index says its own.
        train: training clips for the copy check; those of the folder's other side by default.
        config: see `EvalConfig`; its `num_frames`, `size` and `fps` hold where no model and no
            index says otherwise.
        out: folder for `report.json` and `report.html`; None writes nothing.
        progress: called with the share done, 0 to 1, and what is being measured.

    Raises:
        RequestError: neither a run nor a folder.
        DataError: too few clips, or none that can be read.
    """
    config = config or EvalConfig()
    model = _as_model(generated)
    if isinstance(real, Index):
        index = real
    else:
        whole = _index(real, model, config)
        index = whole.split(split)
        train = whole.split("train") if train is None and split == "test" else train
    count = config.num_clips
    held_out = read_all(index, 2 * count, config.seed)
    if model is not None:
        clips = model.sample(seeds=range(count), chunk=16).numpy()
    else:
        frames, size = index.config.num_frames, index.config.size
        fps = 1 / _spacing(held_out)
        clips, _ = load_folder(str(generated), frames, size, fps, count=count, seed=config.seed)
    known = None
    if train is not None and train.num_windows:
        known = read_all(train, 4 * count, config.seed).frames.numpy()
    return score_clips(
        clips,
        held_out.frames.numpy(),
        dt=_spacing(held_out),
        train=known,
        groups=number_sources(held_out),
        out=out,
        config=config,
        progress=progress,
    )


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
    index = index_clips(folder, num_frames=num_frames, size=size, fps=fps)
    batch = read_all(_without_previews(index), count, seed)
    return batch.frames.numpy(), _spacing(batch)


def _without_previews(index: Index) -> Index:
    """A GIF beside a video of the same name is its preview, not another clip."""
    stems = {Path(e.path).with_suffix("") for e in index.entries if not e.path.endswith(".gif")}
    kept = [
        e
        for e in index.entries
        if not (e.path.endswith(".gif") and Path(e.path).with_suffix("") in stems)
    ]
    return replace(index, entries=tuple(kept)).require()


def _as_model(source: VideoDiffusion | str | Path) -> VideoDiffusion | None:
    """The model of a run; None for a folder of clips."""
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


def _index(root: str | Path, model: VideoDiffusion | None, config: EvalConfig) -> Index:
    """The real clips, cut like the model's."""
    if model is not None and model.data is not None:
        return scan(model.data.model_copy(update={"root": str(root)}), model.seed).require()
    frames, size = config.num_frames, config.size
    if model is not None:
        frames, size = model.num_frames, model.size
    return index_clips(root, num_frames=frames, size=size, fps=config.fps).require()


def _spacing(batch: Batch) -> float:
    return float(batch.dt.median())


def number_sources(batch: Batch) -> list[int]:
    """Source videos as numbers, so that intervals go by videos and not by clips."""
    numbers = {source: i for i, source in enumerate(dict.fromkeys(batch.sources))}
    return [numbers[source] for source in batch.sources]
