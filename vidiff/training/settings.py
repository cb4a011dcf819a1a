"""What a run depends on: its configuration, stored with it, and what may change when it resumes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from vidiff.data.index import DataConfig
from vidiff.diffusion.process import ProcessConfig
from vidiff.errors import RequestError
from vidiff.models.layout import ModelConfig, resolve
from vidiff.models.lora import LoraConfig
from vidiff.models.optimizers import OptimizerConfig
from vidiff.runs.config import Config, differences, dump_yaml, load_config, schema
from vidiff.runs.files import write_text
from vidiff.runs.trackers import TrackerName
from vidiff.tasks import TaskConfig


class LoopConfig(Config):
    """How long, how often, how much at once."""

    steps: int = Field(10_000, ge=1)
    """Optimizer steps; the learning rate falls to zero over them."""
    max_minutes: float | None = Field(None, gt=0)
    """Time for the steps: their number is then planned from the measured speed, once, before
    the first, and kept with the run, so that an interrupted run ends where it would have."""
    batch_size: int = Field(8, ge=1)
    """Clips a step over all processes."""
    micro_batch: int | None = Field(None, ge=1)
    """Clips a process takes at once; the rest of its share is accumulated."""
    checkpoint_every: int = Field(500, ge=1)
    """Optimizer steps between checkpoints."""
    keep: int = Field(2, ge=1)
    """Checkpoints kept; older ones are removed after a new one stands."""
    log_every: int = Field(10, ge=1)
    """Optimizer steps between lines of metrics.jsonl."""
    held_out_every: int = Field(250, ge=1)
    """Optimizer steps between held-out losses."""
    held_out_clips: int = Field(16, ge=1)
    """Held-out clips they are measured on."""
    preview_every: int = Field(1000, ge=1)
    """Optimizer steps between preview sheets in samples/."""
    calibration_clips: int = Field(256, ge=2)
    """Training clips that the calibration reads."""
    image_share: float = Field(0.0, ge=0, le=1)
    """Share of steps in which the frames are taken as independent pictures."""
    ema: tuple[float, ...] = (0.05, 0.10)
    """Relative widths of the weight averages; the first is used for sampling."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 on CUDA, fp32 on the CPU. Weights, averages and losses are always fp32."""
    spike: float = Field(10.0, gt=1)
    """A step whose gradient norm exceeds this many running medians is skipped."""
    patience: int = Field(5, ge=2)
    """Steps in a row: not finite, and the run goes back to its last checkpoint; spiking, and
    their gradient norm is taken for the new level."""
    lora: LoraConfig | None = None
    """With init_from: learn low-rank adapters only; the network itself stays as it is."""
    init_from: str | None = None
    """Start from the trained weights of another run, a checkpoint or an export."""
    recalibrate: bool = True
    """With init_from: measure the new clips, or (false) keep the source's calibration, for more
    clips of the same kind."""
    sharding: Literal["none", "fsdp"] = "none"
    """`fsdp`: weights, gradients, averages and optimizer state split over the processes, and
    checkpoints too; for networks that do not fit on one GPU. The numbers stay the same."""
    compile: bool = False
    """Compile each block of the network: faster on a GPU after minutes of compiling."""
    trackers: tuple[TrackerName, ...] = ()
    """Who is told the numbers beside metrics.jsonl: tensorboard, wandb, trackio."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of a process; by default torch's own choice."""
    allow: tuple[str, ...] = ()
    """Changes that a resumed run accepts: keys such as optimizer.lr, sections such as tasks, and
    data.manifest for other clips. Noted in changes.jsonl."""


class TrainConfig(Config):
    """Everything a run depends on; stored with it as config.yaml."""

    out: str = "runs/vidiff"
    """Folder of the run. The same command again resumes it."""
    seed: int = Field(0, ge=0)
    """Key of every random number of the run."""
    data: DataConfig
    """Clips."""
    model: ModelConfig = ModelConfig()
    """Network."""
    process: ProcessConfig = ProcessConfig()
    """Noise levels."""
    tasks: TaskConfig = TaskConfig()
    """Mixture of tasks in training."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights move."""
    train: LoopConfig = LoopConfig()
    """How long and how often."""


