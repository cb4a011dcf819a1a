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
    "load": "vidiff.saved",
    "from_pretrained": "vidiff.sharing",
    "push_to_hub": "vidiff.sharing",
    "export": "vidiff.sharing",
    "verify": "vidiff.verification",
    "replay": "vidiff.verification",
}
_MODULES = {"tasks": "vidiff.tasks"}

__all__ = [
    "VideoDiffusion",
    "evaluate",
    "export",
    "from_pretrained",
    "generate",
    "index_clips",
    "load",
    "push_to_hub",
    "read_frames",
    "replay",
    "tasks",
    "train",
    "verify",
    "write_mp4",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'vidiff' has no attribute {name!r}")
