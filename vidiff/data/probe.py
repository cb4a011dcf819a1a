"""What a video file really is, found out before anything trusts it.

A folder of clips is foreign input: text that names another file, a header that promises a
billion frames, a pipe that never ends. So a file is opened only when it is a regular file whose
first bytes are those of a known container; FFmpeg is then told the container and allowed the
`file` protocol alone, so that no playlist is followed and no connection opened. Time stamps come
from demuxing every packet, never from the rate or the frame count that a header claims.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from jaxtyping import Float

from vidiff.errors import DataError

MAX_SIDE = 8192
MAX_PIXELS = 36_000_000
MAX_FRAMES = 36_000
MAX_SECONDS = 4 * 3600.0
MAX_FPS = 240.0
FOREIGN_ERRORS = (
    av.FFmpegError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What FFmpeg's bindings were seen to raise on damaged files; all of it becomes `DataError`."""

_REENCODE = "Re-encode it (ffmpeg -i in -c:v libx264 -pix_fmt yuv420p out.mp4) or remove it."
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+[:,]")
_OPEN_SECONDS = 20.0


@dataclass(frozen=True)
class VideoInfo:
    """What demuxing a file showed. Sizes are upright: after the rotation tag is obeyed."""

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    """Degrees counter-clockwise by which coded frames are turned to stand upright: 0, 90, ..."""
    pixel_aspect: float
    """Width over height of one upright pixel; 1.0 for square pixels."""
    num_frames: int
    duration: float
    """Seconds from the first frame to the end of the last one."""
    pts_seconds: Float[np.ndarray, "t"]
    """Presentation time stamps of the shown frames, ascending, float64."""
    fps: float
    """Mean rate; 0.0 for a single frame."""
    vfr: bool
    promised_frames: int
    """Frames the header claims, 0 where it claims nothing."""
    hidden_frames: int
    """Coded frames that an edit list hides."""
    open_gop: bool
    """True where frames shown before a key frame are stored after it."""
    key_frames: int = 0
    """Frames at which decoding can begin."""
    colour: str = "untagged"
    """Colour tags: matrix, transfer and range, as FFmpeg numbers and names them."""


def sniff(head: bytes) -> str | None:
    """FFmpeg's name for the container that begins with `head` (384 bytes are enough), or None."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if head[:4] == b"RIFF":
        return "avi" if head[8:12] == b"AVI " else None
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    for first, step in ((0, 188), (4, 192)):
        if len(head) > first + step and head[first] == head[first + step] == 0x47:
            return "mpegts"
    return None


_MAGIC = {
    b"\x1a\x45\xdf\xa3": "matroska",
    b"GIF8": "gif",
    b"OggS": "ogg",
    b"FLV\x01": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"\x00\x00\x01\xba": "mpeg",
    b"\x00\x00\x01\xb3": "mpegvideo",
    b"YUV4MPEG2 ": "yuv4mpegpipe",
}


def check_file(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Absolute path and container name of a file that is safe to hand to a decoder.

    Raises:
        DataError: not a regular file, empty, a URL, or of no known container.
    """
    text = os.fspath(path)
    if "\0" in text or _SCHEME.match(text):
        raise DataError(
            f"{text!r} is not the path of a file: it looks like an address or a protocol.",
            "Give the path of a file on this machine; download it first where need be.",
        )
    try:
        mode = os.stat(text).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
            raise DataError(f"{text} is {kind}, not a regular file.", "Remove or rename it.")
        with open(text, "rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{text[:200]} cannot be opened: {reason}.", "Check the path and its permissions."
        ) from error
    if not head:
        raise DataError(f"{text} is empty (0 bytes).", "Download or copy it again.")
    container = sniff(head)
    if container is None:
        raise DataError(
            f"{text} does not begin like any known video container.",
            "Convert it to MP4, MKV, WebM, AVI, MOV or GIF, or remove it.",
        )
    return os.path.abspath(text), container


@contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Opens a checked file and yields PyAV's `(container, stream)`; closes it whatever happens.

    Every foreign exception inside the block leaves it as a `DataError` naming the file.
    """
    absolute, name = check_file(path)
    options = {"protocol_whitelist": "file", "threads": "1"}
    try:
        with av.open(
            absolute,
            format=name,
            options=options,
            metadata_errors="replace",
            timeout=_OPEN_SECONDS,
        ) as container:
            yield container, _picture_stream(absolute, container)
    except FOREIGN_ERRORS as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be decoded: {reason[:200]}.", _REENCODE) from error


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Reads the header, every packet's time stamp and the first frame of a video.

    Raises:
        DataError: unreadable, hostile, without pictures, or beyond the limits above.
    """
    # Pictures are probed apart, by a module that builds on this one.
    from vidiff.data.pictures import is_film, probe_film

    if is_film(path):
        return probe_film(path)
    with open_video(path) as (container, stream):
        packets = list(itertools.islice(container.demux(stream), MAX_FRAMES + 2))
        stamps = _Stamps.read(path, stream, packets)
        stream.codec_context.thread_count = 1
        frame = _first_frame(stream, packets)
        if frame is None:
            raise DataError(f"{path} holds no frame that decodes.", _REENCODE)
        turned = frame.rotation % 360
        if turned % 90:
            raise DataError(f"{path} is tagged as turned by {turned} degrees.", _REENCODE)
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        sideways = turned % 180 == 90
        width, height = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        _check_picture(path, width, height)
        return VideoInfo(
            container=container.format.name.split(",")[0],
            codec=stream.codec_context.name,
            width=width,
            height=height,
            rotation=turned,
            pixel_aspect=1 / aspect if sideways else aspect,
            num_frames=len(stamps.seconds),
            duration=stamps.duration,
            pts_seconds=stamps.seconds,
            fps=stamps.fps,
            vfr=stamps.vfr,
            promised_frames=stream.frames,
            hidden_frames=stamps.hidden,
            open_gop=stamps.open_gop,
            key_frames=sum(bool(p.is_keyframe and p.size) for p in packets),
            colour=_colour(stream.codec_context),
        )


