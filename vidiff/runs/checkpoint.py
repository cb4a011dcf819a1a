"""Checkpoints: folders of safetensors and JSON, published by one rename, checked by hash.

    checkpoints/step-00000100/   model.safetensors, ema*.safetensors, optim.safetensors,
                                 or shard-00001-*.safetensors and on, one a process (shards.py),
                                 state.json, manifest.json (bytes and SHA-256 of each)

The order of a save decides what a crash can destroy, which is nothing: free space first; then a
hidden folder beside the final one, its files on the disk, the manifest last; one rename; and only
when the new folder stands are older ones removed. Nothing here reads or writes pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidiff.errors import RequestError, VidiffError
from vidiff.runs import shards
from vidiff.runs.files import (
    TEMPORARY,
    discard,
    explain,
    hash_file,
    require_space,
    sweep,
    sync_file,
    sync_folder,
    temporary_beside,
)
from vidiff.runs.values import decode, encode

_SPARE = 1.2
_MAX_JSON = 64_000_000
_NAME = re.compile(r"step-([0-9]{8,})(~[0-9a-f]+)?")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors|state\.json")
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


def save(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Publish a checkpoint, then prune. One process at a time writes to `folder`.

    Args:
        folder: the run's `checkpoints` folder; made if missing.
        step: optimizer steps done.
        tensors: file stem ("model", "ema", "optim") to flat named tensors, on any device.
        state: everything else, made of JSON values, tuples and non-finite floats; comes back
            exactly, with `step` added.
        keep: how many of the newest checkpoints stay, at least 1.

    Raises:
        RequestError: a value that has no exact form, a bad stem, `keep` below 1.
        VidiffError: too little space, or the disk failed; older checkpoints are untouched.
    """
    files = {f"{stem}.safetensors": _ready(flat) for stem, flat in tensors.items()}
    for name in files:
        if not _FILE.fullmatch(name):
            raise RequestError(f"{name!r} cannot be a file of a checkpoint.", "Rename the stem.")
    size = sum(t.nbytes for flat in files.values() for t in flat.values())
    with publishing(folder, step, state, size, keep) as temporary:
        for name, flat in files.items():
            save_file(flat, temporary / name)
    return Path(folder) / f"step-{step:08d}"


