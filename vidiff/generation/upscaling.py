"""A second model of the same class, shown the clip in low resolution, makes it large.

The small clip is enlarged, gets a little noise of its own and goes into the network beside the
noisy clip (Ho et al. 2021, cascaded diffusion, arXiv 2106.15282). Long clips go window after
window, each of which sees the last frames of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from vidiff import tasks
from vidiff.errors import RequestError
from vidiff.generation.rollout import HISTORY, Shape, check_keep, part, same
from vidiff.pipeline import VideoDiffusion
from vidiff.records import derive_seed
from vidiff.sampling import Progress, SampleConfig


def upscale(
    model: VideoDiffusion,
    clips: UInt8[Tensor, "b t h w c"],
    seeds: Sequence[int],
    config: SampleConfig | None = None,
    keep: int = 4,
    shape: Shape = same,
    progress: Progress | None = None,
) -> UInt8[Tensor, "n t size size c"]:
    """Clips at the model's own size, one for each seed; one row of `clips` serves all seeds.

    Args:
        model: trained with `model.hint`.
        keep: frames that a window sees of the one before, where the clip is longer than a window.

    Raises:
        RequestError: a model without a hint, or clips that are not smaller than its own.
    """
    window, length = model.num_frames, clips.shape[1]
    check_upscaler(model, clips.shape[2])
    check_keep(keep, window)
    hints = clips.expand(len(seeds), *clips.shape[1:])
    turns = max(1, -(-(length - keep) // (window - keep)))
    made = hints.new_zeros(len(seeds), 0, model.size, model.size, hints.shape[-1])
    for turn in range(turns):
        start = max(0, made.shape[1] - keep)
        hint = hints[:, start : start + window]
        task = tasks.generate(len(seeds), hint.shape[1])
        if turn:
            task = tasks.predict(made[:, start:], hint.shape[1], HISTORY)
        own = [derive_seed(seed, turn, "upscale") if turn else seed for seed in seeds]
        condition = replace(shape(task), hint=hint)
        fresh = model.sample(condition, own, config, part(progress, turn, turns))
        made = torch.cat([made[:, :start], fresh], dim=1)
    return made


def check_upscaler(model: VideoDiffusion, side: int) -> None:
    """Refuse a model that cannot make clips of `side` pixels larger.

    Raises:
        RequestError: it was trained without a hint, or its own clips are not larger.
    """
    if model.config.hint is None:
        raise RequestError(
            "This model cannot upscale: it was trained without model.hint.",
            "Train one with configs/upscale192.yaml, or name another run.",
        )
    if side >= model.size:
        raise RequestError(
            f"The clip has {side} pixels a side; the model makes {model.size}.",
            "Give a smaller clip.",
        )
