"""Which weights this machine has for an evaluation, and a sentence for each that is absent."""

from __future__ import annotations

from vidiff.errors import RequestError
from vidiff.evaluation.sets import Instruments
from vidiff.metrics.features import BACKBONES, load_features

ABSENT = "none"


def load_instruments(features: str) -> Instruments:
    """The instruments of an evaluation; absent packages leave their lines out and are named.

    Args:
        features: name of a feature network, or `none`.

    Raises:
        RequestError: there is no such network.
    """
    if features == ABSENT:
        return Instruments(missing=("appearance and change: left out by features=none.",))
    if features not in BACKBONES:
        raise RequestError(
            f"There is no feature network {features!r}.",
            f"Choose one of {', '.join(BACKBONES)}, or none.",
        )
    missing = []
    try:
        network = load_features(features)
    except RequestError as error:
        network = None
        missing.append(f"kd.appearance and kd.change: {error.cause} {error.remedy}")
    return Instruments(network=network, missing=tuple(missing))
