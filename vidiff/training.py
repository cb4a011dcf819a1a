"""One run, from a folder of clips to checkpoints: duties first, step last.

Position is truth. The clips, levels and noise of global position n are functions of (seed, n), so
a run is a function of (config, data, seed): not of workers, processes, micro-batches, or of where
it was interrupted. Only the network is given to Accelerate; the loss is a plain function around
it, and order, randomness and checkpoints are ours.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vidiff.data.index import Index
from vidiff.data.loading import Batches, load_batches
from vidiff.errors import NumbersError, Stopped
from vidiff.journal import Journal
from vidiff.models.optimizers import learning_rate
from vidiff.preparation import Session, prepare
from vidiff.records import Batch, draw_uniform
from vidiff.runs import checkpoint
from vidiff.runs.files import write_json
from vidiff.settings import TrainConfig, read_config
from vidiff.state import State
from vidiff.stopping import stop_signals


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
    journal = Journal(session)
    batches = load_batches(
        session.index.split("train"),
        session.config.seed,
        positions(session),
        workers=session.config.data.workers,
        cache_mb=session.config.data.cache_mb,
    )
    with stop_signals() as asked, journal:
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


def _save(session: Session, journal: Journal, batches: Batches) -> None:
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
