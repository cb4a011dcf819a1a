"""Frames by time: every reader behind one door, and the only uint8-float conversion.

A window is asked for in seconds. Frame k of the answer is the one on the screen at `times[k]`:

    index(t) = max { i : pts_i <= t + EPS }                                              (1)

All readers return upright RGB, scaled in the same call that converts the colours. FFmpeg's scaler
gives neighbouring columns of its output one colour, so a shrunk picture is made at twice the size
and averaged two by two: its colours are then as sharp as its brightness. PyAV seeks to the key
frame before the window, demuxes the packets up to its end, and only then decodes; frames that
nothing refers to and nobody wants are skipped. decord is opened for one call with one thread and
the target size, and never kept: an idle reader goes on decoding. torchcodec is there for those who
have it. Which file which reader may have is decided in proof.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from av.video.reformatter import Interpolation
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vidiff.data.export import read_metadata, write_gif, write_mp4, write_sheet
from vidiff.data.pictures import is_film, read_film
from vidiff.data.probe import FOREIGN_ERRORS, VideoInfo, is_shown, open_video, probe
from vidiff.errors import DataError, NumbersError, RequestError

__all__ = [
    "EPS",
    "READERS",
    "SKIPPABLE",
    "ProvenReader",
    "Reader",
    "VideoInfo",
    "have_decord",
    "have_reader",
    "probe",
    "read_frames",
    "read_metadata",
    "shown_at",
    "to_bytes",
    "to_unit",
    "write_gif",
    "write_mp4",
    "write_sheet",
]

EPS = 1e-3
"""Seconds of tolerance in (1): containers round to milliseconds, decord to float32."""

ProvenReader = Literal["decord", "pyav", "torchcodec"]
Reader = Literal["auto", "decord", "pyav", "torchcodec"]
SKIPPABLE = {"h264", "hevc"}
"""Decoders that leave out single unreferenced frames exactly (libdav1d does not)."""

_UNSEEKABLE = {"mpeg", "mpegvideo"}
"""Containers in which FFmpeg gives frames the stamps of their neighbours after a seek."""


def to_unit(frames: UInt8[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Bytes 0..255 to float32 in [-1, 1], axes unchanged."""
    return frames.to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(frames: Float[Tensor, "*axes"]) -> UInt8[Tensor, "*axes"]:
    """Floats in [-1, 1] to bytes 0..255, clamped and rounded, axes unchanged.

    Raises:
        NumbersError: something is NaN or infinite.
    """
    if not bool(torch.isfinite(frames).all()):
        bad = int((~torch.isfinite(frames)).sum())
        raise NumbersError(
            f"{bad} of {frames.numel()} pixel values are NaN or infinite.",
            "Sample in float32, or from an earlier checkpoint.",
        )
    return frames.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def shown_at(
    pts_seconds: Float[np.ndarray, "n"], times: Sequence[float] | Float[np.ndarray, "t"]
) -> Int[np.ndarray, "t"]:
    """Index of the frame on the screen at each time, equation (1).

    Raises:
        DataError: a time before the first frame, or well after the last one.
    """
    asked = np.asarray(times, dtype=np.float64)
    step = float(np.diff(pts_seconds).max()) if len(pts_seconds) > 1 else 1.0
    first, last = float(pts_seconds[0]), float(pts_seconds[-1])
    if asked.min() < first - EPS:
        raise DataError(
            f"Nothing is shown at {asked.min():.3f} s; the first frame comes at {first:.3f} s.",
            "Ask for times inside the video.",
        )
    if asked.max() > last + step + EPS:
        raise DataError(
            f"Nothing is shown at {asked.max():.3f} s; the last frame comes at {last:.3f} s.",
            "Ask for times inside the video.",
        )
    return np.searchsorted(pts_seconds, asked + EPS, side="right") - 1


def have_decord() -> bool:
    """True where decord can be imported (it has no wheels for ARM or macOS)."""
    try:
        import decord
    except (ImportError, OSError):
        return False
    decord.logging.set_level(decord.logging.QUIET)
    return True