def _colour(context: Any) -> str:
    tags = [
        _MATRICES.get(context.colorspace, ""),
        _TRANSFERS.get(context.color_trc, ""),
        {1: "limited", 2: "full"}.get(context.color_range, ""),
    ]
    return " ".join(filter(None, tags)) or "untagged"


_MATRICES = {0: "rgb", 1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
_TRANSFERS = {1: "bt709", 6: "bt601", 8: "linear", 13: "srgb", 14: "bt2020", 15: "bt2020", 16: "pq",
              18: "hlg"}  # fmt: skip
"""Numbers of ITU-T H.273; what is not named here is rare."""


def is_shown(packet: Any) -> bool:
    """True for a packet that becomes a visible frame: neither cut away nor a hidden VP8 helper."""
    if packet.size == 0 or packet.is_discard:
        return False
    hidden_vp8 = packet.stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10
    return not hidden_vp8


@dataclass(frozen=True)
class _Stamps:
    seconds: Float[np.ndarray, "t"]
    duration: float
    fps: float
    vfr: bool
    hidden: int
    open_gop: bool

    @classmethod
    def read(cls, path: object, stream: Any, packets: list[Any]) -> _Stamps:
        coded = [p for p in packets if p.size]
        shown = [p for p in coded if is_shown(p)]
        if len(coded) > MAX_FRAMES:
            raise DataError(
                f"{path} holds more than {MAX_FRAMES} frames.", "Cut it into shorter files."
            )
        if not shown:
            raise DataError(f"{path} holds no frame.", _REENCODE)
        if any(p.pts is None for p in shown):
            raise DataError(f"{path} has frames without a time stamp.", _REENCODE)
        base = float(stream.time_base)
        ticks = np.sort(np.array([p.pts for p in shown], dtype=np.int64))
        steps = np.diff(ticks)
        if (steps <= 0).any():
            raise DataError(f"{path} shows two frames at one time stamp.", _REENCODE)
        span = float(ticks[-1] - ticks[0]) * base
        step = span / len(steps) if len(steps) else 0.0
        last = max(p.duration or 0 for p in shown if p.pts == ticks[-1]) * base or step
        _check_times(path, span + last, 1 / step if step else 0.0)
        # A quarter of a frame, and two ticks for containers that round to milliseconds.
        uneven = np.abs(steps * base - step).max(initial=0.0) > max(step / 4, 2 * base)
        return cls(
            seconds=ticks * base,
            duration=span + last,
            fps=1 / step if step else 0.0,
            vfr=bool(uneven),
            hidden=len(coded) - len(shown),
            open_gop=_has_leading_frames(coded),
        )


def _has_leading_frames(packets: list[Any]) -> bool:
    key = -math.inf
    for packet in packets:
        if packet.pts is not None and packet.pts < key:
            return True
        if packet.is_keyframe and packet.pts is not None:
            key = packet.pts
    return False


def _check_times(path: object, duration: float, fps: float) -> None:
    if not math.isfinite(duration) or duration > MAX_SECONDS:
        raise DataError(
            f"{path} lasts {duration:.0f} s; the limit is {MAX_SECONDS:.0f} s.",
            "Cut it into shorter files.",
        )
    if fps and not 0.1 <= fps <= MAX_FPS:
        raise DataError(
            f"{path} shows {fps:.4g} frames a second; 0.1 to {MAX_FPS:.0f} are read.", _REENCODE
        )


def _check_picture(path: object, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{path} claims pictures of {width}x{height} pixels.", _REENCODE)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"{path} has pictures of {width}x{height} pixels; at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS / 1e6:.0f} million together are read.",
            "Scale it down (ffmpeg -i in -vf scale=1280:-2 out.mp4) or remove it.",
        )


def _picture_stream(path: object, container: Any) -> Any:
    attached = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & attached]
    if not streams:
        raise DataError(f"{path} has no picture track.", "Remove it from the folder.")
    stream = streams[0]
    if stream.codec_context is None:
        raise DataError(f"{path} uses a codec that FFmpeg does not know.", _REENCODE)
    _check_picture(path, stream.codec_context.width, stream.codec_context.height)
    return stream


def _first_frame(stream: Any, packets: list[Any]) -> Any:
    for packet in packets:
        for frame in stream.codec_context.decode(packet if packet.size else None):
            return frame
    return None