FREE_TO_CHANGE = ("out", "data.root", "data.workers", "data.cache", "data.cache_mb",
                  "data.max_bad", "model.checkpointing",
                  "train.allow", "train.trackers", "train.log_every", "train.keep", "train.threads",
                  "train.preview_every", "train.max_minutes", "train.micro_batch",
                  "train.checkpoint_every", "train.compile", "train.sharding")  # fmt: skip
"""Keys that may differ on resume: the weights do not depend on them beyond rounding."""


def editor_schema() -> str:
    """The JSON schema of a configuration file, as `configs/schema.json` holds it."""
    return json.dumps(schema(TrainConfig), indent=2) + "\n"


def read_config(
    config: TrainConfig | str | Path | None,
    words: Sequence[str] = (),
    data: str | Path | None = None,
    out: str | Path | None = None,
) -> TrainConfig:
    """A configuration from a file or an object, with words on top; checked as a whole.

    Raises:
        RequestError: every problem at once.
    """
    extra = [*words]
    extra += [f"data.root={data}"] if data is not None else []
    extra += [f"out={out}"] if out is not None else []
    if isinstance(config, TrainConfig):
        merged = config.model_dump(mode="json")
        if data is not None:
            merged["data"]["root"] = str(data)
        if out is not None:
            merged["out"] = str(out)
        config = TrainConfig.model_validate(merged)
        if words:
            raise RequestError("Words go on top of a file, not of a TrainConfig object.")
    else:
        config = load_config(TrainConfig, config, extra)
    resolve(config.model, config.data.size)
    if config.tasks.pixels and not config.model.pixel_levels:
        raise RequestError(
            f"tasks.pixels={config.tasks.pixels:g} needs a network that accepts pixel levels.",
            "Set model.pixel_levels=true, or tasks.pixels=0.",
        )
    if config.train.lora is not None and config.train.init_from is None:
        raise RequestError(
            "train.lora adapts a trained network, and train.init_from names none.",
            "Set train.init_from=RUN, or leave train.lora out.",
        )
    return config


def claim(config: TrainConfig) -> list[str]:
    """Make the run's folder, or check that it is this run's.

    Returns:
        a line `key: old -> new` for each change that `train.allow` names.

    Raises:
        RequestError: it holds another run; the differences are shown.
    """
    stored = Path(config.out) / "config.yaml"
    if not stored.exists():
        write_text(stored, dump_yaml(config))
        return []
    changed = {
        line.split(":")[0]: line for line in differences(load_config(TrainConfig, stored), config)
    }
    other = {key: line for key, line in changed.items() if key not in FREE_TO_CHANGE}
    refused = [key for key in other if not allows(config, key)]
    if refused:
        raise RequestError(
            f"{config.out} holds a run with another configuration:\n  "
            + "\n  ".join(other[key] for key in refused),
            f"Choose another out=, repeat the stored configuration (vidiff train {stored}), or "
            f"accept the change with train.allow=[{','.join(refused)}].",
        )
    return [*other.values()]


def allows(config: TrainConfig, key: str) -> bool:
    """Whether `train.allow` names a key, or a section that it is in."""
    return any(key == name or key.startswith(f"{name}.") for name in config.train.allow)


def record_changes(config: TrainConfig, step: int, lines: Sequence[str]) -> None:
    """Note what an allowed change altered, and from which step on; the run's config is then new."""
    if not lines:
        return
    folder = Path(config.out)
    earlier = folder / "changes.jsonl"
    record = json.dumps({"step": step, "changes": [*lines]})
    text = earlier.read_text(encoding="utf-8") if earlier.exists() else ""
    write_text(earlier, f"{text}{record}\n")
    write_text(folder / "config.yaml", dump_yaml(config))