def save_together(
    folder: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """`save` by all processes of a sharded run at once, each writing the parts it holds.

    Raises:
        As `save`, on every process when one of them fails.
    """
    flat = {f"{stem}/{name}": t.detach() for stem, part in tensors.items()
            for name, t in part.items()}  # fmt: skip
    size = sum(t.numel() * t.element_size() for t in flat.values())
    shards.write(flat, lambda: publishing(folder, step, state, size, keep))
    return Path(folder) / f"step-{step:08d}"


@contextmanager
def publishing(
    folder: str | Path, step: int, state: Mapping[str, Any], size: int, keep: int
) -> Iterator[Path]:
    """Yield a hidden folder to write tensors into; it becomes the checkpoint when that ends well.

    Args:
        size: bytes that the tensors will take.

    Raises:
        As `save`.
    """
    folder = Path(folder)
    if keep < 1 or step < 0:
        raise RequestError(f"keep is {keep} and step {step}; keep >= 1 and step >= 0 are needed.")
    if state.get("step", step) != step:
        raise RequestError(f"state says step {state['step']}, but step {step} is being saved.")
    text = json.dumps(encode({"step": step, **state}, "state"), allow_nan=False)
    final = folder / f"step-{step:08d}"
    temporary = temporary_beside(final)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        require_space(folder, math.ceil(_SPARE * (len(text) + size)))
        os.mkdir(temporary)
        yield temporary
        _seal(temporary, text)
        _publish(temporary, final)
        _prune(folder, final, keep)
    except OSError as error:
        raise explain(error, final) from error
    except SafetensorError as error:
        cause = f"{final} could not be written: {error}."
        raise VidiffError(cause, "Check that the disk is not full and run again.") from error
    finally:
        discard(temporary)


def latest(folder: str | Path) -> tuple[Path, list[str]] | None:
    """The newest checkpoint whose every byte is as written, and why newer ones were skipped.

    Returns:
        (path, sentences about skipped checkpoints); None where there is no checkpoint at all.

    Raises:
        VidiffError: there are checkpoints, but every one of them is damaged.
    """
    skipped: list[str] = []
    for path in _published(Path(folder)):
        problem = _fault(path, None)
        if problem is None:
            return path, skipped
        skipped.append(f"{path} was skipped: {problem}.")
    if skipped:
        raise VidiffError(
            "No checkpoint can be used. " + " ".join(skipped),
            f"Restore one from a copy, or remove {folder} to start the run anew.",
        )
    return None


def load(
    path: str | Path, only: Collection[str] | None = None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors by file stem, on the CPU, and the state, after checking every hash.

    Args:
        path: a checkpoint folder.
        only: file stems to read and check; None for all.

    Raises:
        RequestError: no checkpoint there, a missing stem, or a pickle file, which is never read.
        VidiffError: the checkpoint is damaged.
    """
    path = Path(path)
    _refuse_pickle(path)
    if not path.is_dir():
        raise RequestError(f"{path} is not a checkpoint folder.", "Give a folder step-NNNNNNNN.")
    sharded = any(shards.SHARD.match(file.name) for file in path.glob("*.safetensors"))
    wanted = None if only is None else {f"{stem}.safetensors" for stem in only} | {"state.json"}
    problem = _fault(path, None if sharded and only != [] else wanted)
    if problem:
        raise VidiffError(f"{path} is damaged: {problem}.", "Use another checkpoint of the run.")
    there = stems(path)
    names = there if only is None else only
    if set(names) - set(there):
        raise RequestError(
            f"{path} holds no {', '.join(sorted(set(names) - set(there)))}; it holds "
            f"{', '.join(there)}."
        )
    try:
        state = decode(json.loads((path / "state.json").read_text(encoding="utf-8")))
        if sharded:
            tensors = shards.read(path, names)
        else:
            tensors = {name: load_file(path / f"{name}.safetensors") for name in sorted(names)}
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        cause = f"{path} holds what no checkpoint of vidiff holds: {error}."
        raise VidiffError(cause, "Use another checkpoint of the run.") from error
    return tensors, state


def stems(path: str | Path) -> list[str]:
    """What a checkpoint holds: "model", "ema-0.050", "optim", in either format."""
    names = [name for name in _manifest(Path(path)) if name != "state.json"]
    if any(shards.SHARD.match(name) for name in names):
        return shards.stems(Path(path))
    return sorted(name.removesuffix(".safetensors") for name in names)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seal(temporary: Path, text: str) -> None:
    """State and manifest beside the tensors, everything on the disk, the manifest last."""
    (temporary / "state.json").write_text(text, encoding="utf-8")
    entries = {}
    for path in sorted(temporary.iterdir()):
        sync_file(path)
        entries[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    manifest = temporary / "manifest.json"
    manifest.write_bytes(_manifest_text(entries))
    sync_file(manifest)
    sync_folder(temporary)


def _publish(temporary: Path, final: Path) -> None:
    """One rename. An earlier save of the same step steps aside under a name that still counts."""
    if final.exists():
        os.rename(final, final.with_name(f"{final.name}~{temporary.name.removeprefix(TEMPORARY)}"))
    os.rename(temporary, final)
    sync_folder(final.parent)


def _prune(folder: Path, published: Path, keep: int) -> None:
    """Remove what `published` makes superfluous; a newer folder goes only if it is damaged."""
    step = _step(published)
    older = 0
    for path in _published(folder):
        if path == published:
            continue
        if _step(path) > step:
            superfluous = _fault(path, None) is not None
        elif _step(path) == step or _fault(path, set()) is not None:
            superfluous = True
        else:
            older += 1
            superfluous = older > keep - 1
        if superfluous:
            doomed = temporary_beside(path)
            os.rename(path, doomed)
            discard(doomed)


def _published(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first; a folder that stepped aside comes after its successor."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (-_step(path), path.name))


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-").partition("~")[0])


def _fault(path: Path, names: Collection[str] | None) -> str | None:
    """What is wrong with a checkpoint, or None.

    Sizes of all files are compared, and the hashes of those in `names` (None for all). Writing
    the manifest anew from what it says must give its very bytes, so it has no unguarded byte.
    """
    try:
        entries = _manifest(path)
        if _manifest_text(entries) != (path / "manifest.json").read_bytes():
            return "manifest.json has been altered"
        for name, entry in entries.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if (names is None or name in names) and hash_file(file) != entry["sha256"]:
                return f"{name} is not what was written (SHA-256 differs)"
        return None
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "manifest.json is not a manifest"


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The manifest's entries; only plain names of files that this module writes are believed."""
    file = path / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(2, "missing", str(file))
    if file.stat().st_size > _MAX_JSON:
        raise ValueError("too long")
    entries = json.loads(file.read_bytes())["files"]
    if "state.json" not in entries or not all(_FILE.fullmatch(name) for name in entries):
        raise ValueError("foreign names")
    if entries["state.json"]["bytes"] > _MAX_JSON:
        raise ValueError("state too long")
    return entries


def _manifest_text(entries: dict[str, dict[str, Any]]) -> bytes:
    return json.dumps({"format": 1, "files": entries}, indent=1, sort_keys=True).encode()


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise RequestError(
            f"{path} is a pickle file; reading one can run foreign code, so vidiff never does.",
            "Give a checkpoint folder of vidiff, or convert the weights to safetensors.",
        )


def _ready(flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, no two in the same memory."""
    ready: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in flat.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        ready[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return ready
