"""The settings of the network, and the numbers it is built from once the frames are known.

A named size sets widths, depth and where attention starts; every number may be set by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from vidiff.errors import RequestError
from vidiff.models.attention import Backend
from vidiff.models.conditioning import DropConfig, HintConfig
from vidiff.models.layers import Norm
from vidiff.models.text import HUGGING_FACE, load_encoder
from vidiff.runs.config import Config


class _Size(NamedTuple):
    widths: tuple[int, ...]
    blocks: int
    temporal_map: int


_SIZES = {
    "tiny": _Size((64, 128, 192), 1, 0),
    "small": _Size((128, 256, 384), 2, 16),
    "base": _Size((192, 384, 576, 768), 3, 16),
    "large": _Size((256, 512, 768, 1024), 3, 16),
}


class ModelConfig(Config):
    """The network. `size` names a set of widths, depth and attention; each may be set by hand."""

    size: Literal["tiny", "small", "base", "large"] = "tiny"
    """Named size: `tiny` for two CPU cores, `small` for one GPU, `base` and `large` for more."""
    patch: int | None = Field(None, ge=1, le=8)
    """Side of the pixel square that becomes one token; by default 1 below 32 px, 4 above 128."""
    widths: tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...] | None = Field(
        None, min_length=1
    )
    """Channels of each level, finest first; even numbers, best multiples of 64."""
    blocks: int | None = Field(None, ge=1)
    """Residual blocks a level, on the way down and again on the way up."""
    temporal_map: int | None = Field(None, ge=0)
    """Temporal attention on maps of at most this side; by default at least on the coarsest."""
    joint_map: int = Field(8, ge=0)
    """Attention over space too on the coarsest map when its side is at most this."""
    coarse: Literal["joint", "factorised"] = "joint"
    """That attention: over all tokens of a clip, or over each frame's and then over time."""
    norm: Norm = "mp"
    """`mp`: magnitude-preserving layers with forced weight normalisation; `group`: group norm."""
    gains: Literal["held", "free"] = "held"
    """`held`: the embedding's gains have unit RMS over the channels of every frame, so that no
    feature outgrows the others in a long run; `free`: they may have any size."""
    theta: float = 0.3
    """Start of the temporal gates in radians; 0 makes the network an image model at first."""
    temporal: bool = True
    """False removes every temporal layer: the frames of a clip know nothing of each other."""
    causal: bool = False
    """A frame sees itself and earlier frames only."""
    attention: Backend = "auto"
    """Attention kernels: `auto` is torch's scaled_dot_product_attention."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout inside blocks; 0.1 to 0.2 below some 10,000 clips and long runs."""
    classes: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    """Number of class labels, 0 for none; `auto`: as many as the folder of clips has."""
    text: str | None = None
    """`words`: captions, by a small encoder trained with the network; `hf:NAME`: captions, by an
    encoder of Hugging Face; `given`: embeddings of `text_width` numbers that you bring."""
    text_width: int = Field(0, ge=0)
    """Width of the text embedding, with `given`; known by itself otherwise."""
    hint: HintConfig | None = None
    """A low-resolution clip given beside the noisy one (spatial upscaling)."""
    pixel_levels: bool = False
    """Accept noise levels that differ between the pixels of a frame (in-painting)."""
    drop: DropConfig = DropConfig()
    """How often training leaves each condition out."""
    checkpointing: bool = False
    """Recompute each block in the backward pass: less memory, a third more time."""

    @model_validator(mode="after")
    def _text(self) -> ModelConfig:
        text = self.text
        if text not in (None, "words", "given") and not text.startswith(HUGGING_FACE):
            raise ValueError(f"text={text} must be words, given or {HUGGING_FACE}NAME")
        if (text == "given") != (self.text_width > 0) and text in (None, "words", "given"):
            raise ValueError(
                f"text={text} with text_width={self.text_width}: `given`, and only it, has a width"
            )
        return self


@dataclass(frozen=True)
class Layout:
    """The numbers a network is built from, all resolved."""

    patch: int
    widths: tuple[int, ...]
    blocks: int
    temporal_map: int
    joint_map: int


def resolve(config: ModelConfig, frame_size: int) -> Layout:
    """Fill what the named size leaves open, for square frames of `frame_size` pixels.

    Raises:
        RequestError: the frames cannot be halved as often as the levels ask.
    """
    named = _SIZES[config.size]
    patch = config.patch or (1 if frame_size < 32 else 2 if frame_size <= 128 else 4)
    widths = config.widths or named.widths
    multiple = patch * 2 ** (len(widths) - 1)
    if frame_size < multiple or frame_size % multiple:
        raise RequestError(
            f"data.size={frame_size} does not divide by {multiple}, the patch of {patch} px "
            f"halved {len(widths) - 1} times.",
            f"Use data.size={max(1, round(frame_size / multiple)) * multiple}, another "
            "model.patch or fewer model.widths.",
        )
    temporal_map = config.temporal_map
    if temporal_map is None:
        temporal_map = max(named.temporal_map, frame_size // multiple)
    return Layout(patch, widths, config.blocks or named.blocks, temporal_map, config.joint_map)


def fit_conditions(config: ModelConfig, classes: int, captioned: bool) -> ModelConfig:
    """The configuration with what it leaves to the folder of clips, or to a text encoder, filled.

    Args:
        classes: how many labels the clips have among them.
        captioned: whether any clip has a caption.

    Raises:
        RequestError: the clips lack what the network is to be told, or have more of it.
    """
    count = config.classes
    if count == "auto" or 0 < count < classes:
        if not classes or count != "auto":
            raise RequestError(
                f"model.classes={count}, but the clips have {classes} labels.",
                "Sub-folders of data.root are the labels. Use model.classes=auto, or 0 for none.",
            )
        config = config.model_copy(update={"classes": classes})
    if config.text not in (None, "given") and not captioned:
        raise RequestError(
            f"model.text={config.text}, but no clip has a caption.",
            "Put the caption of clip.mp4 into clip.txt beside it, or leave model.text out.",
        )
    if config.text is not None and config.text.startswith(HUGGING_FACE) and not config.text_width:
        config = config.model_copy(update={"text_width": load_encoder(config.text).width})
    return config