def have_torchcodec() -> bool:
    """True where torchcodec can be imported and finds FFmpeg's libraries."""
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def have_reader(reader: ProvenReader) -> bool:
    """True where this machine has what the reader needs."""
    return {"decord": have_decord, "torchcodec": have_torchcodec}.get(reader, lambda: True)()


def read_frames(
    path: str | os.PathLike[str],
    times: Sequence[float] | Float[np.ndarray, "t"],
    size: tuple[int, int] | None = None,
    reader: Reader = "auto",
) -> UInt8[np.ndarray, "t h w c"]:
    """Upright RGB frames shown at `times` (seconds on the file's own clock).

    Args:
        size: (h, w) in pixels to stretch the upright picture to; None keeps the coded size.
        reader: "auto" is PyAV here; the index knows the files that decord was proven on.

    Raises:
        DataError: the file, or a frame asked for, cannot be read.
        RequestError: no times, times that are not finite, an empty size, an unknown reader.
    """
    asked = np.asarray(times, dtype=np.float64)
    if asked.ndim != 1 or not len(asked) or not np.isfinite(asked).all():
        raise RequestError(f"times must be a list of finite seconds; received {times!r}.")
    if size is not None and min(size) < 1:
        raise RequestError(f"size must be (h, w) with at least one pixel; received {size}.")
    name = "pyav" if reader == "auto" else reader
    if name not in READERS:
        raise RequestError(f"reader is {reader!r}; known readers: auto, {', '.join(READERS)}.")
    try:
        if is_film(path):
            return read_film(path, shown_at(probe(path).pts_seconds, asked).tolist(), size)
        return READERS[name](path, asked, size)
    except DataError as error:
        if os.fspath(path) in error.cause:
            raise
        raise DataError(f"{path}: {error.cause}", error.remedy) from error


def _read_pyav(
    path: str | os.PathLike[str], times: Float[np.ndarray, "t"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "t h w c"]:
    # A seek may land on a key frame that is shown after the asked time (open GOP, edit lists), or
    # where a picture is only being built up (intra refresh): go further back, in the end to the
    # start of the file.
    for back in (0.0, 5.0, None):
        with open_video(path) as (container, stream):
            if back is not None and container.format.name in _UNSEEKABLE:
                continue
            packets = _packets_around(container, stream, times, back)
            try:
                if packets:
                    return _shrink(_decode(stream, packets, times, _enlarged(stream, size)), size)
            except DataError:
                if back != 0.0:
                    raise
    raise DataError(f"{path} has no key frame to start decoding from.", "Re-encode it.")


def _packets_around(
    container: Any, stream: Any, times: Float[np.ndarray, "t"], back: float | None
) -> list[Any]:
    """Packets from a key frame shown at or before the window to the window's end; else []."""
    base = float(stream.time_base)
    first, last = float(times.min()), float(times.max())
    if back is not None and first > 0:
        try:
            container.seek(int((first - back) / base), stream=stream)
        except FOREIGN_ERRORS:
            return []
    packets: list[Any] = []
    for packet in container.demux(stream):
        if packet.size == 0 or not (packets or packet.is_keyframe):
            continue
        if not packets and back is not None and not _starts_by(packet, first + EPS):
            return []
        packets.append(packet)
        # In decode order nothing after this packet can be shown before it is decoded.
        if packet.dts is not None and packet.dts * base > last + EPS:
            break
    return packets


def _starts_by(packet: Any, seconds: float) -> bool:
    return packet.pts is not None and packet.pts * float(packet.time_base) <= seconds


def _decode(
    stream: Any,
    packets: list[Any],
    times: Float[np.ndarray, "t"],
    size: tuple[int, int] | None,
) -> UInt8[np.ndarray, "t h w c"]:
    shown = np.array(sorted(p.pts for p in packets if is_shown(p) and p.pts is not None))
    if not len(shown):
        raise DataError("No frame is stored around the asked times.", "Re-encode the file.")
    wanted = shown[shown_at(shown * float(stream.time_base), times)].tolist()
    missing = set(wanted)
    context = stream.codec_context
    context.thread_count = 1
    found: dict[int, UInt8[np.ndarray, "h w c"]] = {}
    for packet in [*packets, None]:
        if packet is not None and context.name in SKIPPABLE:
            context.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
        for frame in context.decode(packet):
            if frame.pts in missing:
                found[frame.pts] = _upright(frame, size)
                missing.discard(frame.pts)
        if not missing:
            return _stack([found[pts] for pts in wanted])
    when = min(missing) * float(stream.time_base)
    raise DataError(
        f"The frame at {when:.3f} s does not decode.", "The file is damaged: replace it."
    )


def _upright(frame: Any, size: tuple[int, int] | None) -> UInt8[np.ndarray, "h w c"]:
    """One decoded frame as RGB, scaled and converted in one pass, then turned upright."""
    if frame.is_corrupt:
        raise DataError(
            f"The frame at {frame.time:.3f} s is damaged.", "Replace or re-encode the file."
        )
    turns = frame.rotation // 90 % 4
    height, width = size or (None, None)
    if turns % 2:
        height, width = width, height
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24",
        interpolation=Interpolation.BILINEAR,
        threads=1,
    )
    return np.rot90(rgb.to_ndarray(), turns)


