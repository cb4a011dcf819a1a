"""`evaluate` and `compare`: runs or folders against held-out clips, from words to report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidiff.data.index import Index, Side
from vidiff.errors import RequestError
from vidiff.evaluation.comparing import Comparison, compare_reports, write_comparison
from vidiff.evaluation.pages import write_paired, write_robustness
from vidiff.evaluation.pairing import PairConfig, PairedReport, score_pairs, score_task
from vidiff.evaluation.report import Report
from vidiff.evaluation.robustness import Robustness, measure_robustness
from vidiff.evaluation.scoring import EvalConfig, Progress, score_clips
from vidiff.evaluation.sources import (
    find_model,
    index_real,
    make_clips,
    number_sources,
    read_held_out,
)
from vidiff.metrics.published import Published, measure_published
from vidiff.pipeline import VideoDiffusion
from vidiff.runs.crew import Crew


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


def compare(
    sources: Sequence[str | Path],
    real: Index | str | Path,
    *,
    split: Side = "test",
    config: EvalConfig | None = None,
    out: str | Path | None = None,
) -> Comparison:
    """Score several runs or folders against the same clips and give their differences.

    Where a folder of files is among them, samples of the runs pass through the MP4 encoder too, so
    that no side is nearer to real for having been spared it.

    Args:
        sources: runs or folders, two or more; each gets a sub-folder of `out` for its report.
        real, split, config: as for `evaluate`.
        out: folder for `compare.json` and `compare.html`; None writes nothing.

    Raises:
        RequestError: a name twice, or results of different protocols, naming the difference.
    """
    config = config or EvalConfig()
    names = [str(source) for source in sources]
    if len(set(names)) < max(2, len(names)):
        raise RequestError(f"--compare needs two different sources; given: {', '.join(names)}.")
    models = [find_model(source) for source in sources]
    if None in models:
        config = config.model_copy(update={"codec": "mp4"})
    form = next((model for model in models if model is not None), None)
    reports = {}
    with Crew.of_launch() as crew:
        for number, (source, model) in enumerate(zip(sources, models, strict=True), 1):
            folder = None if out is None else Path(out) / f"{number}-{Path(source).name}"
            side, train = real, None
            if model is None and not isinstance(real, Index):
                # Files are read in the form of the models beside them.
                whole = index_real(real, form, config, None if form else sources[0])
                side = whole.split(split)
                train = whole.split("train") if split == "test" else None
            reports[str(source)] = evaluate(
                source if model is None else model, side, split=split, train=train, config=config,
                out=folder,
            )  # fmt: skip
        comparison = compare_reports(reports)
        if out is not None and crew.leads:
            write_comparison(comparison, out)
    return comparison


def evaluate_task(
    model: VideoDiffusion | str | Path,
    real: Index | str | Path,
    task: str,
    *,
    split: Side = "test",
    config: PairConfig | None = None,
    out: str | Path | None = None,
) -> PairedReport:
    """Let a model answer a task on held-out clips, beside the trivial answers.

    Args:
        model: a model or a run folder; or a folder of clips for `pairs`, which are then held
            against the files of the same place in `real`.
        real: a folder of real clips, split as the model's was; or an index of one side of one.
        task: see `pairing`.
        split: side of the folder; an index says its own.
        config: see `PairConfig`.
        out: folder for `report.json` and `report.html`; None writes nothing.

    Raises:
        RequestError: no run, or a task without room to judge.
        DataError: pairs that do not agree.
    """
    config = config or PairConfig()
    found = find_model(model)
    with Crew.of_launch() as crew:
        if found is None:
            # Reading doubles the real side for floors; pairs need as many of both.
            half = config.model_copy(update={"num_clips": max(1, config.num_clips // 2)})
            held_out = read_held_out(real, None, half, split="all", beside=str(model))
            every = config.model_copy(update={"num_clips": 2 * half.num_clips})
            clips, _ = make_clips(str(model), held_out, every, crew)
            report = score_pairs(clips, held_out, config)
        else:
            held_out = read_held_out(real, found, config, split=split)
            report = score_task(found, task, held_out, config, crew)
        if out is not None and crew.leads:
            write_paired(report, out)
        return report


def evaluate_robustness(
    model: VideoDiffusion | str | Path,
    real: str | Path,
    *,
    split: Side = "test",
    config: EvalConfig | None = None,
    out: str | Path | None = None,
) -> Robustness:
    """Quality under rates, lengths, sizes, noise and conditions that a model was not trained on.

    Args:
        model: a model or a run folder.
        real: a folder of real clips, split as the model's was.
        split: side of the folder.
        config: see `EvalConfig`.
        out: folder for `robustness.json` and `robustness.html`; None writes nothing.

    Raises:
        RequestError: not a run: a folder of clips cannot be asked for others.
    """
    config = config or EvalConfig(num_clips=64)
    found = find_model(model)
    if found is None:
        raise RequestError(
            f"{model} is a folder of clips; --robustness samples new ones.", "Name a run."
        )
    with Crew.of_launch() as crew:
        index = read_held_out(real, found, config, split=split).index
        table = measure_robustness(found, index, config, crew)
        if out is not None and crew.leads:
            write_robustness(table, out)
        return table


def evaluate_published(
    generated: VideoDiffusion | str | Path,
    real: Index | str | Path,
    name: str,
    *,
    weights: Path | None = None,
    download: bool = False,
    split: Side = "test",
    config: EvalConfig | None = None,
) -> Published:
    """A distance of other people, by their protocol and with their network, or not at all.

    Args:
        generated, real, split, config: as for `evaluate`.
        name: `fvd`, `fvd2048_16f`, `fid`, `kid`, ... (`metrics.published`).
        weights: file of the network that the protocol is defined with.
        download: fetch it from its authors' source.

    Raises:
        RequestError: unknown name, another network, or clips that the protocol excludes.
    """
    config = config or EvalConfig()
    model = find_model(generated)
    with Crew.of_launch() as crew:
        beside = None if model is not None else str(generated)
        held_out = read_held_out(real, model, config, split=split, beside=beside)
        clips, _ = make_clips(generated if model is None else model, held_out, config, crew)
        n = min(len(clips), len(held_out.clips), config.num_clips)
        real_clips = held_out.clips[:n]
        return measure_published(name, clips[:n], real_clips, weights=weights, download=download)
