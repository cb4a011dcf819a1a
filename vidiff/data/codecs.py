"""Encoders by the names people know, and RGB clips to the frames they take.

Colours are converted to BT.709 *and* tagged so: either half alone shifts them by up to a sixth of
the range in some players. `lossless` keeps RGB as it is, bit for bit; few browsers play it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import UInt8

from vidiff.errors import RequestError

_BT709 = 1
"""AVCOL_SPC_BT709: the matrix as a codec context tags it (swscale counts differently)."""


@dataclass(frozen=True)
class Codec:
    """One way to encode."""

    encoder: str
    """FFmpeg's name."""
    pixels: str
    """Pixel format handed to the encoder."""
    crf: int
    """Constant rate factor by default; scales differ between encoders."""
    options: dict[str, str] = field(default_factory=dict)
    presets: bool = True
    """Whether it knows x264's preset words."""
    tag: str | None = None
    """Four letters that players go by, where FFmpeg's own choice is not understood everywhere."""

    @property
    def rgb(self) -> bool:
        """True where no colour is converted."""
        return "rgb" in self.pixels


_X264 = {"x264-params": "mbtree=0"}
"""Its look ahead over macroblocks, with AVX-512, gives equal frames unequal bytes now and then
(17 files from 25 encodings of one clip of 64 x 64; none with AVX2 or without the look ahead)."""

CODECS = {
    "h264": Codec("libx264", "yuv420p", 16, _X264),
    "h264-10bit": Codec("libx264", "yuv420p10le", 16, _X264),
    "hevc": Codec("libx265", "yuv420p", 18, {"x265-params": "log-level=none:pools=none"},
                  tag="hvc1"),
    "vp9": Codec("libvpx-vp9", "yuv420p", 24, {"b": "0", "deadline": "good", "cpu-used": "2"},
                 presets=False),
    "av1": Codec("libsvtav1", "yuv420p10le", 24, {"preset": "6", "svtav1-params": "lp=1"},
                 presets=False),
    "lossless": Codec("libx264rgb", "rgb24", 0),
}  # fmt: skip
"""Words for `--codec`. H.264 in yuv420p is what every browser, phone and player shows."""


def find_codec(name: str) -> Codec:
    """The codec of that name, if this build of FFmpeg has its encoder.

    Raises:
        RequestError: unknown, or not in this build; names those there are.
    """
    here = ", ".join(word for word in CODECS if have_encoder(CODECS[word].encoder))
    if name not in CODECS:
        raise RequestError(f"There is no codec {name!r}.", f"There are: {here}.")
    if not have_encoder(CODECS[name].encoder):
        raise RequestError(
            f"This build of FFmpeg has no {CODECS[name].encoder}, which {name} needs.",
            f"Install another build of PyAV, or choose one of: {here}.",
        )
    return CODECS[name]


def have_encoder(name: str) -> bool:
    """Whether this build of FFmpeg can encode with `name`."""
    try:
        av.codec.Codec(name, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        return False
    return True


def open_stream(
    container: Any, codec: Codec, rate: Fraction, size: tuple[int, int], crf: int, preset: str
) -> Any:
    """A video stream of `container` that takes frames of `size` (height, width)."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a page on every clip otherwise
    options = {"crf": str(crf), **codec.options}
    if codec.presets:
        options["preset"] = preset
    stream = container.add_stream(codec.encoder, rate=rate, options=options)
    stream.height, stream.width = size
    stream.pix_fmt = codec.pixels
    context = stream.codec_context
    # More threads save little on short clips, and would make bytes depend on the machine.
    context.thread_count = 1
    context.time_base = 1 / rate
    context.color_range = int(ColorRange.JPEG if codec.rgb else ColorRange.MPEG)
    context.color_primaries = int(ColorPrimaries.BT709)
    context.color_trc = int(ColorTrc.BT709)
    if not codec.rgb:
        context.colorspace = _BT709
    if codec.tag:
        context.codec_tag = codec.tag
    return stream


def to_frame(image: UInt8[np.ndarray, "h w c"], codec: Codec, index: int, rate: Fraction) -> Any:
    """One picture as the encoder takes it, shown at `index / rate` seconds."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    if not codec.rgb:
        frame = frame.reformat(
            format=codec.pixels,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.colorspace = _BT709
    frame.color_primaries = int(ColorPrimaries.BT709)
    frame.color_trc = int(ColorTrc.BT709)
    frame.pts = index
    frame.time_base = 1 / rate
    return frame
