"""The protocol card: everything two results must share before their numbers may be compared.

A distance depends on the clips it is measured against, on how many, at which size and rate, on the
features and on how the pixels reached them; published numbers differ tenfold by such details. So
each result carries its card, and results with different cards are refused, naming the difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from vidiff import __version__
from vidiff.errors import RequestError

REVISION = 3
"""Counts changes of what is measured; numbers of different revisions do not compare."""

PACKAGES = ("numpy", "opencv-python-headless", "torch", "av")

RESIZE = "shorter side to the size by the reader's scaler, centre square, both sides alike"
TENSORS, FILES = "tensors", "video files"


def make_card(
    shape: tuple[int, int, int, int],
    *,
    n: int,
    dt: float,
    seed: int,
    neighbours: int,
    reference: str,
    features: Mapping[str, Any],
    codec: str,
    split: str | None = None,
) -> dict[str, Any]:
    """The card of one result, JSON values.

    Args:
        shape: t h w c of the clips.
        n: clips on each side.
        dt: seconds between frames.
        seed: chose clips, splits and weights.
        neighbours: k of density and coverage.
        reference: SHA-256 of the reference clips' pixels.
        features: what each network in use says of itself, its weights' SHA-256 among it.
        codec: how the generated pixels arrived: `tensors` or `video files`.
        split: digest of the held-out side of the index, where there is one.
    """
    frames, height, width, channels = shape
    return {
        "revision": REVISION,
        "n": n,
        "num_frames": frames,
        "height": height,
        "width": width,
        "channels": channels,
        "dt": round(dt, 6),
        "seed": seed,
        "neighbours": neighbours,
        "reference_sha256": reference,
        "split_digest": split,
        "features": dict(features),
        "resize": RESIZE,
        "codec": codec,
        "versions": {"vidiff": __version__, **{name: _version(name) for name in PACKAGES}},
    }


def digest_card(card: Mapping[str, Any]) -> str:
    """16 hex digits that name a card."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]


def require_same(cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse to compare results under different cards.

    Args:
        cards: the name of each result to its card.

    Raises:
        RequestError: names every line in which two cards differ, with both values.
    """
    (first, card), *others = cards.items()
    for name, other in others:
        keys = sorted({*card, *other})
        differing = [key for key in keys if card.get(key) != other.get(key)]
        if differing:
            lines = "; ".join(
                f"{key} is {_brief(card.get(key), other.get(key))} in {first} and "
                f"{_brief(other.get(key), card.get(key))} in {name}"
                for key in differing
            )
            raise RequestError(
                f"{first} and {name} were measured by different protocols: {lines}.",
                "Evaluate both again with the same clips, settings and versions.",
            )


def _brief(value: Any, other: Any) -> str:
    """A value in a sentence; of two mappings only what differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = [k for k in sorted({*value, *other}) if value.get(k) != other.get(k)]
        return ", ".join(f"{k} {_brief(value.get(k, 'absent'), other.get(k))}" for k in keys)
    text = str(value)
    return f"{text[:12]}..." if len(text) > 40 else text


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
