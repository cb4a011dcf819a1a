"""vidiff turns a folder of video clips into a model that makes new ones, and measures them.

Public names are listed one by one and loaded on first use: `import vidiff` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "index_clips": "vidiff.data.index",
    "read_frames": "vidiff.data.video",
    "write_mp4": "vidiff.data.video",
    "train": "vidiff.training",
    "evaluate": "vidiff.evaluation",
    "generate": "vidiff.generation",
    "VideoDiffusion": "vidiff.pipeline",
    "load": "vidiff.pipeline",
}
_MODULES = {"tasks": "vidiff.tasks"}

__all__ = [
    "VideoDiffusion",
    "evaluate",
    "generate",
    "index_clips",
    "load",
    "read_frames",
    "tasks",
    "train",
    "write_mp4",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vidiff' has no attribute {name!r}")
