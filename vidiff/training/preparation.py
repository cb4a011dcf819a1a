"""From a configuration to a run ready for its first step: folder, calibration, plan, resume.

Everything here happens once, on every process alike, before the loop of training.py begins.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from einops import rearrange
from torch import nn

from vidiff.data.cache import describe_cache
from vidiff.data.index import Index, scan
from vidiff.data.loading import read_all
from vidiff.data.video import to_unit
from vidiff.diffusion.calibration import Calibration, calibrate
from vidiff.errors import RequestError
from vidiff.models.attention import require_backend
from vidiff.models.layout import fit_conditions
from vidiff.models.lora import add_lora
from vidiff.models.sharding import shard
from vidiff.models.unet import Block
from vidiff.pipeline import VideoDiffusion, build
from vidiff.records import Batch
from vidiff.runs import checkpoint
from vidiff.runs.files import read_json, write_json
from vidiff.runs.trackers import require
from vidiff.saved import describe
from vidiff.training.finetuning import kept_calibration, start_from
from vidiff.training.manifest import compare, write_manifest
from vidiff.training.outlook import Outlook, time_part
from vidiff.training.planning import (
    Cost,
    Fit,
    choose,
    decoded,
    estimate,
    free_memory,
    in_use,
)
from vidiff.training.settings import LoopConfig, TrainConfig, allows, claim, record_changes
from vidiff.training.state import State, fresh_state

TRIED_BEFORE = 200
"""Steps ahead above which two parts of a step are tried first, to tell the time."""


@dataclass
class Session:
    """A run between its folder and its loop."""

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    index: Index
    model: VideoDiffusion
    prepared: nn.Module
    """The network as Accelerate wraps it."""
    state: State
    steps: int
    about: dict[str, Any]
    """What a checkpoint tells beside the state."""
    fit: Fit
    """How a process takes its share of a step."""

    @property
    def main(self) -> bool:
        """True on the one process that writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def looks(self) -> bool:
        """True where the network runs between steps, for held-out losses and previews: on the
        main process, and on every one when each holds but a part of the weights."""
        return self.main or self.state.sharded

    def agree(self, value: Any) -> Any:
        """What the main process says, on every process."""
        told = [value if self.main else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(told)
        return told[0]

    @property
    def share(self) -> tuple[int, int]:
        """(clips at once, parts a step) of one process."""
        return self.fit.micro, self.fit.parts

    def take(self, fit: Fit) -> None:
        """Cut every step this way from now on, and after a resume too."""
        self.fit = fit
        self.model.network.checkpointing = fit.checkpointing  # type: ignore[assignment]
        if self.main:
            write_json(self.folder / "memory.json", {**asdict(fit), "processes": self.processes})

    @property
    def processes(self) -> int:
        """Over which the global batch is spread."""
        return int(self.accelerator.num_processes)


def prepare(config: TrainConfig, index: Index | None, say: Callable[[str], None]) -> Session:
    """All duties before the first step.

    Raises:
        RequestError: the folder holds a run with another configuration or other data.
        DataError: the clips cannot be used.
    """
    require(config.train.trackers)
    accelerator = start_accelerator(config.train)
    folder = Path(config.out)
    index = index or scan(config.data, config.seed)
    index.require()
    told = any(entry.caption for entry in index.usable)
    model_config = fit_conditions(config.model, len(index.labels), told)
    changes = claim(config) if accelerator.is_main_process else []
    say = say if accelerator.is_main_process else _silent
    if config.data.cache:
        say(f"Cache: {describe_cache(index)}.")
    accelerator.wait_for_everyone()
    calibration = _calibration(config, index.split("train"), accelerator, say)
    fit, cost = _fit(config, accelerator)
    outlook = Outlook(config, cost, fit, accelerator.num_processes, accelerator.device.type,
                      free_memory(accelerator.device), in_use(config, index), 0)  # fmt: skip
    data = config.data
    model = build(
        model_config, calibration, data.num_frames, data.size, config.process, config.tasks,
        config.seed,
    )  # fmt: skip
    model.data, model.seed = data.model_copy(update={"root": ""}), config.seed
    model.classes = index.labels if model_config.classes else ()
    if config.train.init_from and not any((folder / "checkpoints").glob("step-*")):
        origin = start_from(model.network, config.train.init_from)
        if accelerator.is_main_process:
            write_json(folder / "origin.json", origin)
        say(f"Starting from the weights of {config.train.init_from}.")
    if config.train.lora is not None:
        model.lora = config.train.lora
        add_lora(model.network, config.train.lora, config.seed)
    network = model.network.to(accelerator.device)
    require_backend(config.model.attention, accelerator.device)
    if config.train.compile:
        compile_blocks(network)
    if config.train.sharding == "fsdp" and accelerator.num_processes > 1:
        shard(network, _is_block, accelerator.device)
    state = fresh_state(network, config.optimizer, config.train.ema, config.model.norm == "mp")
    about = {"pipeline": describe(model, model_config), "data": index.digest}
    changes += _resume(state, config, index, say)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        record_changes(config, state.step, changes)
        write_manifest(folder, index)
    # A sharded network reduces its own gradients; Accelerate then adds the precision only.
    prepared = accelerator.prepare_model(network, evaluation_mode=state.sharded)
    session = Session(config, folder, accelerator, index, model, prepared, state, 0, about, fit)
    session.take(fit)
    session.steps = _plan(session, say)
    if session.main:
        say(_look_ahead(session, outlook))
    return session


def _is_block(module: nn.Module) -> bool:
    return isinstance(module, Block)


def compile_blocks(network: nn.Module) -> None:
    """Compile each block by itself: they are alike, so little is compiled, and names stay."""
    for module in network.modules():
        if _is_block(module):
            module.compile(dynamic=False)


def start_accelerator(loop: LoopConfig) -> Accelerator:
    """Devices and processes, by Accelerate; checks that the batch divides.

    Raises:
        RequestError: the global batch does not divide, with the nearest that do.
    """
    cpu = not torch.cuda.is_available()
    if loop.threads:
        torch.set_num_threads(loop.threads)
    bf16 = loop.precision == "bf16" or (loop.precision == "auto" and not cpu)
    # Steps in image mode leave the temporal layers without a gradient.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=loop.image_share > 0)
    precision = "bf16" if bf16 else "no"
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=[ddp])
    # Said once by every process, of 1x1 kernels, whose strides have two right answers.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    unit = accelerator.num_processes * (loop.micro_batch or 1)
    if loop.batch_size % unit:
        below = loop.batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise RequestError(
            f"train.batch_size={loop.batch_size} does not divide into {accelerator.num_processes} "
            f"process(es) of micro-batches of {loop.micro_batch or 1}.",
            f"Use train.batch_size={near}.",
        )
    return accelerator


