"""Values that JSON has no form for, written so that they come back exactly.

Tuples, non-finite floats, dictionaries whose keys are not text, and tensors: an optimizer's state
is all of these, nested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vidiff.errors import RequestError, VidiffError


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's `state_dict()` as flat tensors and a JSON value; nothing is lost.

    Any nesting of dictionaries, lists, tuples, tensors and plain values will do. Tensors are
    named by their dotted path (`state.0.exp_avg`), plain values keep their exact type.

    Raises:
        RequestError: names the path of a value that is neither.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, encode(dict(state), "", tensors)


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`, ready for `load_state_dict`."""
    return decode(dict(plain), tensors)


def encode(value: Any, where: str, tensors: dict[str, Tensor] | None = None) -> Any:
    """A value as JSON from which `decode` makes the same value again.

    What JSON lacks is written as a dictionary with one marked key: `{"$tuple": [...]}`,
    `{"$float": "inf"}`, `{"$tensor": name}`, and `{"$items": [[key, value], ...]}` for
    dictionaries whose keys are not text or look marked.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list | tuple):
        items = [encode(v, f"{where}.{i}".lstrip("."), tensors) for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        pairs = [(k, encode(v, f"{where}.{k}".lstrip("."), tensors)) for k, v in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$items": [[encode(key, where), item] for key, item in pairs]}
    if isinstance(value, Tensor) and tensors is not None:
        tensors[where] = value
        return {"$tensor": where}
    raise RequestError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot keep exactly.",
        "Use numbers, text, lists, tuples and dictionaries; tensors go into files of their own.",
    )


def decode(value: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$float": str(text)}:
            return float(text)
        case {"$tuple": list(items)}:
            return tuple(decode(item, tensors) for item in items)
        case {"$items": list(pairs)}:
            return {decode(key): decode(item, tensors) for key, item in pairs}
        case {"$tensor": str(name)} if tensors is not None:
            if name not in tensors:
                raise VidiffError(f"The tensor {name} is missing from the optimizer's file.")
            return tensors[name]
    return {key: decode(item, tensors) for key, item in value.items()}
