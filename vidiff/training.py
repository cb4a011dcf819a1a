"""One run, from a folder of clips to checkpoints: duties first, step last.

Position is truth. The clips, levels and noise of global position n are functions of (seed, n), so
a run is a function of (config, data, seed): not of workers, processes, micro-batches, or of where
it was interrupted. Only the network is given to Accelerate; the loss is a plain function around
it, and order, randomness and checkpoints are ours.
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from vidiff.data.export import write_sheet
from vidiff.data.index import Index
from vidiff.data.loading import Batches, load_batches, read_all
from vidiff.errors import NumbersError, Stopped
from vidiff.models.optimizers import learning_rate
from vidiff.pipeline import VideoDiffusion
from vidiff.preparation import Session, TrainConfig, prepare, read_config
from vidiff.records import Batch, Condition, draw_uniform
from vidiff.runs import checkpoint
from vidiff.runs.files import write_json
from vidiff.runs.tracking import Progress, Tracker, read_metrics
from vidiff.state import State

HELD_OUT_LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Noise levels of the held-out loss, one band each."""


@dataclass(frozen=True)
class Run:
    """What `train` leaves behind."""

    folder: Path
    steps: int
    weights_hash: str
    """SHA-256 of the raw weights."""
    checkpoint: Path


def train(
    config: TrainConfig | str | Path | None = None,
    *words: str,
    data: str | Path | None = None,
    out: str | Path | None = None,
    index: Index | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """Train, or go on training; the same call again resumes where the run stopped.

    Args:
        config: a configuration or the YAML file of one.
        words: `key=value` words on top of it.
        data: folder of clips, short for the word `data.root=...`.
        out: run folder, short for the word `out=...`.
        index: an index of the clips, if one was made already.
        say: where lines for a person go.

    Raises:
        RequestError: bad configuration, or the folder holds another run.
        DataError: the clips cannot be used.
        NumbersError: the numbers went bad; the last checkpoint is intact.
        Stopped: TERM, INT or USR1 came; the state is saved.
    """
    session = prepare(read_config(config, words, data, out), index, say)
    state, loop = session.state, session.config.train
    journal = _Journal(session)
    batches = load_batches(
        session.index.split("train"),
        session.config.seed,
        positions(session),
        workers=session.config.data.workers,
        cache_mb=session.config.data.cache_mb,
    )
    with _stop_signals() as asked, journal:
        while state.step < session.steps:
            journal.before_step()
            began = time.perf_counter()
            values, waited, stop = take_step(session, batches, bool(asked))
            journal.after_step(values, time.perf_counter() - began, waited)
            if stop or state.step % loop.checkpoint_every == 0:
                _save(session, journal, batches)
            if stop and state.step < session.steps:
                raise Stopped(
                    f"Stopped at step {state.step} of {session.steps}; the state is saved.",
                    "Run the same command again to go on.",
                )
        _save(session, journal, batches)
        journal.before_step()
    batches.close()
    session.accelerator.wait_for_everyone()
    digest = checkpoint.weights_hash(state.network.state_dict())
    return Run(
        session.folder,
        session.steps,
        digest,
        session.folder / "checkpoints" / f"step-{session.steps:08d}",
    )


def positions(session: Session) -> Iterator[list[int]]:
    """The global positions of each micro-batch of this process, from the current step on."""
    micro, parts = session.share
    size, rank = session.config.train.batch_size, session.accelerator.process_index
    for step in range(session.state.step, session.steps):
        first = step * size + rank * micro * parts
        for part in range(parts):
            yield list(range(first + part * micro, first + (part + 1) * micro))


def take_step(
    session: Session, batches: Iterator[Batch], stop: bool
) -> tuple[dict[str, float], float, bool]:
    """One optimizer step over the global batch.

    Returns:
        its numbers, alike on every process; seconds waited for data; whether any process was
        asked to stop.
    """
    config, state, accelerator = session.config, session.state, session.accelerator
    parts = session.share[1]
    share = config.train.image_share
    as_images = float(draw_uniform(config.seed, [state.step], "image mode")) < share
    session.prepared.train()
    state.clear()
    loss = error = torch.zeros((), device=accelerator.device)
    waited = 0.0
    for part in range(parts):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        last = part == parts - 1
        with nullcontext() if last else accelerator.no_sync(session.prepared):
            out = session.model.loss(
                batch,
                config.seed,
                config.train.batch_size,
                session.prepared,
                image_mode=as_images,
            )
            accelerator.backward(out.value / parts)
        loss = loss + out.value.detach() / parts
        error = error + out.error.mean() / parts
    norm = nn.utils.get_total_norm(
        [p.grad for p in state.network.parameters() if p.grad is not None]
    )
    numbers = torch.stack([loss, error, norm, norm.new_tensor(float(stop))])
    numbers = accelerator.reduce(numbers, "mean")
    values = dict(zip(("loss", "error", "grad_norm"), numbers[:3].tolist(), strict=True))
    values["lr"] = learning_rate(config.optimizer, state.step, session.steps)
    skipped = judge(state, numbers[:3], config.train.spike)
    if not skipped:
        state.move(values["lr"])
    state.step += 1
    return {**values, "skipped": float(skipped)}, waited, bool(numbers[3] > 0)


def judge(state: State, numbers: Tensor, spike: float) -> bool:
    """True when a step must be skipped: not finite, or a gradient far out of line.

    Args:
        numbers: loss, error and gradient norm.
        spike: how many running medians a gradient norm may reach.

    Raises:
        NumbersError: five steps in a row were not finite.
    """
    if not bool(torch.isfinite(numbers).all()):
        state.bad_in_a_row += 1
        if state.bad_in_a_row >= 5:
            raise NumbersError(
                f"The loss or its gradient was not finite in 5 steps up to step {state.step}.",
                "Lower optimizer.lr, or set train.precision=fp32; the last checkpoint is intact.",
            )
        return True
    state.bad_in_a_row = 0
    norm = float(numbers[2])
    usual = statistics.median(state.norms) if len(state.norms) >= 20 else float("inf")
    state.norms = [*state.norms, norm][-64:]
    return norm > spike * usual


def _save(session: Session, journal: _Journal, batches: Batches) -> None:
    """Publish a checkpoint; the log and the list of bad files are on the disk before it."""
    if journal.saved == session.state.step:
        return
    session.accelerator.wait_for_everyone()
    if session.main:
        journal.sync()
        if batches.quarantine:
            write_json(session.folder / "quarantine.json", batches.quarantine)
        folder = session.folder / "checkpoints"
        session.state.save(folder, session.about, session.config.train.keep)
    session.accelerator.wait_for_everyone()
    journal.saved = session.state.step


class _Journal:
    """What a run tells while it runs: metrics, timings, held-out losses, previews, progress.

    `metrics.jsonl` holds only what is a function of the run, so a resumed run writes the same
    lines; times, which are not, go to `timing.jsonl`.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.saved = session.state.step or -1
        step, folder = session.state.step, session.folder
        self.progress = Progress(session.steps, start=step, main=session.main)
        if not session.main:
            return
        self.metrics = Tracker.resume(folder / "metrics.jsonl", step)
        self.timing = Tracker.resume(folder / "timing.jsonl", step)
        self.last_held_out = _last_held_out(folder)
        held_out = session.index.split("test").require()
        self.checks = read_all(held_out, session.config.train.held_out_clips)

    def before_step(self) -> None:
        """Held-out loss and preview, when due."""
        session, loop = self.session, self.session.config.train
        step, last = session.state.step, session.state.step == session.steps
        if not session.main:
            return
        if (last or step % loop.held_out_every == 0) and step > self.last_held_out:
            values = held_out_losses(session.model, self.checks, session.config.seed)
            self.metrics.log(step, values)
            self.last_held_out = step
        path = session.folder / "samples" / f"step-{step:08d}.png"
        if step and (last or step % loop.preview_every == 0) and not path.exists():
            preview(session.model, path)

    def after_step(self, values: dict[str, float], spent: float, waited: float) -> None:
        """Progress, and a line of metrics when due."""
        session, loop = self.session, self.session.config.train
        step = session.state.step
        self.progress.update(step, clips=loop.batch_size, waited=waited, error=values["error"])
        if session.main and (step % loop.log_every == 0 or step == session.steps):
            self.metrics.log(step, values)
            self.timing.log(step, {"seconds": spent, "waited": waited})

    def sync(self) -> None:
        """Bring the log to the disk."""
        self.metrics.sync()

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        if self.session.main:
            self.metrics.close()
            self.timing.close()


def _last_held_out(folder: Path) -> int:
    lines = read_metrics(folder / "metrics.jsonl")
    return max((line["step"] for line in lines if "held_out" in line), default=-1)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when TERM, INT or USR1 arrives; the second one ends the process at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise SystemExit(128 + number)
        asked.append(number)

    kinds = [signal.SIGTERM, signal.SIGINT]
    kinds += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def held_out_losses(model: VideoDiffusion, clips: Batch, seed: int) -> dict[str, float]:
    """Weighted error at fixed levels with fixed noise on held-out clips: 1 means nothing learnt."""
    values = {}
    b, t = clips.frames.shape[:2]
    training = model.network.training
    model.network.eval()
    for level in HELD_OUT_LEVELS:
        flat = torch.full((b, 1, t, 1, 1), level)
        condition = Condition(floor=flat, start=flat, known=clips.frames)
        with torch.no_grad():
            errors = model.loss(clips, seed, condition=condition).error
        values[f"held_out.{level:g}"] = float(errors.mean())
    model.network.train(training)
    values["held_out"] = statistics.fmean(values.values())
    return values


def preview(model: VideoDiffusion, path: Path, count: int = 4) -> Path:
    """A sheet of samples from fixed seeds, one row a clip, with the weights as they are."""
    training = model.network.training
    frames = model.sample(seeds=range(count))
    model.network.train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sheet(path, frames, scale=max(1, 96 // model.size))
