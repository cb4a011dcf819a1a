"""Which weights this machine has for an evaluation, and a sentence for each that is absent."""

from __future__ import annotations

from vidiff.errors import RequestError
from vidiff.evaluation.sets import Instruments
from vidiff.metrics.features import BACKBONES, load_features
from vidiff.metrics.perceptual import load_st_lpips

ABSENT = "none"


def load_instruments(features: str, perceptual: bool = True) -> Instruments:
    """The instruments of an evaluation; absent packages leave their lines out and are named.

    Args:
        features: name of a feature network, or `none`.
        perceptual: whether flicker is also measured by ST-LPIPS.

    Raises:
        RequestError: there is no such network.
    """
    if features != ABSENT and features not in BACKBONES:
        raise RequestError(
            f"There is no feature network {features!r}.",
            f"Choose one of {', '.join(BACKBONES)}, or none.",
        )
    missing = []
    network = flicker = None
    try:
        network = None if features == ABSENT else load_features(features)
    except RequestError as error:
        missing.append(f"appearance and change: {error.cause} {error.remedy}")
    try:
        flicker = load_st_lpips() if perceptual else None
    except RequestError as error:
        missing.append(f"flicker.perceptual: {error.cause} {error.remedy}")
    if features == ABSENT:
        missing.append("appearance and change: left out by features=none.")
    if not perceptual:
        missing.append("flicker.perceptual: left out by perceptual=false.")
    return Instruments(network, flicker, tuple(missing))
