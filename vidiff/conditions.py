"""What a network is told beside the noisy clip: class, text, rate, hint; and what training hides.

Each becomes keyword arguments of the network with one row a clip, and each has a value that means
"not told" (`NOT_TOLD`). In training each is left out with a probability of its own, drawn from
(seed, position, which), so that the network works without it and guidance has something to point
away from (Ho and Salimans 2022, arXiv 2207.12598).

The hint is a clip in low resolution, enlarged, under noise of a level that is told too:

  (1) hint = c_in(s) (enlarge(low) + s n),   in training low = means of factor x factor pixels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vidiff.diffusion.process import scalings
from vidiff.errors import RequestError
from vidiff.models.conditioning import DropConfig, HintConfig
from vidiff.models.layout import ModelConfig
from vidiff.models.text import HUGGING_FACE, hash_words, load_encoder
from vidiff.records import Condition, draw_normal, draw_uniform

Told = dict[str, Tensor]
"""Keyword arguments of the network, one row a clip."""

NOT_TOLD = {"dt": 0.0, "label": -1, "text": 0.0, "words": 0, "hint": 0.0, "hint_noise": math.inf}
"""The value of each argument that means that nothing is known."""

_DROPPED_AS = {"dt": "rate", "words": "text", "hint_noise": "hint"}


def tell_captions(config: ModelConfig, captions: Sequence[str | None]) -> Told:
    """Captions as the network's encoder takes them; nothing where it has none."""
    if config.text == "words":
        return {"words": hash_words(captions)}
    if config.text is not None and config.text.startswith(HUGGING_FACE):
        return {"text": load_encoder(config.text).encode(captions)}
    return {}


def drop(told: Told, config: DropConfig, seed: int, positions: Sequence[int]) -> Told:
    """The same with parts left out, in row i as (seed, positions[i]) has it."""
    left = dict(told)
    for name, value in told.items():
        hidden = dropped(config, _DROPPED_AS.get(name, name), seed, positions)
        shaped = hidden.view(-1, *[1] * (value.ndim - 1)).to(value.device)
        left[name] = value.masked_fill(shaped, NOT_TOLD[name])
    return left


def dropped(config: DropConfig, which: str, seed: int, positions: Sequence[int]) -> Tensor:
    """True for each clip from which training hides the condition `which`."""
    draws = draw_uniform(seed, list(positions), f"drop {which}")
    return draws < getattr(config, which)


def show_hint(
    low: Float[Tensor, "b c t h w"],
    size: int,
    level: Float[Tensor, "b"],
    seed: int,
    positions: Sequence[int],
) -> Told:
    """Equation (1) for clips in model range, noise from (seed, positions[i])."""
    b, c, t = low.shape[:3]
    frames = rearrange(low, "b c t h w -> (b t) c h w")
    large = F.interpolate(frames, (size, size), mode="bilinear", align_corners=False)
    large = rearrange(large, "(b t) c h w -> b c t h w", b=b)
    noise = draw_normal(seed, list(positions), "hint", (c, t, size, size)).to(low.device)
    scale = scalings(level.to(low.device))
    shape = (-1, 1, 1, 1, 1)
    noisy = large + level.to(low.device).view(shape) * noise
    return {"hint": scale.into.view(shape) * noisy, "hint_noise": scale.noise}


def draw_hint(
    clean: Float[Tensor, "b c t h w"], config: HintConfig, seed: int, positions: Sequence[int]
) -> Told:
    """Equation (1) for training clips, at a level drawn for each."""
    size = clean.shape[-1]
    frames = rearrange(clean, "b c t h w -> (b t) c h w")
    low = F.interpolate(frames, max(1, size // config.factor), mode="area")
    low = rearrange(low, "(b t) c h w -> b c t h w", b=len(clean))
    bottom, top = math.log(config.low), math.log(config.high)
    draws = draw_uniform(seed, list(positions), "hint level")
    return show_hint(low, size, (bottom + (top - bottom) * draws).exp(), seed, positions)


def check(config: ModelConfig, condition: Condition) -> None:
    """Refuse a condition that this network was not trained with.

    Raises:
        RequestError: what is given, and the setting that a model for it needs.
    """
    for given, known, what, key in (
        (condition.label, config.classes, "a class", "model.classes"),
        (condition.text, config.text_width, "a text embedding", "model.text"),
        (condition.words, config.text == "words", "a caption", "model.text"),
        (condition.hint, config.hint, "a clip in low resolution", "model.hint"),
    ):
        if given is not None and not known:
            raise RequestError(
                f"This model was trained without {key}; it cannot be given {what}.",
                f"Leave it out, or use a model that was trained with {key} set.",
            )
    if condition.label is not None and int(condition.label.max()) >= int(config.classes):
        raise RequestError(
            f"Class {int(condition.label.max())} is beyond the {config.classes} of this model.",
            f"Classes are counted from 0 to {int(config.classes) - 1}.",
        )


def add_words(
    condition: Condition,
    config: ModelConfig,
    classes: Sequence[str],
    label: int | str | None,
    caption: str | None,
) -> Condition:
    """The condition with a class, by name or number, and a caption.

    Raises:
        RequestError: no such class, with the nearest; or a caption for a model without text.
    """
    if label is not None:
        number = find_class(classes, label, int(config.classes))
        condition = replace(condition, label=torch.full((len(condition),), number))
    if caption is not None:
        told = tell_captions(config, [caption] * len(condition))
        if not told:
            raise RequestError(
                "This model was trained without captions; it cannot be given one.",
                "Leave the caption out, or train with model.text=words.",
            )
        condition = replace(condition, words=told.get("words"), text=told.get("text"))
    return condition


def find_class(names: Sequence[str], label: int | str, count: int) -> int:
    """The number of a class given by its name, or by its number where no name is like that.

    Raises:
        RequestError: no such class; the nearest name is told.
    """
    if not count:
        raise RequestError(
            f"This model has no classes; there is no {label!r}.",
            "Leave the label out, or train with model.classes=auto on a folder of sub-folders.",
        )
    if label in names:
        return list(names).index(str(label))
    text = str(label)
    if text.isdecimal() and int(text) < count:
        return int(text)
    near = get_close_matches(text.lower(), [n.lower() for n in names], 1, 0)
    close = [n for n in names if [n.lower()] == near]
    told = ", ".join(names[:20]) or f"0 to {count - 1}"
    raise RequestError(
        f"There is no class {text!r}" + (f"; the nearest is {close[0]!r}." if close else "."),
        f"Classes: {told}{', ...' if len(names) > 20 else ''}.",
    )
