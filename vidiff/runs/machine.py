"""Where and with what a session of a run computes: one line of `sessions.jsonl` each."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import Any

import torch

from vidiff.runs.config import redact
from vidiff.runs.provenance import environment

WATTS_A_THREAD = 10.0
WATTS_A_GPU = 400.0
"""Assumed where the power limit cannot be read."""


def describe_session(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, command, device and the power it is assumed to draw; secrets redacted."""
    watts, source = _watts(device)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"
    return {
        "command": " ".join(redact(sys.argv)),
        **environment(),
        "device": device.type,
        "device_name": name,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "watts": watts,
        "watts_from": source,
    }


def _watts(device: torch.device) -> tuple[float, str]:
    """Power of one process in watts, and where the number comes from."""
    if device.type != "cuda":
        return WATTS_A_THREAD * torch.get_num_threads(), f"{WATTS_A_THREAD:.0f} W a CPU thread"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=power.limit", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        first = done.stdout.strip().splitlines()[:1]
        if done.returncode == 0 and first and first[0].replace(".", "").isdigit():
            return float(first[0]), "the GPU's power limit"
    return WATTS_A_GPU, f"{WATTS_A_GPU:.0f} W a GPU, its limit being unknown"
