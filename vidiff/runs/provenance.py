"""What made this clip: a certificate in the MP4's metadata and in a JSON file beside it.

A certificate says plainly that the clip is AI-generated, and holds what it takes to make it again:
the request, the seeds, the hash of the weights, the digest of the data and the versions. It holds
no secrets, no local paths and no user or host names; a prompt only when asked for. It carries no
time, so the same request gives the same certificate.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata as packages
from pathlib import Path, PurePath
from typing import Any

from vidiff.errors import DataError, RequestError
from vidiff.runs.config import redact
from vidiff.runs.files import hash_file, write_json

NOTICE = "AI-generated: this video was made by a generative model (vidiff); no camera recorded it."
# IPTC NewsCodes, digital source type: made by an algorithm trained on sampled content.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_TAG = "synopsis"
"""A tag that MP4 and Matroska know: other tools carry it along when they change the container."""
SEALS = ("stream_sha256", "certificate_sha256")
"""Keys that `seal` adds."""

_WITHHELD = "[withheld]"
_PROMPTS = {"prompt", "negative_prompt", "caption", "text"}
_FRACTION = re.compile(r"[-+]?[0-9]+/[0-9]+")
_WEB = re.compile(r"https?://\S+")


def certificate(
    request: Mapping[str, Any],
    *,
    weights_hash: str,
    data_digest: str | None,
    seeds: Sequence[int],
    keep_prompt: bool = False,
    **details: Any,
) -> dict[str, Any]:
    """Everything that made a clip, fit for publishing.

    Args:
        request: task, sampler, steps, guidance, inputs, ...; of local paths only the last part
            stays, secrets are redacted.
        weights_hash: of the weights that sampled (`checkpoint.weights_hash`).
        data_digest: of the index trained on, if known.
        seeds: one for each clip in the file.
        keep_prompt: publish prompts and captions too.
        details: further facts, such as `step` or `device`; cleaned in the same way.

    Raises:
        RequestError: a value that has no JSON form.
    """
    return {
        "notice": NOTICE,
        "ai_generated": True,
        "digital_source_type": SOURCE_TYPE,
        "format": 1,
        "request": _clean(redact(_plain(request)), keep_prompt),
        "details": _clean(redact(_plain(details)), keep_prompt),
        "seeds": [int(seed) for seed in seeds],
        "weights_sha256": weights_hash,
        "data_digest": data_digest,
        "environment": environment(),
    }


def seal(certificate: Mapping[str, Any], stream_hash: str) -> dict[str, Any]:
    """The certificate bound to the coded pictures of a file, with a hash of its own words.

    The hashes find accidents and careless edits. Who changes a file on purpose can write new ones:
    against that only a signature helps (runs/signing.py).
    """
    sealed = {**certificate, "stream_sha256": stream_hash}
    return {**sealed, "certificate_sha256": _hash_words(sealed)}


def is_sealed(certificate: Mapping[str, Any]) -> bool:
    """Whether the words of a sealed certificate are those that were sealed."""
    rest = {key: value for key, value in certificate.items() if key != "certificate_sha256"}
    return certificate.get("certificate_sha256") == _hash_words(rest)


def _hash_words(certificate: Mapping[str, Any]) -> str:
    text = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def to_metadata(certificate: Mapping[str, Any]) -> dict[str, str]:
    """The certificate as MP4 tags: a comment for people and one JSON string for programs."""
    text = json.dumps(certificate, allow_nan=False, separators=(",", ":"))
    return {"comment": NOTICE, _TAG: text}


def from_metadata(tags: Mapping[str, str]) -> dict[str, Any]:
    """The certificate out of an MP4's tags, exactly as it went in.

    Raises:
        DataError: there is none, or it is not readable.
    """
    if _TAG not in tags:
        raise DataError("The file carries no certificate.", "Was it made by vidiff, or remade?")
    try:
        found = json.loads(tags[_TAG])
    except (ValueError, RecursionError) as error:
        raise DataError("The file's certificate is not readable JSON.") from error
    if not isinstance(found, dict) or "ai_generated" not in found:
        raise DataError("The file's certificate is no certificate of vidiff's.")
    return found


def write_sidecar(mp4_path: str | Path, certificate: Mapping[str, Any], **facts: Any) -> Path:
    """Write the certificate beside a finished MP4 (`x.mp4` gets `x.json`), with the file's hash.

    Args:
        facts: more about the file, such as what encoding lost.

    Raises:
        VidiffError: the sidecar could not be written.
    """
    mp4_path = Path(mp4_path)
    video = {
        "file": mp4_path.name,
        "bytes": mp4_path.stat().st_size,
        "sha256": hash_file(mp4_path),
        **facts,
    }
    return write_json(mp4_path.with_suffix(".json"), {**certificate, "video": video})


def environment() -> dict[str, str]:
    """Versions that decide the numbers; no host, user or kernel names. Imports nothing heavy."""
    facts = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in ("vidiff", "torch", "numpy", "av"):
        try:
            facts[name] = packages.version(name)
        except packages.PackageNotFoundError:
            facts[name] = "not installed as a package"
    return facts


def _plain(value: Any) -> Any:
    """JSON values: paths become their last part, tuples lists, non-finite numbers text."""
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise RequestError(f"A certificate cannot hold {value!r}, a {type(value).__name__}.")


def _clean(value: Any, keep_prompt: bool) -> Any:
    """Withhold prompts and shorten whatever looks like a local path to its last part."""
    if isinstance(value, dict):
        prompts = {key: item for key, item in value.items() if key in _PROMPTS and item is not None}
        others = {key: item for key, item in value.items() if key not in prompts}
        return {
            **{key: item if keep_prompt else _WITHHELD for key, item in prompts.items()},
            **{_last_part(key): _clean(item, keep_prompt) for key, item in others.items()},
        }
    if isinstance(value, list):
        return [_clean(item, keep_prompt) for item in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(text: str) -> str:
    if _FRACTION.fullmatch(text) or _WEB.fullmatch(text):
        return text
    parts = [part for part in re.split(r"[/\\]", text) if part]
    return parts[-1] if parts else text
