"""Whether a clip is as it was made, and the same clip made again.

A certificate lies in the clip's tags and in the file beside it. It holds the hash of the coded
pictures, which a change of container leaves alone, of its own words, and of the frames before
encoding; the file beside the clip also knows the hash of the whole file. Comparing them tells what
was changed. None of it resists a forger, who can compute hashes too: a signature does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vidiff.data.export import hash_stream, read_metadata
from vidiff.errors import DataError, RequestError
from vidiff.generation.making import hash_frames, make_clips, rate_of, write_clip
from vidiff.generation.request import INPUTS, Request
from vidiff.generation.upscaling import upscale
from vidiff.pipeline import VideoDiffusion
from vidiff.runs import signing
from vidiff.runs.files import hash_file, read_json
from vidiff.runs.provenance import SEALS, environment, from_metadata, is_sealed
from vidiff.saved import load, weights_in

Verdict = Literal["intact", "moved", "altered", "stripped", "unknown"]

_SAID = {
    "intact": "The file is as it was made.",
    "moved": "The pictures and the certificate are as they were made; the container is another.",
    "altered": "The file was changed after it was made.",
    "stripped": "The tags were removed; the pictures are those of the certificate beside the file.",
    "unknown": "Nothing in or beside the file tells how it was made.",
}


@dataclass(frozen=True)
class Finding:
    """What `verify` found."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """One sentence for each thing that does not fit."""
    signature: signing.Signature | None
    """None where c2pa-python is not installed."""
    signer: str = ""

    @property
    def good(self) -> bool:
        """True where the pictures are the certificate's and no signature is broken."""
        return self.verdict in ("intact", "moved") and self.signature != "invalid"

    def __str__(self) -> str:
        words = {
            None: "Signature: not checked (pip install 'vidiff[provenance]').",
            "none": "Signature: none, so only accidents would show; a forger can write new hashes.",
            "trusted": f"Signature: intact, by {self.signer}, whom a given anchor vouches for.",
            "valid": f"Signature: intact, by {self.signer}; nobody vouched for it (see --trust).",
            "invalid": f"Signature: broken ({self.signer}).",
        }
        head = f"{self.verdict}: {_SAID[self.verdict]}"
        return "\n".join([head, *self.reasons, words[self.signature]])


