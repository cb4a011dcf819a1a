"""Labels and captions that lie beside the films.

The label of a file is the first folder below the root. Its caption comes from the first of

    NAME.txt        the whole text
    NAME.json       an object's "caption" (or "text"), and "label"
    metadata.csv    in the root: columns file_name (or path, file), caption (or text), label
    metadata.jsonl  in the root: one object a line, with the same names

where a label given there stands above the folder's. A sidecar that cannot be read refuses its
file, and a table that cannot be read refuses the folder: silence would train on wrong words.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vidiff.errors import DataError

MAX_CAPTION_BYTES = 65_536
MAX_TABLE_BYTES = 256 * 2**20
NAMES = ("file_name", "path", "file", "video")
WORDS = ("caption", "text", "prompt")
TABLES = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class Words:
    """What is said of a file."""

    caption: str | None = None
    label: str | None = None


def read_table(root: Path) -> dict[str, Words]:
    """What `metadata.csv` or `metadata.jsonl` in the root says, path to words.

    Raises:
        DataError: unreadable, without the columns, or naming a file outside the root.
    """
    for name in TABLES:
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path} is larger than {MAX_TABLE_BYTES >> 20} MiB.", "Split it.")
        try:
            return dict(_entry(path, number, row) for number, row in enumerate(_rows(path), 1))
        except (ValueError, OSError, csv.Error) as error:
            raise DataError(
                f"{path} cannot be read: {error}.", "Save it as UTF-8, or remove it."
            ) from error
    return {}


def read_sidecar(path: Path) -> Words:
    """What the sidecar of a film says.

    Raises:
        DataError: it is there and cannot be read; "it" is the film.
    """
    for suffix in (".txt", ".json"):
        sidecar = path.with_suffix(suffix)
        if sidecar.is_symlink() or not sidecar.is_file():
            continue
        try:
            with open(sidecar, "rb") as file:
                data = file.read(MAX_CAPTION_BYTES + 1)
            if len(data) > MAX_CAPTION_BYTES:
                raise ValueError(f"more than {MAX_CAPTION_BYTES} bytes")
            text = data.decode("utf-8-sig")
            return Words(text.strip() or None) if suffix == ".txt" else _words(json.loads(text))
        except (ValueError, OSError, RecursionError) as error:
            raise DataError(
                f"Its caption {sidecar.name} cannot be read: {error}.", "Save it as UTF-8 text."
            ) from error
    return Words()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
            return
        for line in file:
            if line.strip():
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError(f"a line is not an object: {line[:60].strip()}")
                yield value


def _entry(path: Path, number: int, row: dict[str, Any]) -> tuple[str, Words]:
    name = next((row[key] for key in NAMES if row.get(key)), None)
    if not isinstance(name, str):
        raise DataError(
            f"{path}, row {number} names no file.", f"Add a column {NAMES[0]} to every row."
        )
    place = PurePosixPath(name.replace("\\", "/"))
    first = place.parts[0] if place.parts else ".."
    if place.is_absolute() or ".." in (first, *place.parts) or ":" in first or "\0" in name:
        raise DataError(
            f"{path}, row {number} names {name[:100]!r}, which is not below the folder.",
            "Use paths relative to the folder.",
        )
    return str(place), _words(row)


def _words(row: Any) -> Words:
    if not isinstance(row, dict):
        raise ValueError("it holds no object")
    caption = next((row[key] for key in WORDS if row.get(key)), None)
    label = row.get("label") or None
    for value in (caption, label):
        if value is not None and not isinstance(value, str | int):
            raise ValueError(f"{value!r} is not text")
    return Words(
        None if caption is None else str(caption).strip() or None,
        None if label is None else str(label),
    )
