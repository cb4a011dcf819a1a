"""Time, operations and memory of the network beside lucidrains' video-diffusion-pytorch 0.7.0.

    pip install --no-deps --target /tmp/peer \\
        video-diffusion-pytorch==0.7.0 rotary-embedding-torch einops-exts
    python tools/bench_model.py --peer /tmp/peer [--rounds 5] [--large]
    python tools/bench_model.py --peer /tmp/peer --race 600 --clips demo/clips    (see race.py)

One process, one thread, random weights, fp32, clips of 2 x 8 x 32 x 32. Rounds are interleaved and
the clock counts this process's own processor time, so a busy machine disturbs all rows alike; the
table gives medians and their share of the peer's. Step memory is what one training step adds to
the peak resident set, each network in a process of its own, at 2 x 16 x 32 x 32 (Linux only).
`--large` adds a forward at 2 x 16 x 64 x 64, once a network. Operations by torch's counter, which
does not see the products inside fused CPU attention.

The peer is a program to measure against and no dependency: nothing of it is imported elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from race import race
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vidiff.models.layout import ModelConfig
from vidiff.models.unet import SpaceTimeUNet

PEER = "lucidrains Unet3D(dim=32)"
SHAPE = {"blocks": 1, "patch": 2, "temporal_map": 16}
OURS = {
    "vidiff, its parameters": SHAPE | {"widths": (64, 128, 224, 352)},
    "vidiff, its operations": SHAPE | {"widths": (128, 256, 448, 640)},
}
"""Networks of ours: with as many parameters as the peer, and with as many operations."""

Ask = Callable[[Tensor], Tensor]


class Counter(TorchDispatchMode):
    """Counts eager ATen calls."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def build(name: str, peer: str) -> tuple[nn.Module, Ask]:
    """A network and a function that asks it for one answer to a clip `b c t h w`."""
    torch.manual_seed(0)
    if name == PEER:
        net = import_peer(peer)(dim=32)
        return net, lambda x: net(x, torch.zeros(len(x)))
    own = SpaceTimeUNet(ModelConfig.model_validate(OURS[name]), 32)

    def ask(x: Tensor) -> Tensor:
        b, _, t, _, _ = x.shape
        out: Tensor = own(x, torch.zeros(b, t), torch.ones(b))[0]
        return out

    return own, ask


def import_peer(folder: str) -> Any:
    """The peer's network class; what it imports of torchvision its network never uses."""
    sys.path.append(folder)
    vision, transforms = types.ModuleType("torchvision"), types.ModuleType("transforms")
    vision.__dict__.update(transforms=transforms, utils=types.ModuleType("utils"))
    transforms.__dict__.update(ToTensor=lambda: None, ToPILImage=lambda: None)
    sys.modules |= {"torchvision": vision}
    from video_diffusion_pytorch import Unet3D  # type: ignore[import-not-found]

    return Unet3D


def clip(frames: int, side: int) -> Tensor:
    return torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(0))


def clocked(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def time_rounds(
    asks: dict[str, Ask], nets: dict[str, nn.Module], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of a forward, and of a forward and backward, of each network."""
    x = clip(8, 32)
    forward: dict[str, list[float]] = {name: [] for name in asks}
    training: dict[str, list[float]] = {name: [] for name in asks}

    def infer(ask: Ask) -> None:
        with torch.no_grad():
            ask(x)

    def learn(ask: Ask, net: nn.Module) -> None:
        net.zero_grad()
        (ask(x) - 1).square().mean().backward()

    for turn in range(rounds + 1):
        for name, ask in asks.items():
            spent = clocked(partial(infer, ask)), clocked(partial(learn, ask, nets[name]))
            if turn:  # the first round warms up
                forward[name].append(spent[0])
                training[name].append(spent[1])
    return (
        {name: statistics.median(times) for name, times in forward.items()},
        {name: statistics.median(times) for name, times in training.items()},
    )


def count(ask: Ask) -> tuple[float, int]:
    """GFLOP and eager calls of one forward at 2 x 8 x 32 x 32."""
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), flops:
        ask(clip(8, 32))
    with torch.no_grad(), Counter() as counter:
        ask(clip(8, 32))
    return flops.get_total_flops() / 1e9, counter.calls


def step_memory(name: str, peer: str) -> float:
    """MiB that one training step adds to the peak, measured in a fresh process."""
    words = [sys.executable, __file__, "--peer", peer, "--memory-of", name]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure_step(name: str, peer: str) -> float:
    net, ask = build(name, peer)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    # A short step first: optimiser state and libraries belong to no step.
    for frames in (1, 16):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak_mib()
        optimizer.zero_grad()
        (ask(clip(frames, 32)) - 1).square().mean().backward()
        optimizer.step()
    return peak_mib() - before


def peak_mib() -> float:
    """Peak resident set. Not from getrusage: there a child starts with its parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def write_table(rounds: int, large: bool, peer: str) -> None:
    built = {name: build(name, peer) for name in (PEER, *OURS)}
    nets = {name: net for name, (net, _) in built.items()}
    asks = {name: ask for name, (_, ask) in built.items()}
    forward, training = time_rounds(asks, nets, rounds)
    memory = {name: step_memory(name, peer) for name in asks}
    big = dict.fromkeys(asks, 0.0)
    if large:
        for name, ask in asks.items():
            with torch.no_grad():
                big[name] = clocked(partial(ask, clip(16, 64)))
    print(
        "| network | M parameters | GFLOP | calls | forward, s | x | forward+backward, s | x | "
        "step, MiB | x | forward 16x64x64, s | x |"
    )
    print("|---|" + "---:|" * 11)
    for name, ask in asks.items():
        gflop, calls = count(ask)
        millions = sum(p.numel() for p in nets[name].parameters()) / 1e6
        cells = [name, f"{millions:.2f}", f"{gflop:.1f}", f"{calls:,}"]
        for value in (forward, training, memory, big):
            share = value[name] / value[PEER] if value[PEER] else float("nan")
            cells += [f"{value[name]:.3g}", f"{share:.3f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    words.add_argument("--peer", required=True, help="folder the peer was installed into")
    words.add_argument("--rounds", type=int, default=5, help="timed rounds")
    words.add_argument("--large", action="store_true", help="one forward at 2 x 16 x 64 x 64 too")
    words.add_argument("--race", type=float, metavar="SECONDS", help="train all this long instead")
    words.add_argument("--clips", type=Path, help="folder of clips for the race")
    words.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = words.parse_args()
    torch.set_num_threads(1)
    if given.race:
        if given.clips is None:
            words.error("--race needs --clips")
        network = import_peer(given.peer)
        from video_diffusion_pytorch import GaussianDiffusion

        race((network, GaussianDiffusion), OURS["vidiff, its parameters"], given.clips, given.race)
    elif given.memory_of:
        print(measure_step(given.memory_of, given.peer))
    else:
        write_table(given.rounds, given.large, given.peer)


if __name__ == "__main__":
    main()