def verify(path: str | Path, anchors: str | Path | None = None) -> Finding:
    """Compare a clip with what its certificates say.

    Args:
        anchors: PEM file of certificates trusted to vouch for signers.

    Raises:
        RequestError: no such file, or the anchors cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestError(f"{path}: there is no such file.", "Check the path.")
    signature, signer = (None, "")
    if anchors or signing.have_library():
        signature, signer = signing.check_signature(path, anchors)
    beside = _sidecar(path)
    try:
        tags, (_, stream) = read_metadata(path), hash_stream(path)
    except DataError as error:
        verdict: Verdict = "altered" if beside else "unknown"
        return Finding(verdict, (f"It is no readable video any more: {error.cause}",),
                       signature, signer)  # fmt: skip
    try:
        inside = from_metadata(tags)
    except DataError as error:
        if not beside:
            return Finding("unknown", (error.cause,), signature, signer)
        if beside.get("stream_sha256") == stream:
            return Finding("stripped", (), signature, signer)
        reason = "The tags were removed, and the pictures are not those of the certificate beside."
        return Finding("altered", (reason,), signature, signer)
    reasons = tuple(_differences(path, inside, beside, stream))
    whole = beside is not None and beside["video"]["sha256"] == hash_file(path)
    if reasons:
        return Finding("altered", reasons, signature, signer)
    return Finding("intact" if whole or not beside else "moved", (), signature, signer)


def _differences(
    path: Path, inside: dict[str, Any], beside: dict[str, Any] | None, stream: str
) -> list[str]:
    found = []
    if inside.get("stream_sha256") != stream:
        found.append("The pictures are not those that were certified.")
    if not is_sealed(inside):
        found.append("The words of the certificate in the file were changed.")
    if beside:
        words = {key: value for key, value in beside.items() if key != "video"}
        if words != inside:
            found.append("The certificates in the file and beside it differ.")
    return found


def _sidecar(path: Path) -> dict[str, Any] | None:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return None
    try:
        found = read_json(beside)
    except RequestError:
        return None
    known = isinstance(found, dict) and "ai_generated" in found
    return found if known and isinstance(found.get("video"), dict) else None


def read_certificate(path: str | Path) -> dict[str, Any]:
    """The certificate in a clip's tags, or in the JSON file beside it.

    Raises:
        DataError: there is neither.
    """
    path = Path(path)
    try:
        return from_metadata(read_metadata(path))
    except DataError as error:
        beside = _sidecar(path)
        if beside is None:
            raise DataError(
                f"{path} says nothing of vidiff: it was made elsewhere, or its tags were removed.",
                "Look for the file of the same name that ends in .json, and lay it beside.",
            ) from error
        return {key: value for key, value in beside.items() if key != "video"}


def replay(
    path: str | Path,
    run: str | Path,
    out: str | Path,
    inputs: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Path], str]:
    """Make a certified clip again.

    Args:
        run: the run or exported folder that made it.
        inputs: files that the request names (`image`, `clip`, `mask`), withheld captions, and the
            run of a second model (`then`).

    Returns:
        the files made, and a sentence on whether every frame is the same bit for bit.

    Raises:
        DataError: the file has no certificate.
        RequestError: the run holds other weights, or an input is missing or is another file.
    """
    about = read_certificate(path)
    request = _request(about, inputs or {})
    model = _model(run, about["weights_sha256"])
    facts = about["details"]
    threads = torch.get_num_threads()
    torch.set_num_threads(int(facts["threads"]))
    try:
        batch = [int(seed) for seed in facts["batch"]]
        frames = make_clips(model, request, batch, progress)
        if "then" in facts:
            upscaler = _upscaler(facts["then"]["weights_sha256"], inputs or {})
            frames = upscale(upscaler, frames, batch, request.sample, request.keep)
    finally:
        torch.set_num_threads(threads)
    row = batch.index(request.seeds[0])
    digest = hash_frames(frames[row])
    kept = {key: value for key, value in about.items() if key not in SEALS}
    again = {**kept, "details": {**facts, "frames_sha256": digest}}
    clip = Path(out) / Path(path).name
    if clip.resolve() == Path(path).resolve():
        raise RequestError(f"{clip} would be overwritten.", "Choose another --out.")
    made = [clip, *write_clip(clip, frames[row], rate_of(model, request), again, request)]
    if digest == facts["frames_sha256"]:
        return made, "Every frame is the same, bit for bit."
    now = environment()
    changed = [f"{name} {old} is now {now.get(name)}" for name, old in about["environment"].items()
               if now.get(name) != old]  # fmt: skip
    why = "; ".join(changed) if changed else f"made on {facts['device']}, with the same versions"
    return made, f"The frames differ from those that were certified ({why})."


def _request(about: dict[str, Any], inputs: dict[str, str]) -> Request:
    asked = dict(about["request"])
    for name in INPUTS:
        stored = about["details"]["inputs"].get(name)
        if stored is None:
            continue
        given = inputs.get(name)
        if given is None or not Path(given).is_file():
            raise RequestError(
                f"The clip was made from a file, {asked[name]}, which replay needs.",
                f"Add --{name} FILE.",
            )
        if hash_file(given) != stored:
            raise RequestError(
                f"--{name} {given} is not the file that the clip was made from.",
                f"Give the {asked[name]} with SHA-256 {stored}.",
            )
        asked[name] = given
    withheld = [name for name, value in asked.items() if value == "[withheld]"]
    for name in withheld:
        if name not in inputs:
            raise RequestError(
                f"The certificate withholds the {name} of the request.", f"Add --{name} TEXT."
            )
        asked[name] = inputs[name]
    return Request(**asked, seeds=tuple(about["seeds"]))


def _upscaler(weights_hash: str, inputs: dict[str, str]) -> VideoDiffusion:
    if "then" not in inputs:
        raise RequestError(
            "The clip was made large by a second model, which replay needs.", "Add --then RUN."
        )
    return _model(inputs["then"], weights_hash)


def _model(run: str | Path, weights_hash: str) -> VideoDiffusion:
    """The weights of that hash, whichever of the run's they are."""
    names = weights_in(run)
    for name in names:
        model = load(run, name)
        if model.weights_hash == weights_hash:
            return model
    raise RequestError(
        f"{run} does not hold the weights that made the clip ({', '.join(names)} are others).",
        "Name the run, or the checkpoint folder, that was sampled.",
    )
