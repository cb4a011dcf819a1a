"""`evaluate`: one model, run or folder against held-out clips, from words to report."""

from __future__ import annotations

from pathlib import Path

from vidiff.data.index import Index, Side
from vidiff.evaluation.crew import Crew
from vidiff.evaluation.report import Report
from vidiff.evaluation.scoring import EvalConfig, Progress, score_clips
from vidiff.evaluation.sources import (
    find_model,
    make_clips,
    number_sources,
    read_held_out,
)
from vidiff.pipeline import VideoDiffusion


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

    Under torchrun the processes share the sampling and measuring; each gets the report, which does
    not depend on their number, and the first one writes.

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
    model = find_model(generated)
    with Crew.of_launch() as crew:
        beside = None if model is not None or isinstance(generated, VideoDiffusion) else generated
        held_out = read_held_out(real, model, config, split=split, train=train, beside=beside)
        source = generated if model is None else model
        clips, origin = make_clips(source, held_out, config, crew)
        return score_clips(
            clips,
            held_out.clips,
            dt=held_out.dt,
            train=held_out.train,
            groups=number_sources(held_out.batch),
            out=out,
            config=config,
            progress=progress,
            origin=origin,
            crew=crew,
        )
