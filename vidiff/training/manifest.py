"""Which clips a run learns from, and what is different when it resumes with others.

`clips.json` lists every file that gives windows: its path, the start of its SHA-256, its windows
and its side. The digest over them (data/index.py) decides; the list is there to say what changed.
"""

from __future__ import annotations

from pathlib import Path

from vidiff.data.index import Index
from vidiff.runs.files import read_json, write_json

_SHOWN = 8


def write_manifest(folder: Path, index: Index) -> Path:
    """Store the list of clips with the run."""
    files = {e.path: [e.sha256[:16], e.windows, e.split] for e in index.usable}
    return write_json(folder / "clips.json", {"digest": index.digest, "files": files})


def compare(folder: Path, index: Index) -> list[str]:
    """One line for each file that is gone, new or different, a few at most."""
    path = folder / "clips.json"
    if not path.exists():
        return ["(the run kept no list of its clips)"]
    old = read_json(path)["files"]
    new = {e.path: [e.sha256[:16], e.windows, e.split] for e in index.usable}
    lines = [f"{name}: gone" for name in sorted(old.keys() - new.keys())]
    lines += [f"{name}: new" for name in sorted(new.keys() - old.keys())]
    lines += [_change(name, old[name], new[name]) for name in sorted(old.keys() & new.keys())
              if old[name] != new[name]]  # fmt: skip
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return lines[:_SHOWN] + more or ["(the same files, cut or split in another way)"]


def _change(name: str, old: list[object], new: list[object]) -> str:
    if old[0] != new[0]:
        return f"{name}: other content"
    return f"{name}: {old[1]} windows, {old[2]} -> {new[1]} windows, {new[2]}"
