"""Checkpoints of sharded runs: every process writes its part, and any number of them reads it.

The parts are written by torch's distributed checkpoint in its safetensors form, which knows where
each part belongs and holds no pickle; names, hashes and the moment of publishing stay ours. A
tensor is called `stem/name`, such as `model/stem.weight`.

What this needs of torch is imported where it is used: it takes seconds, and only sharded runs pay.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidiff.errors import RequestError, VidiffError

SHARD = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")

T = TypeVar("T")


def write(flat: dict[str, Tensor], publishing: Callable[[], AbstractContextManager[Path]]) -> None:
    """Write named tensors, each process what it holds; the first process publishes them.

    Args:
        publishing: opens the hidden folder, and publishes it when left.

    Raises:
        VidiffError: on every process, when one of them fails; nothing is published then.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    first = dist.get_rank() == 0
    with ExitStack() as stack:
        begun = _agree(lambda: stack.enter_context(publishing()) if first else None)
        writer = HuggingFaceStorageWriter(path=str(begun[0]), save_distributed=True)
        _agree(lambda: save(flat, storage_writer=writer) and None)
        _agree(stack.close)


def stems(path: Path) -> list[str]:
    """What the parts hold together."""
    return sorted({key.partition("/")[0] for key in _sizes(path)})


def read(path: Path, only: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """Whole tensors by stem, on the CPU, in one process."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in _sizes(path).items()
        if key.partition("/")[0] in only
    }
    with warnings.catch_warnings():
        # That one process reads alone is what is wanted.
        warnings.simplefilter("ignore", UserWarning)
        reader = HuggingFaceStorageReader(path=str(path))
        load(wanted, storage_reader=reader, no_dist=True)
    tensors: dict[str, dict[str, Tensor]] = {stem: {} for stem in only}
    for key, tensor in wanted.items():
        stem, _, name = key.partition("/")
        tensors[stem][name] = tensor
    return tensors


def _sizes(path: Path) -> Mapping[str, Any]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    return HuggingFaceStorageReader(path=str(path)).read_metadata().state_dict_metadata


def _agree(action: Callable[[], T]) -> list[T]:
    """Do it on every process; what each got, or the first failure on all of them."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.api import CheckpointException

    result: T | None = None
    problem: VidiffError | None = None
    try:
        result = action()
    except VidiffError as error:
        problem = error
    except (CheckpointException, OSError) as error:
        problem = VidiffError(
            f"A part of the checkpoint could not be written: {_reason(error)}.",
            "Check that the disk is not full and run the same command again.",
        )
    answers: list[Any] = [None] * dist.get_world_size()
    kind = None if problem is None else (type(problem).__name__, problem.cause, problem.remedy)
    dist.all_gather_object(answers, (result, kind))
    for _, told in answers:
        if told is not None:
            name, cause, remedy = told
            raise (RequestError if name == "RequestError" else VidiffError)(cause, remedy)
    return [value for value, _ in answers]


def _reason(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    if failures:
        inner = next(iter(failures.values()))[0]
        return f"{type(inner).__name__}: {inner}"
    return str(error)
