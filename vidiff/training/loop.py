"""One run, from a folder of clips to checkpoints: duties first, step last.

Position is truth. The clips, levels and noise of global position n are functions of (seed, n), so
a run is a function of (config, data, seed): not of workers, processes, micro-batches, or of where
it was interrupted. Only the network is given to Accelerate; the loss is a plain function around
it, and order, randomness and checkpoints are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn

from vidiff.data.index import Index
from vidiff.data.loading import Batches, load_batches
from vidiff.errors import RequestError, Stopped
from vidiff.models.dropout import key_dropout
from vidiff.models.optimizers import learning_rate
from vidiff.models.sharding import keep_gradients, whole
from vidiff.records import draw_uniform
from vidiff.runs import checkpoint
from vidiff.runs.files import read_json, write_json
from vidiff.training.journal import Journal
from vidiff.training.planning import is_out_of_memory
from vidiff.training.preparation import Session, prepare
from vidiff.training.recovery import go_back, judge
from vidiff.training.settings import TrainConfig, read_config
from vidiff.training.stopping import stop_signals

BAN_LAG = 16
"""Steps between the first death that a file causes and its ban, on every process alike."""


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
    with stop_signals() as asked:
        session = prepare(read_config(config, words, data, out), index, say)
        with Journal(session) as journal:
            _run(session, journal, asked)
    session.accelerator.wait_for_everyone()
    return Run(
        session.folder,
        session.steps,
        checkpoint.weights_hash(session.state.weights()),
        session.folder / "checkpoints" / f"step-{session.steps:08d}",
    )


def _run(session: Session, journal: Journal, asked: list[int]) -> None:
    """The loop: duties, step, record; a checkpoint when due, when asked to stop, and at the end."""
    state, loop = session.state, session.config.train
    batches = _batches(session)
    while state.step < session.steps:
        journal.before_step()
        began = time.perf_counter()
        try:
            values, waited, stop = take_step(session, batches, bool(asked))
        except (RuntimeError, MemoryError) as error:
            journal.progress.say(make_room(session, error))
            batches.close()
            batches = _batches(session)
            continue
        journal.after_step(values, time.perf_counter() - began, waited)
        due = state.step % loop.checkpoint_every == 0 and not state.bad_in_a_row
        if state.bad_in_a_row >= loop.patience:
            batches.close()
            journal.rewind(go_back(session))
            batches = _batches(session)
            _save(session, journal, batches)
        elif stop or due:
            _save(session, journal, batches)
        if stop and state.step < session.steps:
            batches.close()
            raise Stopped(
                f"Stopped at step {state.step} of {session.steps}; the state is saved.",
                "Run the same command again to go on.",
            )
    _save(session, journal, batches)
    journal.before_step()
    batches.close()


def make_room(session: Session, error: Exception) -> str:
    """After memory ran out in a step, the next smaller way to take it; what changes, in a sentence.

    Raises:
        the error itself, where it is another one, or nothing smaller is left.
        RequestError: on several processes, which must all begin anew.
    """
    fit, state = session.fit.smaller(), session.state
    if not is_out_of_memory(error) or fit is None or state.moving:
        raise error
    state.clear()
    session.take(fit)
    how = f"{fit.micro} clip(s) at once" + (", blocks recomputed" if fit.checkpointing else "")
    what = f"Memory ran out in step {state.step + 1}; from now on {how}, the batch as before."
    if session.processes > 1:
        raise RequestError(what, "Run the same command again: it starts with this plan.") from error
    if session.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    return what


def _batches(session: Session) -> Batches:
    """The batches of this process, from the current step on."""
    config = session.config
    stored = session.folder / "quarantine.json"
    return load_batches(
        session.index.split("train"),
        config.seed,
        positions(session),
        workers=config.data.workers,
        cache_mb=config.data.cache_mb,
        lag=BAN_LAG * config.train.batch_size,
        quarantine=read_json(stored) if stored.exists() else {},
    )


def positions(session: Session) -> Iterator[list[int]]:
    """The global positions of each micro-batch of this process, from the current step on."""
    micro, parts = session.share
    size, rank = session.config.train.batch_size, session.accelerator.process_index
    state = session.state
    for turn in range(state.turn, session.steps + state.skipped):
        first = turn * size + rank * micro * parts
        for part in range(parts):
            yield list(range(first + part * micro, first + (part + 1) * micro))


def take_step(
    session: Session, batches: Batches, stop: bool
) -> tuple[dict[str, float], float, bool]:
    """One optimizer step over the global batch.

    Returns:
        its numbers, alike on every process; seconds waited for data; whether any process was
        asked to stop.
    """
    config, state, accelerator = session.config, session.state, session.accelerator
    parts = session.share[1]
    share = config.train.image_share
    as_images = float(draw_uniform(config.seed, [state.turn], "image mode")) < share
    session.prepared.train()
    state.clear()
    loss = error = torch.zeros((), device=accelerator.device)
    waited = 0.0
    for part in range(parts):
        began = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - began
        key_dropout(state.network, config.seed, batch.positions)
        last = part == parts - 1
        with nullcontext() if last else _unreduced(session):
            out = session.model.loss(
                batch,
                config.seed,
                config.train.batch_size,
                session.prepared,
                image_mode=as_images,
                progress=state.step / session.steps,
            )
            accelerator.backward(out.value / parts)
        loss = loss + out.value.detach() / parts
        error = error + out.error.mean() / parts
    norm = nn.utils.get_total_norm(
        [p.grad for p in state.network.parameters() if p.grad is not None]
    )
    norm = whole(norm)
    asked, met = norm.new_tensor([float(stop), float(len(batches.news))])
    numbers = torch.stack([loss, error, norm, asked, met])
    numbers = accelerator.reduce(numbers, "mean")
    if numbers[4] > 0:
        # Some process met a file that gave no clip: all of them must know it.
        batches.share(gather_object(list(batches.news)))
    values = dict(zip(("loss", "error", "grad_norm"), numbers[:3].tolist(), strict=True))
    values["lr"] = learning_rate(config.optimizer, state.step, session.steps)
    skipped = judge(state, numbers[:3], config.train.spike, config.train.patience)
    if not skipped:
        state.move(values["lr"])
    first = state.turn * config.train.batch_size
    state.step += 1
    values |= {"skipped": 1.0, "first_position": first} if skipped else {"skipped": 0.0}
    return values, waited, bool(numbers[3] > 0)


def _unreduced(session: Session) -> AbstractContextManager[None]:
    """Gradients are only added up, not yet averaged over processes."""
    if session.state.sharded:
        return keep_gradients(session.prepared)
    return session.accelerator.no_sync(session.prepared)


def _save(session: Session, journal: Journal, batches: Batches) -> None:
    """Publish a checkpoint; the log and the list of bad files are on the disk before it."""
    if journal.saved == session.state.step:
        return
    session.accelerator.wait_for_everyone()
    if session.main:
        journal.sync()
        if batches.quarantine:
            write_json(session.folder / "quarantine.json", batches.quarantine)
    if session.main or session.state.sharded:
        folder = session.folder / "checkpoints"
        session.state.save(folder, session.about, session.config.train.keep)
    session.accelerator.wait_for_everyone()
    journal.saved = session.state.step
