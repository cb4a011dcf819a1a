"""Signed provenance: a C2PA manifest in the file, by the user's own certificate.

The certificate in a clip's tags says how it was made, to whoever believes it; a signature says who
said so, and breaks when a byte changes. Off unless asked for, and nothing here opens a connection:
no time stamp server, no remote manifest. C2PA is C2PA Technical Specification 2.x, Coalition for
Content Provenance and Authenticity; the work is done by c2pa-python (extra `provenance`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vidiff.errors import RequestError, VidiffError
from vidiff.runs.files import write_atomically
from vidiff.runs.provenance import SOURCE_TYPE

Signature = Literal["none", "trusted", "valid", "invalid"]
"""`valid`: intact, but nobody vouched for its signer; `trusted`: by one of the given anchors."""

_OFFLINE = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


def sign(path: str | Path, chain: str | Path, key: str | Path, about: Mapping[str, Any]) -> Path:
    """Sign a finished clip in place.

    Args:
        chain: PEM file with the signer's certificate first, then those that vouch for it.
        key: PEM file with its private key (ECDSA P-256, unencrypted).
        about: the clip's certificate, stored as an assertion.

    Raises:
        RequestError: c2pa-python is missing, or the certificate and key cannot be used.
        VidiffError: the file could not be written.
    """
    c2pa = _library()
    manifest = {
        "claim_generator_info": [{"name": "vidiff"}],
        "title": Path(path).name,
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
            },
            {"label": "org.vidiff.certificate", "data": dict(about)},
        ],
    }
    try:
        info = c2pa.C2paSignerInfo(
            alg=b"es256",
            sign_cert=Path(chain).read_bytes(),
            private_key=Path(key).read_bytes(),
            ta_url=None,
        )
        with write_atomically(path) as temporary, c2pa.Signer.from_info(info) as signer:
            context = c2pa.Context.from_dict(_OFFLINE)
            c2pa.Builder(json.dumps(manifest), context).sign_file(path, temporary, signer)
    except (OSError, c2pa.C2paError) as error:
        raise RequestError(
            f"{path} could not be signed with {chain} and {key}: {error}.",
            "Give PEM files of an ECDSA P-256 certificate made for document signing, and its key.",
        ) from error
    return Path(path)


def check_signature(path: str | Path, anchors: str | Path | None = None) -> tuple[Signature, str]:
    """Whether a file is signed, and by whom.

    Args:
        anchors: PEM file of the certificates that are trusted to vouch for signers.

    Raises:
        RequestError: c2pa-python is missing, or the anchors cannot be read.
    """
    c2pa = _library()
    settings: dict[str, Any] = {"verify": {**_OFFLINE["verify"], "verify_trust": bool(anchors)}}
    if anchors:
        try:
            settings["trust"] = {"trust_anchors": Path(anchors).read_text()}
        except (OSError, ValueError) as error:
            raise RequestError(f"--trust {anchors} cannot be read: {error}.") from error
    try:
        with c2pa.Reader(str(path), context=c2pa.Context.from_dict(settings)) as reader:
            state, found = str(reader.get_validation_state()), json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return "none", ""
    except c2pa.C2paError as error:
        return "invalid", str(error)
    active = found["manifests"][found["active_manifest"]]
    signer = active.get("signature_info", {}).get("issuer") or "an unnamed signer"
    if state == "Invalid":
        codes = [status["code"] for status in found.get("validation_status", [])]
        return "invalid", ", ".join(codes)
    return ("trusted", signer) if state == "Trusted" else ("valid", signer)


def have_library() -> bool:
    """Whether c2pa-python is installed."""
    try:
        _library()
    except VidiffError:
        return False
    return True


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise RequestError(
            "Signatures need c2pa-python, which is not installed.",
            "Install it: pip install 'vidiff[provenance]'.",
        ) from error
    return c2pa