def _silent(text: str) -> None:
    """Where the lines of all processes but the first go."""


def _calibration(
    config: TrainConfig, train_set: Index, accelerator: Accelerator, say: Callable[[str], None]
) -> Calibration:
    """The run's calibration: measured once, then read back."""
    path = Path(config.out) / "calibration.json"
    if accelerator.is_main_process and not path.exists():
        loop = config.train
        if loop.init_from and not loop.recalibrate:
            measured = kept_calibration(loop.init_from)
        else:
            measured = measure(train_set, loop.calibration_clips, config.seed)
        say("Calibration\n" + measured.table())
        write_json(path, measured.model_dump(mode="json"))
    accelerator.wait_for_everyone()
    return Calibration(**read_json(path))


def measure(train_set: Index, count: int, seed: int) -> Calibration:
    """Calibrate on up to `count` evenly spread training clips."""
    batch = read_all(train_set, count, seed)
    clips = rearrange(to_unit(batch.frames), "b t h w c -> b c t h w")
    return calibrate(clips.split(16), float(batch.dt.median()))


def _resume(
    state: State, config: TrainConfig, index: Index, say: Callable[[str], None]
) -> list[str]:
    """Continue from the newest valid checkpoint, if any; what of the data changed and may."""
    folder = Path(config.out)
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        return []
    path, skipped = found
    tensors, stored = checkpoint.load(path)
    changes = []
    if stored["data"] != index.digest:
        changes = [f"data.manifest: {line}" for line in compare(folder, index)]
        if not allows(config, "data.manifest"):
            raise RequestError(
                f"The clips under {index.config.root} are not those of the run in {folder}:\n  "
                + "\n  ".join(changes),
                "Restore them, start a new run with another out=, or accept the change with "
                "train.allow=[data.manifest].",
            )
    state.load(tensors, stored)
    for sentence in skipped:
        say(sentence)
    say(f"Resuming from {path.name}.")
    return changes


