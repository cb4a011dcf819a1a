"""A trained model as a folder: described, found, loaded.

Two kinds of folder hold one: a checkpoint of a run (weights, averages, optimiser, hashes) and an
export, made to be shared (`config.json`, `model.safetensors`, a model card).
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vidiff.data.index import DataConfig
from vidiff.diffusion.calibration import Calibration
from vidiff.diffusion.process import ProcessConfig
from vidiff.errors import RequestError
from vidiff.models.attention import require_backend
from vidiff.models.layout import ModelConfig
from vidiff.models.lora import LoraConfig, add_lora, merge
from vidiff.pipeline import VideoDiffusion, build
from vidiff.runs import checkpoint
from vidiff.runs.files import read_json
from vidiff.tasks import TaskConfig

EXPORT_FORMAT = 1
"""Version of an exported folder."""


def describe(model: VideoDiffusion, config: ModelConfig) -> dict[str, Any]:
    """What `load` needs beside the weights, as JSON values; stored in every checkpoint."""
    return {
        "model": config.model_dump(mode="json"),
        "process": model.process.model_dump(mode="json"),
        "tasks": model.tasks.model_dump(mode="json"),
        "calibration": model.calibration.model_dump(mode="json"),
        "num_frames": model.num_frames,
        "size": model.size,
        "data": None if model.data is None else model.data.model_dump(mode="json"),
        "seed": model.seed,
        "classes": list(model.classes),
        "lora": None if model.lora is None else model.lora.model_dump(mode="json"),
    }


def load(run: str | Path, weights: str = "ema") -> VideoDiffusion:
    """A trained model from a run folder, one checkpoint or an export, ready to sample.

    Args:
        run: a run folder, its newest valid checkpoint is used; a `step-NNNNNNNN` folder; or a
            folder that `vidiff export` wrote, which holds one set of weights.
        weights: `ema` (the first track), the stem of another track's file, or `model` for the
            raw weights.

    Raises:
        RequestError: no such run, or no such weights in it, or an export of another version.
        VidiffError: every checkpoint is damaged.
    """
    if is_export(run):
        return _load_export(Path(run))
    folder = _checkpoint_of(run)
    names = weights_in(folder)
    chosen = names[0] if weights == "ema" else weights
    if chosen not in names:
        raise RequestError(
            f"{folder} holds no weights named {weights!r}.", f"It holds: {', '.join(names)}."
        )
    tensors, state = checkpoint.load(folder, only=["model", chosen])
    model = rebuild(state["pipeline"], tensors["model"] | tensors[chosen])
    model.data_digest = state["data"]
    model.weights_hash = checkpoint.weights_hash(tensors[chosen])
    model.find_reference = cache(partial(find_reference, folder))
    return model


def find_reference(own: Path, name: str) -> VideoDiffusion:
    """The weaker model of autoguidance.

    Args:
        own: the checkpoint of the model that is guided.
        name: `early`, the first checkpoint kept of the same run; another checkpoint of it
            (`step-00000400`); another averaged track of the same checkpoint (`ema-0.100`); or the
            folder of another run.

    Raises:
        RequestError: there is nothing of that name, or it is the model itself.
    """
    others = sorted(p.parent.name for p in own.parent.glob("step-*/manifest.json"))
    others = [step for step in others if step != own.name]
    if name == "early" and others and others[0] < own.name:
        return load(own.parent / others[0])
    if name in others:
        return load(own.parent / name)
    if name in weights_in(own):
        return load(own, name)
    if Path(name).is_dir():
        return load(name)
    early = ["early"] if others and others[0] < own.name else []
    raise RequestError(
        f"There is no reference {name!r} for {own}.",
        f"There are: {', '.join([*early, *others, *weights_in(own)])}, or the folder of another "
        "run.",
    )


def rebuild(parts: dict[str, Any], tensors: dict[str, Any]) -> VideoDiffusion:
    """A model from what `describe` said of it and its weights, ready to sample."""
    model = build(
        # A run from before the gains were held says nothing of them, and had them free.
        ModelConfig(**{"gains": "free"} | parts["model"]),
        Calibration(**parts["calibration"]),
        parts["num_frames"],
        parts["size"],
        ProcessConfig(**parts["process"]),
        TaskConfig(**parts["tasks"]),
    )
    require_backend(model.network.config.attention, model.device)  # type: ignore[arg-type, union-attr]
    adapted = parts.get("lora")
    if adapted is not None:
        add_lora(model.network, LoraConfig(**adapted))
    shapes = {name: value.shape for name, value in model.network.state_dict().items()}
    # Runs from before shards stored gains without an axis.
    flat = {n: t.reshape(shapes[n]) for n, t in tensors.items() if not t.ndim and n in shapes}
    model.network.load_state_dict(tensors | flat)
    merge(model.network)
    model.network.eval().requires_grad_(False)
    model.data = None if parts["data"] is None else DataConfig(**parts["data"])
    model.seed, model.classes = parts["seed"], tuple(parts.get("classes", ()))
    return model


def weights_in(run: str | Path) -> list[str]:
    """Names of the weights a folder holds, the one to sample with first.

    Raises:
        RequestError: no valid checkpoint.
    """
    if is_export(run):
        return ["ema"]
    names = [name for name in checkpoint.stems(_checkpoint_of(run)) if name != "optim"]
    return sorted(names, key=lambda name: not name.startswith("ema"))


def is_export(run: str | Path) -> bool:
    """Whether a folder was written by `vidiff export`."""
    return (Path(run) / "config.json").is_file() and (Path(run) / "model.safetensors").is_file()


def _checkpoint_of(run: str | Path) -> Path:
    folder = Path(run)
    if (folder / "manifest.json").is_file():
        return folder
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        raise RequestError(
            f"{run} holds no valid checkpoint.",
            "Name a folder that `vidiff train` wrote, or let the training reach its first "
            "checkpoint.",
        )
    return found[0]


def _load_export(folder: Path) -> VideoDiffusion:
    about = read_json(folder / "config.json")
    if not isinstance(about, dict) or about.get("vidiff_export") != EXPORT_FORMAT:
        raise RequestError(
            f"{folder}/config.json is no export of this version of vidiff "
            f"(vidiff_export: {json.dumps(EXPORT_FORMAT)}).",
            "Export the run again with this version.",
        )
    tensors = load_file(folder / "model.safetensors")
    if checkpoint.weights_hash(tensors) != about["tensors_sha256"]:
        raise RequestError(
            f"{folder}/model.safetensors is not the file that was exported with its config.json.",
            "Fetch the folder again.",
        )
    model = rebuild(about["pipeline"], tensors)
    model.data_digest, model.weights_hash = about["data_digest"], about["weights_sha256"]
    return model
