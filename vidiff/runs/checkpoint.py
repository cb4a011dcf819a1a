"""Checkpoints: folders of safetensors and JSON, published by one rename, checked by hash.

    checkpoints/step-00000100/   model.safetensors, ema*.safetensors, optim.safetensors,
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
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidiff.errors import RequestError, VidiffError
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
    folder = Path(folder)
    if keep < 1 or step < 0:
        raise RequestError(f"keep is {keep} and step {step}; keep >= 1 and step >= 0 are needed.")
    if state.get("step", step) != step:
        raise RequestError(f"state says step {state['step']}, but step {step} is being saved.")
    files = {f"{stem}.safetensors": _ready(flat) for stem, flat in tensors.items()}
    for name in files:
        if not _FILE.fullmatch(name):
            raise RequestError(f"{name!r} cannot be a file of a checkpoint.", "Rename the stem.")
    text = json.dumps(_encode({"step": step, **state}, "state"), allow_nan=False)
    final = folder / f"step-{step:08d}"
    temporary = temporary_beside(final)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        size = len(text) + sum(t.nbytes for flat in files.values() for t in flat.values())
        require_space(folder, math.ceil(_SPARE * size))
        _write_folder(temporary, files, text)
        _publish(temporary, final)
        _prune(folder, final, keep)
    except OSError as error:
        raise explain(error, final) from error
    except SafetensorError as error:
        cause = f"{final} could not be written: {error}."
        raise VidiffError(cause, "Check that the disk is not full and run again.") from error
    finally:
        discard(temporary)
    return final


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
    wanted = None if only is None else {f"{stem}.safetensors" for stem in only} | {"state.json"}
    problem = _fault(path, wanted)
    if problem:
        raise VidiffError(f"{path} is damaged: {problem}.", "Use another checkpoint of the run.")
    there = _manifest(path).keys()
    names = there if wanted is None else wanted
    if names - there:
        raise RequestError(
            f"{path} holds no {', '.join(sorted(names - there))}; it holds {', '.join(there)}."
        )
    try:
        state = _decode(json.loads((path / "state.json").read_text(encoding="utf-8")))
        tensors = {
            name.removesuffix(".safetensors"): load_file(path / name)
            for name in sorted(names)
            if name != "state.json"
        }
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        cause = f"{path} holds what no checkpoint of vidiff holds: {error}."
        raise VidiffError(cause, "Use another checkpoint of the run.") from error
    return tensors, state


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's `state_dict()` as flat tensors and a JSON value; nothing is lost.

    Any nesting of dictionaries, lists, tuples, tensors and plain values will do. Tensors are
    named by their dotted path (`state.0.exp_avg`), plain values keep their exact type.

    Raises:
        RequestError: names the path of a value that is neither.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(dict(state), "", tensors)


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`, ready for `load_state_dict`."""
    return _decode(dict(plain), tensors)


def _write_folder(temporary: Path, files: dict[str, dict[str, Tensor]], text: str) -> None:
    os.mkdir(temporary)
    for name, flat in files.items():
        save_file(flat, temporary / name)
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


def _encode(value: Any, where: str, tensors: dict[str, Tensor] | None = None) -> Any:
    """A value as JSON from which `_decode` makes the same value again.

    What JSON lacks is written as a dictionary with one marked key: `{"$tuple": [...]}`,
    `{"$float": "inf"}`, `{"$tensor": name}`, and `{"$items": [[key, value], ...]}` for
    dictionaries whose keys are not text or look marked.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list | tuple):
        items = [_encode(v, f"{where}.{i}".lstrip("."), tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [(k, _encode(v, f"{where}.{k}".lstrip("."), tensors)) for k, v in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$items": [[_encode(key, where), item] for key, item in pairs]}
    if isinstance(value, Tensor) and tensors is not None:
        tensors[where] = value
        return {"$tensor": where}
    raise RequestError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot keep exactly.",
        "Use numbers, text, lists, tuples and dictionaries; tensors go into files of their own.",
    )


def _decode(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": str(text)}:
            return float(text)
        case {"$tuple": list(items)}:
            return tuple(_decode(item, tensors) for item in items)
        case {"$items": list(pairs)}:
            return {_decode(key): _decode(item, tensors) for key, item in pairs}
        case {"$tensor": str(name)} if tensors is not None:
            if name not in tensors:
                raise VidiffError(f"The tensor {name} is missing from the optimizer's file.")
            return tensors[name]
    return {key: _decode(item, tensors) for key, item in value.items()}
