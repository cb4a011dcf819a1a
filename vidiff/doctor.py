"""What this machine can do, what clashes, and the way out of each.

Native libraries are tried in child processes: one that aborts, hangs or was built for another
torch becomes a line of the answer instead of its end. Nothing is changed and nothing is sent
anywhere.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
from packaging.requirements import Requirement

PATIENCE = 120.0
"""Seconds a library may take to load and do its small task."""

_TORCH = """
import json, torch
said = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": []}
said["threads"] = torch.get_num_threads()
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        said["devices"].append([p.name, p.total_memory, f"{p.major}.{p.minor}"])
    said["bf16"] = torch.cuda.is_bf16_supported()
device = "cuda" if said["devices"] else "cpu"
q = torch.randn(2, 2, 8, 16, device=device)
torch.nn.functional.scaled_dot_product_attention(q, q, q).sum().item()
torch.nn.functional.conv2d(q, torch.randn(2, 2, 3, 3, device=device)).sum().item()
print(json.dumps(said))
"""
_XFORMERS = """
import json, warnings
warnings.simplefilter("ignore")
import torch, xformers
from xformers.ops import memory_efficient_attention
device = "cuda" if torch.cuda.is_available() else "cpu"
q = torch.randn(1, 16, 1, 32, device=device)
try:
    memory_efficient_attention(q, q, q)
    why = ""
except Exception as error:
    why = f"{type(error).__name__} on {device}"
print(json.dumps({"version": xformers.__version__, "why": why}))
"""
_AV = """
import io, json, av, numpy as np
file = io.BytesIO()
with av.open(file, "w", format="mp4") as out:
    stream = out.add_stream("libx264", rate=8)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    for k in range(4):
        image = np.full((32, 32, 3), 60 * k, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    out.mux(stream.encode(None))
file.seek(0)
with av.open(file) as back:
    count = sum(1 for _ in back.decode(video=0))
names = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "h264_nvenc")
found = [n for n in names if n in av.codecs_available]
library = ".".join(map(str, av.library_versions["libavcodec"]))
print(json.dumps({"version": av.__version__, "libavcodec": library, "codecs": found,
                  "frames": count}))
"""
_DECORD = "import json, decord; print(json.dumps({'version': decord.__version__}))"
_OPENCV = "import json, cv2; print(json.dumps({'version': cv2.__version__}))"

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the answer."""

    name: str
    verdict: Verdict
    """`problem`: something vidiff needs does not work; `note`: worth knowing."""
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a child process gave no answer."""

    why: str


def examine(out: str | Path = ".") -> list[Finding]:
    """Everything looked at, in a fixed order.

    Args:
        out: where runs are to be written; its disk is looked at.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _torch, _xformers, _writer, _reader, _opencv,
        lambda: _disk(Path(out)), _shared_memory, _memory, _threads, _files, _trackers,
    ]  # fmt: skip
    return [finding for check in checks for finding in check()]


