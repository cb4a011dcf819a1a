"""Other places that the numbers of a run go to, by Accelerate: TensorBoard, wandb, trackio.

`metrics.jsonl` is written whether one of them works or not. A tracker that is asked for and not
installed stops the run before its first step, with the command that installs it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vidiff.errors import RequestError
from vidiff.runs.config import Config, redact
from vidiff.runs.tracking import Hook

TrackerName = Literal["tensorboard", "wandb", "trackio"]


def require(names: Sequence[str]) -> None:
    """Stop where a tracker is not installed.

    Raises:
        RequestError: names the package and how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RequestError(
                f"train.trackers asks for {name}, which is not installed.",
                f"pip install 'vidiff[{name}]', or leave it out: metrics.jsonl is always written.",
            )


def start(
    names: Sequence[str], folder: Path, config: Config, accelerator: Any
) -> tuple[list[Hook], Any]:
    """Begin to tell the named trackers; what to call for each line, and at the end.

    Files of TensorBoard go to `folder/trackers`; the others keep theirs where they always do.

    Args:
        accelerator: its process decides who speaks; only the main one does.
    """
    if not names:
        return [], lambda: None
    from accelerate.tracking import filter_trackers

    accelerator.log_with = filter_trackers(list(names), str(folder / "trackers"))
    accelerator.project_configuration.logging_dir = str(folder / "trackers")
    settings = dict(_flat(redact(config.model_dump(mode="json"))))
    accelerator.init_trackers(folder.name, config=settings)

    def tell(values: dict[str, Any], step: int) -> None:
        accelerator.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step)

    return [tell], accelerator.end_training


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys to plain values; what TensorBoard cannot show becomes text."""
    pairs: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, int | float | str)
            pairs.append((prefix + key, value if plain else str(value)))
    return pairs
