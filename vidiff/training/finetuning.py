"""Starting from trained weights: a run that goes on with other clips, or an image model inflated.

The averaged weights of the source are taken. Calibration is measured anew on the new clips unless
`train.recalibrate=false`: the network is used to channels of mean 0 and sd 0.5 and to a usual frame
rate of 1, and the new measure gives it just that, whatever the clips look like.

An image model (`model.temporal=false`) becomes a video model by layers it does not have: each
temporal layer joins through a gate cos(theta) x + sin(theta) layer(x), so theta = 0 leaves every
frame, bit for bit, as the image model makes it, and training opens the gates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.diffusion.calibration import Calibration
from vidiff.errors import RequestError
from vidiff.models.layers import Gate
from vidiff.pipeline import VideoDiffusion
from vidiff.saved import load

_TEMPORAL = {"over_time", "attention"}
_OF_THE_DATA = {"from_class"}
"""Layers whose rows belong to the labels of the clips, which may be others now."""


def source(run: str) -> VideoDiffusion:
    """The trained model that `train.init_from` names, on the CPU.

    Raises:
        RequestError: no trained model there.
    """
    if not Path(run).is_dir():
        raise RequestError(
            f"train.init_from={run} is no folder.", "Name a run, a checkpoint or an export."
        )
    return load(run)


def kept_calibration(run: str) -> Calibration:
    """The source's own calibration, for clips of the same kind."""
    return source(run).calibration


def start_from(network: nn.Module, run: str) -> dict[str, Any]:
    """Give a fresh network the trained weights of a run; what was done, as JSON values.

    Raises:
        RequestError: the two networks are not alike; the weights that differ are named.
    """
    model = source(run)
    old, new = model.network.state_dict(), network.state_dict()
    added = [name for name in new if name not in old]
    fresh = [name for name in new if name in old and old[name].shape != new[name].shape]
    foreign = [name for name in old if name not in new]
    wrong = [n for n in added if not _TEMPORAL & set(n.split("."))] + foreign
    wrong += [n for n in fresh if not _OF_THE_DATA & set(n.split("."))]
    wrong = [n for n in wrong if not _OF_THE_DATA & set(n.split("."))]
    if wrong:
        raise RequestError(
            f"The network of train.init_from={run} is not this one: {_differ(wrong, old, new)}.",
            "Set model.* as that run's config.yaml does; only temporal layers may be new.",
        )
    network.load_state_dict({n: t for n, t in old.items() if n not in fresh}, strict=False)
    inflated = any(_TEMPORAL & set(name.split(".")) for name in added)
    if inflated:
        close_gates(network)
    return {
        "run": str(run),
        "weights_sha256": model.weights_hash,
        "inflated": inflated,
        "fresh": [*fresh, *(n for n in added if not inflated)],
    }


@torch.no_grad()
def close_gates(network: nn.Module) -> None:
    """Every temporal layer begins as no layer at all."""
    for module in network.modules():
        if isinstance(module, Gate):
            module.theta.zero_()


def _differ(names: list[str], old: dict[str, Tensor], new: dict[str, Tensor]) -> str:
    def shape(name: str, side: dict[str, Tensor]) -> str:
        return str(list(side[name].shape)) if name in side else "none"

    shown = [f"{name} is {shape(name, old)} there, {shape(name, new)} here" for name in names[:4]]
    return "; ".join(shown) + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