def to_text(findings: list[Finding]) -> str:
    """The findings as a person reads them, each remedy below its line."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<9}{finding.name:<15}{finding.text}")
        if finding.remedy:
            lines.append(f"{'':<24}{finding.remedy}")
    count = sum(finding.verdict == "problem" for finding in findings)
    last = "This machine can train and sample." if not count else f"{count} problem(s) to solve."
    return "\n".join([*lines, last])


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """`{"healthy": bool, "findings": [{"name", "verdict", "text", "remedy"}]}`."""
    healthy = all(finding.verdict != "problem" for finding in findings)
    return {"healthy": healthy, "findings": [asdict(finding) for finding in findings]}


def ask(code: str, patience: float = PATIENCE) -> dict[str, Any] | Failure:
    """Run Python code in a child; the JSON object on its last line, or why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return Failure(f"it did not answer within {patience:.0f} s")
    if done.returncode < 0:
        return Failure(f"it crashed ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Failure(lines[-1][:200])
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def installed(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Iterator[Finding]:
    bits = 8 * struct.calcsize("P")
    text = f"{platform.python_version()}, {bits} bit, {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11) or bits < 64:
        yield Finding("Python", "problem", text, "Use a 64-bit Python 3.11 or newer.")
    else:
        yield Finding("Python", "ok", text)


def _packages() -> Iterator[Finding]:
    """Installed versions against what vidiff's own package asks for."""
    wrong = []
    try:
        needs = metadata.requires("vidiff") or []
    except metadata.PackageNotFoundError:
        text = "vidiff runs from its source tree and is not installed: versions are not compared"
        yield Finding("packages", "note", text, "pip install -e . in that folder.")
        return
    for line in needs:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        version = installed(need.name)
        # decord is asked for below: without it PyAV reads.
        if version is None and need.name != "decord":
            wrong.append(f"{need.name} is missing")
        elif version is not None and not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} {version} ({need.specifier} asked)")
    if wrong:
        remedy = "Install vidiff again: pip install vidiff (in a fresh virtual environment)."
        yield Finding("packages", "problem", "; ".join(wrong), remedy)
    else:
        yield Finding("packages", "ok", "all that vidiff needs, in versions it can use")


def _torch() -> Iterator[Finding]:
    said = ask(_TORCH)
    driver = _driver()
    if isinstance(said, Failure):
        remedy = "Install torch again for this machine: see pytorch.org/get-started."
        yield Finding("torch", "problem", f"does not work: {said.why}", remedy)
        return
    built = f"built for CUDA {said['cuda']}" if said["cuda"] else "CPU build"
    yield Finding("torch", "ok", f"{said['version']}, {built}, {said['threads']} thread(s)")
    for name, memory, capability in said["devices"]:
        yield Finding("GPU", "ok", f"{name}, {memory / 2**30:.0f} GiB, capability {capability}")
    if said["devices"]:
        bf16 = "bf16 works" if said["bf16"] else "no bf16: set train.precision=fp32"
        yield Finding("driver", "ok", f"{driver or 'unknown'}; {bf16}")
    elif driver and not said["cuda"]:
        remedy = "Install a CUDA build of torch: see pytorch.org/get-started."
        yield Finding("GPU", "problem", f"driver {driver}, but torch is a CPU build", remedy)
    elif driver:
        remedy = (
            f"Update the driver for CUDA {said['cuda']}, or install a torch built for an older "
            "CUDA; check CUDA_VISIBLE_DEVICES."
        )
        yield Finding("GPU", "problem", f"driver {driver}, but torch finds no device", remedy)
    else:
        yield Finding("GPU", "note", "none: everything runs on the CPU, small models only")


def _driver() -> str | None:
    """Version of the NVIDIA driver, None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "that does not answer"
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _xformers() -> Iterator[Finding]:
    if installed("xformers") is None:
        yield Finding("xformers", "ok", "not installed, not needed: attention is torch's own")
        return
    said = ask(_XFORMERS)
    why = said.why if isinstance(said, Failure) else said["why"]
    if why:
        remedy = (
            "Leave model.attention=auto; xformers kernels load only with the torch and CUDA they "
            "were built for."
        )
        yield Finding("xformers", "note", f"its kernels do not run here: {why}", remedy)
    elif not isinstance(said, Failure):
        yield Finding("xformers", "ok", f"{said['version']}, runs with model.attention=xformers")


def _writer() -> Iterator[Finding]:
    said = ask(_AV)
    if isinstance(said, Failure):
        text = f"cannot write and read back a clip: {said.why}"
        remedy = "Install PyAV from its wheel (pip install --force-reinstall av)."
        yield Finding("PyAV", "problem", text, remedy)
        return
    text = (
        f"{said['version']}, libavcodec {said['libavcodec']}, encodes {', '.join(said['codecs'])}"
    )
    yield Finding("PyAV", "ok", text)


def _reader() -> Iterator[Finding]:
    owners = sorted(set(metadata.packages_distributions().get("decord", [])))
    if len(owners) > 1:
        remedy = f"Keep one: pip uninstall {' '.join(owners)}, then pip install {owners[0]}."
        yield Finding("decord", "problem", f"{' and '.join(owners)} overwrite each other", remedy)
        return
    said = ask(_DECORD)
    if not isinstance(said, Failure):
        yield Finding("decord", "ok", f"{said['version']} ({', '.join(owners) or 'own build'})")
    elif owners:
        remedy = f"pip uninstall {owners[0]}: PyAV then reads every file, somewhat slower."
        yield Finding("decord", "note", f"installed but does not load: {said.why}", remedy)
    else:
        yield Finding("decord", "note", "not installed: PyAV reads every file, somewhat slower")


def _opencv() -> Iterator[Finding]:
    said = ask(_OPENCV)
    owners = sorted(set(metadata.packages_distributions().get("cv2", [])))
    if isinstance(said, Failure):
        remedy = "pip uninstall opencv-python, then pip install opencv-python-headless."
        yield Finding("OpenCV", "problem", f"does not load: {said.why}", remedy)
    elif len(owners) > 1:
        remedy = f"pip uninstall {' '.join(owners)}, then pip install opencv-python-headless."
        text = f"{' and '.join(owners)} overwrite each other"
        yield Finding("OpenCV", "note", text, remedy)
    else:
        yield Finding("OpenCV", "ok", str(said["version"]))


def _disk(out: Path) -> Iterator[Finding]:
    folder = next(p for p in [out, *out.absolute().parents] if p.is_dir())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free for {out}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "Choose another out=, or change the folder's permissions."
        yield Finding("disk", "problem", f"{folder} takes no files: {error.strerror}", remedy)
        return
    if free < 2e9:
        remedy = "Make room, keep fewer checkpoints (train.keep=1), or choose another out=."
        yield Finding("disk", "problem" if free < 2e8 else "note", text, remedy)
    else:
        yield Finding("disk", "ok", text)


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    size = shutil.disk_usage(folder).free
    text = f"{size / 1e9:.2f} GB free in {folder}, where loader workers hand over their clips"
    if size < 2.5e8:
        remedy = "Train with data.workers=0, or give the container more (--shm-size=2g)."
        yield Finding("shared memory", "note", text, remedy)
    else:
        yield Finding("shared memory", "ok", text)


def _memory() -> Iterator[Finding]:
    import resource

    memory = psutil.virtual_memory()
    text = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        text += f"; ulimit -v allows {limit / 1e9:.1f} GB of addresses"
    short = memory.available < 2e9 or (limit != resource.RLIM_INFINITY and limit < 4e9)
    remedy = "Close other programs; `vidiff plan CONFIG` tells what a configuration needs."
    yield Finding("memory", "note", text, remedy) if short else Finding("memory", "ok", text)


def _threads() -> Iterator[Finding]:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS")
    text = f"{allowed} of {os.cpu_count()} CPUs may be used"
    text += f", OMP_NUM_THREADS={asked}" if asked else ""
    if asked and asked.isdigit() and int(asked) > (allowed or 1):
        remedy = f"Set OMP_NUM_THREADS={allowed} or less: threads that wait in turns are slow."
        yield Finding("threads", "note", text, remedy)
    else:
        yield Finding("threads", "ok", text)


def _files() -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} files may be open at once"
    if soft < 1024:
        remedy = f"ulimit -n {min(4096, hard)} before training with many workers."
        yield Finding("open files", "note", text, remedy)
    else:
        yield Finding("open files", "ok", text)


def _trackers() -> Iterator[Finding]:
    found = [f"{name} {version}" for name in ("tensorboard", "wandb", "trackio")
             if (version := installed(name))]  # fmt: skip
    text = ", ".join(found) if found else "none installed; metrics.jsonl is always written"
    yield Finding("trackers", "ok", text)