def _stack(frames: list[UInt8[np.ndarray, "h w c"]]) -> UInt8[np.ndarray, "t h w c"]:
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise DataError(
            f"The picture size changes inside the file: {sorted(sizes)}.",
            "Ask for one size, or re-encode the file.",
        )
    return np.stack(frames)


def _enlarged(stream: Any, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size to decode at: twice the asked one where the coded picture has twice its area."""
    if size is None:
        return None
    coded = stream.codec_context.width * stream.codec_context.height
    factor = 2 if coded >= 2 * size[0] * size[1] else 1
    return factor * size[0], factor * size[1]


def _shrink(
    frames: UInt8[np.ndarray, "t h w c"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "t h2 w2 c"]:
    if size is None or frames.shape[1:3] == size:
        return frames
    # cv2 counts width first; INTER_AREA by a factor of two is the mean of two by two pixels.
    return np.stack([cv2.resize(f, size[::-1], interpolation=cv2.INTER_AREA) for f in frames])


def _read_decord(
    path: str | os.PathLike[str], times: Float[np.ndarray, "t"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "t h w c"]:
    if not have_decord():
        raise DataError(
            "decord is not installed for this machine.", "Use data.reader=auto or data.reader=pyav."
        )
    import decord

    # PyAV looks at the header first: absurd sizes abort decord's process, or take it minutes.
    with open_video(path) as (container, stream):
        absolute = container.name
        height, width = _enlarged(stream, size) or (-1, -1)
    try:
        video = decord.VideoReader(absolute, width=width, height=height, num_threads=1)
        stamps = video.get_frame_timestamp(np.arange(len(video)))[:, 0].astype(np.float64)
        return _shrink(video.get_batch(shown_at(stamps, times).tolist()).asnumpy(), size)
    except (decord.DECORDError, *FOREIGN_ERRORS) as error:
        # decord appends its native stack trace to the message.
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise DataError(f"{path} cannot be read by decord: {reason}", "Use PyAV.") from error


def _read_torchcodec(
    path: str | os.PathLike[str], times: Float[np.ndarray, "t"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "t h w c"]:
    if not have_torchcodec():
        raise DataError("torchcodec is not installed for this machine.", "Use data.reader=auto.")
    from torchcodec.decoders import VideoDecoder

    with open_video(path) as (container, _):
        absolute = container.name
    try:
        video = VideoDecoder(absolute, dimension_order="NHWC", num_ffmpeg_threads=1)
        first, end = video.metadata.begin_stream_seconds, video.metadata.end_stream_seconds
        shown_at(np.array([first, end], dtype=np.float64), times)
        inside = np.clip(times + EPS, first, np.nextafter(end, first))
        frames = video.get_frames_played_at(inside.tolist()).data.numpy()
    except FOREIGN_ERRORS as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise DataError(f"{path} cannot be read by torchcodec: {reason}", "Use PyAV.") from error
    return _shrink(frames, size)


READERS: dict[str, Callable[..., UInt8[np.ndarray, "t h w c"]]] = {
    "decord": _read_decord,
    "pyav": _read_pyav,
    "torchcodec": _read_torchcodec,
}
"""Each takes (path, times, size) and returns upright RGB frames."""
