"""Distances of other people under their own names, exactly as they define them, or not at all.

    fvd                  Unterthiner et al. 2018: frames to 224 x 224 as TensorFlow 1 resizes, I3D
                         (Kinetics-400) before the softmax, Frechet distance, covariances over n - 1
    fvd2048_16f          Skorokhodov et al. 2022 (StyleGAN-V): 2048 clips of 16 frames a side, the
    fvd2048_128f         detector resizes, covariances over n; of 128 frames; and of every
    fvd2048_128f_subsample8f     8th of 128
    fid, kid             Heusel et al. 2017, Binkowski et al. 2018: Inception-v3 of 2015 on all
                         frames; Frechet distance over n - 1; unbiased MMD^2 with the cubic kernel,
                         mean of 100 subsets of 1000 frames

Each needs the one network it was defined with, known by SHA-256. Their files are programs
(TorchScript), so nothing of another hash is even opened. Frames of one clip are not independent:
where fid and kid are reported, the honest count is that of the clips. All of them reward freezing.

JEDi (Luo et al., ICLR 2025) is 100 MMD^2 with kernel (<x, y> / d)^2 and the diagonal kept, which
lifts it above 0 between equal sets; the formula is here, its name stays with its network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vidiff.errors import RequestError
from vidiff.metrics.distribution import (
    Kernels,
    cubic_kernel,
    frechet_distance,
    frechet_from_moments,
)
from vidiff.metrics.flow import Clips, as_clips
from vidiff.metrics.weights import hash_file

Features = Float[np.ndarray, "n d"]
KID_SUBSETS, KID_SIZE, KID_SEED = 100, 1000, 2020


@dataclass(frozen=True)
class Detector:
    """A network that a protocol is defined with."""

    file: str
    sha256: str
    source: str
    """Where its authors keep it."""


I3D = Detector(
    "i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
)
INCEPTION = Detector(
    "inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt",
)


@dataclass(frozen=True)
class Protocol:
    """What a name stands for."""

    detector: Detector
    embed: Callable[[Any, UInt8[np.ndarray, "t h w c"]], Tensor]
    """Detector and clip to its feature rows: one a clip, or one a frame."""
    distance: Callable[[Features, Features], float]
    num_clips: int = 2
    """Clips on each side: exactly so many where above 2."""
    num_frames: int | None = None
    """Frames of a clip; None: any number."""


@dataclass(frozen=True)
class Published:
    """A value under a published name, with what it rests on."""

    name: str
    value: float
    clips: int
    """On each side."""
    frames: int
    sha256: str
    """Of the detector."""


def measure_published(
    name: str,
    generated: Clips,
    real: Clips,
    *,
    weights: Path | None = None,
    download: bool = False,
    device: str = "cpu",
) -> Published:
    """One published distance between two sets of clips.

    Args:
        name: of `PROTOCOLS`.
        generated: uint8 `b t h w c`.
        real: uint8 `n t y x c`, as many clips and frames.
        weights: the detector's file.
        download: fetch it from its source where it is not given, into PyTorch's hub folder.
        device: where the detector runs.

    Raises:
        RequestError: unknown name, no or another detector, or clips that the protocol excludes.
    """
    if name not in PROTOCOLS:
        raise RequestError(
            f"There is no protocol {name!r}.", f"Choose one of {', '.join(PROTOCOLS)}."
        )
    protocol = PROTOCOLS[name]
    sides = as_clips(generated), as_clips(real)
    _check_clips(name, protocol, *sides)
    path = weights or (fetch(protocol.detector) if download else None)
    detector = load_detector(protocol.detector, path).to(device)
    features = [_embed(protocol, detector, side, device) for side in sides]
    value = protocol.distance(*features)
    return Published(name, value, len(sides[0]), sides[0].shape[1], protocol.detector.sha256)


def load_detector(detector: Detector, path: Path | None) -> Any:
    """The TorchScript module of a file with the known hash.

    Raises:
        RequestError: no file, or another one.
    """
    remedy = f"Fetch {detector.file} from {detector.source} and give its path, or use --download."
    if path is None or not path.is_file():
        given = "was given" if path is None else f"is at {path}"
        raise RequestError(f"This protocol needs {detector.file}; no such file {given}.", remedy)
    found = hash_file(path)
    if found != detector.sha256:
        raise RequestError(
            f"{path} has SHA-256 {found[:16]}..., not {detector.sha256[:16]}... of "
            f"{detector.file}: a distance by it would not be the published one.",
            remedy,
        )
    with warnings.catch_warnings():
        # TorchScript is on its way out of PyTorch; the published detectors are nothing else.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(path, map_location="cpu").eval()


def fetch(detector: Detector) -> Path:
    """Download a detector once, into the hub folder of PyTorch.

    Raises:
        RequestError: its source cannot be reached, or gives another file.
    """
    path = Path(torch.hub.get_dir()) / "vidiff" / detector.file
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                detector.source, str(path), hash_prefix=detector.sha256, progress=True
            )
        except (URLError, OSError, RuntimeError) as fault:
            raise RequestError(
                f"{detector.file} could not be fetched from {detector.source}: {fault}.",
                "Fetch it by hand and give its path with --weights.",
            ) from fault
    return path


def _check_clips(name: str, protocol: Protocol, generated: np.ndarray, real: np.ndarray) -> None:
    counts, frames = (len(generated), len(real)), (generated.shape[1], real.shape[1])
    want = protocol.num_clips
    if counts[0] != counts[1] or counts[0] < want or (want > 2 and counts[0] != want):
        rule = f"exactly {want}" if want > 2 else "as many, two or more,"
        raise RequestError(
            f"{name} is defined for {rule} clips on each side; there are {counts[0]} and "
            f"{counts[1]}.",
            "Give that many, or ask for another protocol: the value would not compare.",
        )
    if frames[0] != frames[1] or protocol.num_frames not in (None, frames[0]):
        raise RequestError(
            f"{name} wants clips of {protocol.num_frames or 'equally many'} frames; these have "
            f"{frames[0]} and {frames[1]}."
        )


@torch.inference_mode()
def _embed(
    protocol: Protocol, detector: Any, clips: UInt8[np.ndarray, "b t h w c"], device: str
) -> Features:
    rows = []
    for clip in clips:
        rgb = np.array(np.broadcast_to(clip, (*clip.shape[:3], 3)))
        rows.append(protocol.embed(lambda x, **how: detector(x.to(device), **how), rgb).cpu())
    return torch.cat(rows).double().numpy()


def _ask_i3d(detector: Any, clip: UInt8[np.ndarray, "t h w c"]) -> Tensor:
    pixels = rearrange(torch.from_numpy(clip).float(), "t h w c -> t c h w")
    large = resize_as_tensorflow_1(pixels, 224) * 2 / 255 - 1
    video = rearrange(large, "t c h w -> 1 c t h w")
    out: Tensor = detector(video, rescale=False, resize=False, return_features=True)
    return out


def _ask_i3d_every(step: int) -> Callable[[Any, UInt8[np.ndarray, "t h w c"]], Tensor]:
    def ask(detector: Any, clip: UInt8[np.ndarray, "t h w c"]) -> Tensor:
        video = rearrange(torch.from_numpy(clip[::step].copy()), "t h w c -> 1 c t h w")
        out: Tensor = detector(video.float(), rescale=True, resize=True, return_features=True)
        return out

    return ask


def _ask_inception(detector: Any, clip: UInt8[np.ndarray, "t h w c"]) -> Tensor:
    frames = rearrange(torch.from_numpy(clip), "t h w c -> t c h w").contiguous()
    out: Tensor = detector(frames, return_features=True)
    return out


def resize_as_tensorflow_1(pixels: Float[Tensor, "t c h w"], side: int) -> Float[Tensor, "t c y x"]:
    """Bilinear, without antialiasing, output pixel i taken from i * (old side / new side)."""

    def gather(x: Tensor, dim: int) -> Tensor:
        at = torch.arange(side) * (x.shape[dim] / side)
        low = at.long()
        high = (low + 1).clamp(max=x.shape[dim] - 1)
        share = (at - low).reshape([-1 if d == dim else 1 for d in range(4)])
        return x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share

    return gather(gather(pixels, 2), 3)


def frechet_over_n(x: Features, y: Float[np.ndarray, "m d"]) -> float:
    """Frechet distance with covariances divided by n instead of n - 1."""
    moments = [(side.mean(axis=0), np.cov(side, rowvar=False, ddof=0)) for side in (x, y)]
    return frechet_from_moments(*moments[0], *moments[1])


def kid_distance(x: Features, y: Float[np.ndarray, "m d"]) -> float:
    """Mean unbiased MMD^2 over seeded subsets, kernel (<x, y> / d + 1)^3.

    Raises:
        RequestError: fewer frames than a subset takes.
    """
    if min(len(x), len(y)) < KID_SIZE:
        raise RequestError(
            f"kid takes subsets of {KID_SIZE} frames; there are {len(x)} and {len(y)}.",
            "Give more clips.",
        )
    rng = np.random.RandomState(KID_SEED)
    ones = np.ones((1, KID_SIZE))
    values = []
    for _ in range(KID_SUBSETS):
        a = x[rng.choice(len(x), KID_SIZE, replace=False)]
        b = y[rng.choice(len(y), KID_SIZE, replace=False)]
        kernels = Kernels(cubic_kernel(a, a), cubic_kernel(b, b), cubic_kernel(a, b))
        values.append(kernels.distance(ones, ones)[0] / 1000)
    return float(np.mean(values))


def mmd_polynomial(
    x: Features, y: Float[np.ndarray, "m d"], degree: int = 2, offset: float = 0.0
) -> float:
    """Biased MMD^2 with kernel (<x, y> / d + offset)^degree, diagonals kept; JEDi is 100 of it."""
    a, b = x.astype(np.float64), y.astype(np.float64)

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        return float(((p @ q.T / p.shape[1] + offset) ** degree).mean())

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


PROTOCOLS = {
    "fvd": Protocol(I3D, _ask_i3d, frechet_distance),
    "fvd2048_16f": Protocol(I3D, _ask_i3d_every(1), frechet_over_n, 2048, 16),
    "fvd2048_128f": Protocol(I3D, _ask_i3d_every(1), frechet_over_n, 2048, 128),
    "fvd2048_128f_subsample8f": Protocol(I3D, _ask_i3d_every(8), frechet_over_n, 2048, 128),
    "fid": Protocol(INCEPTION, _ask_inception, frechet_distance),
    "kid": Protocol(INCEPTION, _ask_inception, kid_distance),
}
