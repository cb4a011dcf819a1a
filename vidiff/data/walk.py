"""Walking a foreign folder: every file met once, nothing outside it ever touched.

Links are followed while they stay inside the root; a folder is entered once, whatever names it
has; hidden names are skipped. A file counts as a video when its suffix or its first bytes say so, a
folder of numbered pictures counts as one.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from vidiff.data.pictures import is_animated, numbered
from vidiff.data.probe import sniff
from vidiff.errors import DataError, RequestError

MAX_DEPTH = 32
MAX_FILES = 1_000_000

_VIDEO = re.compile(
    r"\.(3gp|asf|avi|flv|gif|m2ts|m4v|mkv|mov|mp4|mpeg|mpg|mts|ogv|ts|webm|wmv|y4m)", re.I
)
_OTHER = re.compile(
    r"\.(aac|avif|bmp|csv|flac|hei[cf]|html|jpe?g|jsonl?|m4a|md|mp3|og[ag]|opus|pdf|png|py|srt|svg"
    r"|tiff?|txt|vtt|wav|webp|xml|ya?ml|zip)",
    re.I,
)


@dataclass(frozen=True)
class Found:
    """A file that claims to be a video."""

    name: str
    """Path below the root, with forward slashes."""
    refused: str = ""
    """Why it must not be opened; empty where it may be."""

    @property
    def label(self) -> str | None:
        """Name of the first sub-folder, None directly under the root."""
        head, slash, _ = self.name.partition("/")
        return head if slash else None


def walk(root: Path) -> tuple[list[Found], int]:
    """All files under `root` that claim to be videos, by name, and the number of others.

    Raises:
        RequestError: the root is missing or not a folder.
        DataError: more than a million files.
    """
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise RequestError(f"data.root={root} {state}.", "Give a folder that holds videos.")
    walker = _Walker(root.resolve())
    walker.enter(root, "", 0)
    return sorted(walker.found, key=lambda item: item.name), walker.others


class _Walker:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[Found] = []
        self.others = 0
        self.seen: set[tuple[int, int]] = set()

    def enter(self, folder: Path, prefix: str, depth: int) -> None:
        """Lists one folder, sorted, so that of two names of one folder the first one counts."""
        state = folder.stat()
        if (state.st_dev, state.st_ino) in self.seen or depth > MAX_DEPTH:
            return
        self.seen.add((state.st_dev, state.st_ino))
        try:
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except OSError as error:
            self.found.append(Found(prefix or ".", f"The folder cannot be read: {error.strerror}."))
            return
        film = self.film_of(items) if prefix else []
        if film:
            self.found.append(Found(prefix.rstrip("/")))
        for item in items:
            if item.name.startswith(".") or item.name in film:
                continue
            self.meet(Path(item.path), prefix + item.name, depth)
            if len(self.found) + self.others > MAX_FILES:
                raise DataError(
                    f"{self.root} holds more than {MAX_FILES} files.", "Choose a smaller folder."
                )

    @staticmethod
    def film_of(items: list[os.DirEntry[str]]) -> list[str]:
        """Names of the pictures that make the folder a film; empty where a video is among them."""
        files = [item.name for item in items if item.is_file(follow_symlinks=False)]
        if any(_VIDEO.fullmatch(os.path.splitext(name)[1]) for name in files):
            return []
        return numbered(files)

    def meet(self, path: Path, name: str, depth: int) -> None:
        """Sorts one directory entry: enter it, list it, refuse it or count it as another file."""
        claims = _VIDEO.fullmatch(path.suffix) is not None
        try:
            inside = not path.is_symlink() or path.resolve(strict=True).is_relative_to(self.root)
            state = path.stat()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "links in a circle"
            self.list_or_count(name, claims, f"It cannot be reached: {reason}.")
            return
        if not inside:
            self.list_or_count(name, claims, "It is a link that leaves the folder.")
        elif stat.S_ISDIR(state.st_mode):
            if claims:
                self.found.append(Found(name, "It is a folder, not a video."))
            self.enter(path, name + "/", depth + 1)
        elif not stat.S_ISREG(state.st_mode):
            self.list_or_count(name, claims, "It is a pipe or device, not a regular file.")
        elif (state.st_dev, state.st_ino) in self.seen:
            self.list_or_count(name, claims, "It is a second name of a file met before.")
        else:
            self.seen.add((state.st_dev, state.st_ino))
            self.list_or_count(name, claims or _looks_like_video(path), "")

    def list_or_count(self, name: str, claims: bool, refused: str) -> None:
        if claims:
            self.found.append(Found(name, refused))
        else:
            self.others += 1


def _looks_like_video(path: Path) -> bool:
    if _OTHER.fullmatch(path.suffix) and path.suffix.lower() not in (".png", ".webp"):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            return is_animated(head) or sniff(head) is not None
    except OSError:
        return False
