"""VMAF by an ffmpeg that has it: Netflix's fusion of fidelity measures, made for encoders.

It judges how well a picture survived, frame by frame, so it fits reconstruction and upscaling. Its
model was fitted to large screens: at 64 x 64 pixels it ranks, no more.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float, UInt8

from vidiff.errors import RequestError
from vidiff.metrics.flow import Clips, as_pairs


@cache
def find_ffmpeg() -> str:
    """An ffmpeg with the filter libvmaf: that of the path, else that of imageio-ffmpeg.

    Raises:
        RequestError: neither has it.
    """
    for program in (shutil.which("ffmpeg"), _packaged()):
        if program is None:
            continue
        command = [program, "-hide_banner", "-filters"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        if " libvmaf " in listed.stdout:
            return program
    raise RequestError(
        "VMAF needs an ffmpeg built with libvmaf; neither the path nor imageio-ffmpeg has one.",
        "Install one: pip install 'vidiff[vmaf]'",
    )


def _packaged() -> str | None:
    if find_spec("imageio_ffmpeg") is None:
        return None
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def measure_vmaf(made: Clips, target: Clips) -> Float[np.ndarray, "b"]:
    """VMAF of every clip, its mean over frames, 0 to 100; the model that ffmpeg brings.

    Raises:
        RequestError: no ffmpeg has it, clips of another kind, or frames it cannot take.
    """
    x, y = as_pairs(made, target)
    program = find_ffmpeg()
    return np.array([_vmaf(program, a, b) for a, b in zip(x, y, strict=True)])


def _vmaf(
    program: str, made: UInt8[np.ndarray, "t h w c"], target: UInt8[np.ndarray, "t h w c"]
) -> float:
    height, width, channels = made.shape[1:]
    kind = "rgb24" if channels == 3 else "gray"
    raw = ["-f", "rawvideo", "-pix_fmt", kind, "-s", f"{width}x{height}", "-r", "25"]
    graph = (
        "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];"
        "[a][b]libvmaf=log_fmt=json:log_path=vmaf.json:n_threads=1"
    )
    with TemporaryDirectory(prefix="vidiff-vmaf-") as name:
        folder = Path(name)
        (folder / "made.rgb").write_bytes(made.tobytes())
        (folder / "target.rgb").write_bytes(target.tobytes())
        command = [program, "-hide_banner", "-loglevel", "error", "-nostdin"]
        command += [*raw, "-i", "made.rgb", *raw, "-i", "target.rgb"]
        command += ["-lavfi", graph, "-f", "null", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        log = folder / "vmaf.json"
        if done.returncode or not log.is_file():
            raise RequestError(
                f"ffmpeg could not score clips of {width} x {height} pixels by VMAF: "
                f"{done.stderr.strip()[-300:]}.",
                "VMAF wants even sides of 32 pixels or more.",
            )
        return float(json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"])
