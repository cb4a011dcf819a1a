"""Which reader may be trusted with a file: found out by reading it with two.

PyAV is the reference: it reads every container that vidiff opens, frame by frame. Another reader
gets a file only if frames from its beginning, middle and end are PyAV's, and if nothing in its
structure is known to lead readers astray: open groups of pictures, frames hidden by an edit list,
a header that promises frames which are not there.

Left to itself, vidiff reads H.264 and HEVC with PyAV, which leaves out frames that nothing refers
to and nobody asked for, and all else that is proven with decord (`tools/bench_data.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidiff.data.probe import VideoInfo
from vidiff.data.video import SKIPPABLE, ProvenReader, Reader, have_reader, read_frames
from vidiff.errors import DataError

CODECS = {"h264", "hevc", "vp9", "mpeg4", "mjpeg"}
"""Codecs that readers other than PyAV are asked for."""
TOLERANCE = 3.0
"""Mean difference in grey levels allowed between the readers; another frame differs by more."""


def choose_reader(
    path: Path, info: VideoInfo, size: tuple[int, int], wish: Reader = "auto"
) -> ProvenReader:
    """The reader for a file whose pictures are read at `size` (h, w); decodes three frames.

    Raises:
        DataError: the frames do not decode, or the reader wished for is not proven on this file.
    """
    stamps = info.pts_seconds
    times = stamps[[0, len(stamps) // 2, -1]]
    reference = read_frames(path, times, size, reader="pyav")
    if wish == "pyav" or (wish == "auto" and info.codec in SKIPPABLE):
        return "pyav"
    reader: ProvenReader = "decord" if wish == "auto" else wish
    doubt = _doubt(path, info, times, reference, reader)
    if not doubt:
        return reader
    if wish != "auto":
        raise DataError(f"Not readable by {reader}: {doubt}.", "Set data.reader=auto.")
    return "pyav"


def _doubt(
    path: Path,
    info: VideoInfo,
    times: np.ndarray,
    reference: np.ndarray,
    reader: ProvenReader,
) -> str:
    """Why the reader is not to be trusted with the file; empty where it is."""
    simple = (
        info.codec in CODECS
        and not (info.open_gop or info.hidden_frames)
        and info.promised_frames in (0, info.num_frames)
    )
    if not simple:
        return f"its structure is one that {reader} is known to misread"
    if not have_reader(reader):
        return f"{reader} is not installed for this machine"
    try:
        answer = read_frames(path, times, reference.shape[1:3], reader=reader)
    except DataError as error:
        return error.cause.rstrip(".")
    gaps = np.abs(answer.astype(np.int16) - reference).mean(axis=(1, 2, 3))
    return f"its frames by {reader} differ from PyAV's" if gaps.max() > TOLERANCE else ""