def _plan(session: Session, say: Callable[[str], None]) -> int:
    """How many steps: as configured, or as many as fit in `train.max_minutes`, decided once."""
    loop, path = session.config.train, session.folder / "plan.json"
    if loop.max_minutes is None:
        return loop.steps
    if session.agree(not path.exists()) and session.looks:
        seconds = _seconds_a_step(session)
        steps = max(1, min(loop.steps, int(60 * loop.max_minutes / seconds)))
        if session.main:
            write_json(path, {"steps": steps, "seconds_a_step": seconds})
        say(f"{seconds:.2f} s a step: {steps} steps fit in {loop.max_minutes:g} minutes.")
    return int(session.agree(read_json(path)["steps"] if session.main else 0))


def _seconds_a_step(session: Session, tries: int = 8) -> float:
    """Median time of a whole step of a throw-away copy, its first tries left out as warm-up."""
    micro, parts = session.share
    config, model, device = session.config, session.model, session.accelerator.device
    data = config.data
    shape = (micro, data.num_frames, data.size, data.size, len(model.calibration.mean))
    dt = torch.full((micro,), model.calibration.dt)
    batch = Batch(torch.zeros(shape, dtype=torch.uint8), dt, tuple(range(micro)), ("",) * micro)
    network = _stand_in(session)
    state = fresh_state(network, config.optimizer, config.train.ema, config.model.norm == "mp")
    spent = []
    for _ in range(tries):
        began = time.perf_counter()
        model.loss(batch, 0, network=network).value.backward()
        middle = time.perf_counter()
        state.move(1e-3)
        if device.type == "cuda":
            torch.cuda.synchronize()
        spent.append(parts * (middle - began) + time.perf_counter() - middle)
    loading = 1.03
    return loading * statistics.median(spent[2:])


def _stand_in(session: Session) -> nn.Module:
    """A network like the run's, to be thrown away; one that is sharded cannot be copied."""
    if not session.state.sharded:
        return copy.deepcopy(session.model.network)
    config, model = session.config, session.model
    network = build(config.model, model.calibration, model.num_frames, model.size).network
    network = network.to(session.accelerator.device)
    shard(network, _is_block, session.accelerator.device)
    return network


def _fit(config: TrainConfig, accelerator: Accelerator) -> tuple[Fit, Cost]:
    """How steps are cut: as before on as many processes, else chosen for this device."""
    processes, path = accelerator.num_processes, Path(config.out) / "memory.json"
    before = read_json(path) if path.exists() else {}
    own, asked = config.train.batch_size // processes, config.train.micro_batch
    again = before.get("processes") == processes and (asked or own) >= before["micro"]
    again = again and before["micro"] * before["parts"] == own
    # Other processes may begin only when all have read what is there.
    accelerator.wait_for_everyone()
    if again:
        recompute = bool(before["checkpointing"])
        return Fit(before["micro"], before["parts"], recompute), estimate(config, recompute)
    chosen: list[Any] = [None]
    if accelerator.is_main_process:
        chosen = [choose(config, processes, free_memory(accelerator.device), decoded(config))]
    if processes > 1:
        broadcast_object_list(chosen)
    fit, cost = chosen[0]
    return fit, cost


def _look_ahead(session: Session, outlook: Outlook) -> str:
    """The lines before step 1; the speed is tried where more than a few steps are ahead."""
    left = session.steps - session.state.step
    seconds = None
    if left > TRIED_BEFORE and not session.state.sharded:
        seconds = time_part(session.model, session.config, session.fit.micro)
    about = replace(
        outlook, steps=session.steps, done=session.state.step, seconds=seconds,
        windows=session.index.split("train").num_windows,
    )  # fmt: skip
    return about.to_text()
