"""Films that are not video files: folders of numbered pictures, animated WebP and animated PNG.

A folder counts as one film when it holds two pictures or more of one kind whose names end in
numbers, and no video; they are shown in the order of the numbers. A folder has no clock: a file
`fps.txt` in it says how many pictures a second are shown, else it is 8. Animated files tell the
time of each frame. (GIF is read as video.)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, ImageSequence

from vidiff.data.probe import (
    FOREIGN_ERRORS,
    MAX_FPS,
    MAX_FRAMES,
    MAX_PIXELS,
    MAX_SIDE,
    VideoInfo,
)
from vidiff.errors import DataError
from vidiff.runs.files import hash_file

FOLDER_FPS = 8.0
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
LEAST_SECONDS = 0.01
"""A frame that asks for less is shown so long, as browsers do."""

_ORIENTATION = 0x0112
_NUMBER = re.compile(r"(\d+)$")
_ERRORS = (*FOREIGN_ERRORS, SyntaxError, Image.DecompressionBombError)


def numbered(names: Sequence[str]) -> list[str]:
    """The names that are pictures of one film, in order; empty where they are none."""
    found = [(m, name) for name in names if (m := _place(name))]
    kinds = {kind for (kind, _), _ in found}
    if len(found) < 2 or len(kinds) > 1:
        return []
    return [name for _, name in sorted(found, key=lambda item: (item[0][1], item[1]))]


def is_animated(head: bytes) -> bool:
    """True for the first bytes (512 will do) of an animated WebP or PNG."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and b"acTL" in head


def is_film(path: str | os.PathLike[str]) -> bool:
    """True for a folder, or an animated WebP or PNG file."""
    place = Path(path)
    if place.is_dir():
        return True
    if place.suffix.lower() not in (".webp", ".png") or not place.is_file():
        return False
    with open(place, "rb") as file:
        return is_animated(file.read(512))


def hash_film(path: Path) -> str:
    """SHA-256 of a file, or of a folder's pictures with their order and rate."""
    if not path.is_dir():
        return hash_file(path)
    parts = [hash_file(picture) for picture in _pictures(path)]
    return hashlib.sha256("\n".join([f"{_rate(path):g}", *parts]).encode()).hexdigest()


def probe_film(path: str | os.PathLike[str]) -> VideoInfo:
    """What the film is, from headers alone.

    Raises:
        DataError: unreadable, of several sizes, or beyond the limits of `data.probe`.
    """
    place = Path(path)
    try:
        sizes, seconds, end = _folder_facts(place) if place.is_dir() else _file_facts(place)
    except _ERRORS as error:
        raise _unreadable(path, error) from error
    width, height = next(iter(sizes))
    if len(sizes) > 1:
        raise DataError(
            f"{path} holds pictures of {len(sizes)} sizes, {width}x{height} among them.",
            "Bring them to one size.",
        )
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(f"{path} has pictures of {width}x{height} pixels.", "Scale them down.")
    duration = end - float(seconds[0])
    steps = np.diff(seconds)
    return VideoInfo(
        container="pictures" if place.is_dir() else place.suffix[1:].lower(),
        codec="pictures",
        width=width,
        height=height,
        rotation=0,
        pixel_aspect=1.0,
        num_frames=len(seconds),
        duration=duration,
        pts_seconds=seconds,
        fps=len(steps) / float(steps.sum()) if len(steps) else 0.0,
        vfr=bool(len(steps) and np.ptp(steps) > 2e-3),
        promised_frames=0,
        hidden_frames=0,
        open_gop=False,
        key_frames=len(seconds),
    )


def read_film(
    path: str | os.PathLike[str], places: Sequence[int], size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "t h w c"]:
    """The frames with these numbers, RGB, scaled to (h, w) where given.

    Raises:
        DataError: one of them cannot be read.
    """
    wanted, found = set(places), {}
    try:
        for number, frame in _frames(Path(path), wanted):
            shown = frame
            if size is not None and frame.shape[:2] != size:
                shown = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
            found[number] = shown
        return np.stack([found[number] for number in places])
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def _place(name: str) -> tuple[str, int] | None:
    stem, suffix = os.path.splitext(name)
    number = _NUMBER.search(stem)
    if suffix.lower() not in SUFFIXES or not number or len(number[1]) > 12:
        return None
    return suffix.lower(), int(number[1])


def _pictures(folder: Path) -> list[Path]:
    names = [item.name for item in os.scandir(folder) if item.is_file(follow_symlinks=False)]
    return [folder / name for name in numbered(names)]


def _rate(folder: Path) -> float:
    told = folder / "fps.txt"
    if told.is_symlink() or not told.is_file():
        return FOLDER_FPS
    with open(told, encoding="utf-8") as file:
        rate = float(file.read(100))
    if not 0.1 <= rate <= MAX_FPS:
        raise ValueError(f"fps.txt says {rate:g}")
    return rate


def _folder_facts(folder: Path) -> tuple[set[tuple[int, int]], Float[np.ndarray, "n"], float]:
    rate, pictures = _rate(folder), _pictures(folder)
    if not 2 <= len(pictures) <= MAX_FRAMES:
        raise ValueError(f"{len(pictures)} numbered pictures; 2 to {MAX_FRAMES} are read")
    sizes = set()
    for picture in pictures:
        with Image.open(picture, formats=FORMATS) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            sizes.add(image.size[::-1] if turned else image.size)
    return sizes, np.arange(len(pictures)) / rate, len(pictures) / rate


def _file_facts(path: Path) -> tuple[set[tuple[int, int]], Float[np.ndarray, "n"], float]:
    with Image.open(path, formats=FORMATS) as image:
        count = getattr(image, "n_frames", 1)
        if image.width * image.height > MAX_PIXELS or not 2 <= count <= MAX_FRAMES:
            raise ValueError(f"{count} frames of {image.width}x{image.height} pixels")
        lasting = []
        for number in range(count):
            image.seek(number)
            image.load()
            lasting.append(max(float(image.info.get("duration", 0)) / 1000, LEAST_SECONDS))
        ends = np.cumsum(lasting)
        return {image.size}, np.concatenate([[0.0], ends[:-1]]), float(ends[-1])


def _frames(path: Path, wanted: set[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "h w c"]]]:
    if path.is_dir():
        pictures = _pictures(path)
        for number in sorted(wanted):
            with Image.open(pictures[number], formats=FORMATS) as image:
                yield number, np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        return
    with Image.open(path, formats=FORMATS) as image:
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number in wanted:
                yield number, np.asarray(frame.convert("RGB"))
            if number >= max(wanted):
                return


def _unreadable(path: object, error: BaseException) -> DataError:
    words = str(error).splitlines()[:1]
    return DataError(
        f"{path} cannot be read as a folder of pictures or an animated picture: "
        f"{' '.join([type(error).__name__, *words])[:200]}.",
        "Replace the damaged picture, or remove the film.",
    )
