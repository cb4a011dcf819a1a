from __future__ import annotations

import getpass
import json
import math
import socket
import sys
from pathlib import Path, PureWindowsPath
from typing import Any

import av
import numpy as np
import pytest

import vidiff
from vidiff.errors import DataError, RequestError
from vidiff.runs.files import hash_file
from vidiff.runs.provenance import (
    NOTICE,
    certificate,
    environment,
    from_metadata,
    to_metadata,
    write_sidecar,
)


def make(request: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    request = {"task": "generate", "steps": 18, "guidance": 1.5} if request is None else request
    return certificate(request, weights_hash="ab" * 32, data_digest="cd" * 32, seeds=[3], **more)


def write_clip(path: Path, tags: dict[str, str]) -> None:
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(tags)
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in (0, 128, 255):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_certificate_says_plainly_that_the_clip_is_ai_generated() -> None:
    made = make()
    assert made["ai_generated"] is True
    assert made["notice"].startswith("AI-generated")
    assert made["digital_source_type"].endswith("trainedAlgorithmicMedia")
    assert to_metadata(made)["comment"] == NOTICE


def test_a_certificate_holds_what_makes_the_clip_again() -> None:
    made = make(step=500, device="cpu")
    assert made["request"] == {"task": "generate", "steps": 18, "guidance": 1.5}
    assert made["seeds"] == [3]
    assert made["weights_sha256"] == "ab" * 32
    assert made["data_digest"] == "cd" * 32
    assert made["details"] == {"step": 500, "device": "cpu"}
    assert made["environment"]["vidiff"]
    assert make() == make()


def test_details_cannot_take_back_the_notice() -> None:
    made = make(notice="filmed by hand", ai_generated=False)
    assert made["ai_generated"] is True
    assert made["notice"] == NOTICE


def test_the_certificate_survives_the_metadata_of_a_real_mp4(tmp_path: Path) -> None:
    made = make({"task": "edit", "note": 'Füße "x" \\ \n \u2028 = ; #', "levels": (1e-3, 1 / 3)})
    write_clip(tmp_path / "a.mp4", to_metadata(made))
    with av.open(str(tmp_path / "a.mp4")) as container:
        tags = dict(container.metadata)
    assert from_metadata(tags) == made
    assert tags["comment"] == NOTICE


def test_a_clip_without_a_certificate_says_so() -> None:
    with pytest.raises(DataError, match="no certificate"):
        from_metadata({"comment": "holiday"})
    for text in ("{", "[]", "[" * 100_000):
        with pytest.raises(DataError, match="certificate is n"):
            from_metadata({"synopsis": text})


def test_the_sidecar_lies_beside_the_clip_and_knows_its_bytes(tmp_path: Path) -> None:
    clip = tmp_path / "generate-seed0003.mp4"
    made = make()
    write_clip(clip, to_metadata(made))
    sidecar = write_sidecar(clip, made)
    assert sidecar == tmp_path / "generate-seed0003.json"
    found = json.loads(sidecar.read_text())
    video = found.pop("video")
    assert found == made
    assert video == {
        "file": clip.name,
        "bytes": clip.stat().st_size,
        "sha256": hash_file(clip),
    }


SECRET = "s3cr3tvalue"


def test_no_secret_reaches_a_certificate() -> None:
    request = {
        "hub_token": SECRET,
        "tracker": {"api_key": SECRET, "url": f"https://me:{SECRET}@host/x"},
        "command": f"vidiff sample x hub_token={SECRET}",
        "words": [f"tracker.api_key={SECRET}"],
    }
    assert SECRET not in json.dumps(make(request, wandb_key=SECRET, inner=request))


@pytest.mark.parametrize(
    "path",
    [
        "/home/anna/clips/in.mp4",
        Path("/home/anna/in.mp4"),
        PureWindowsPath("C:\\Users\\anna\\in.mp4"),
        "C:\\Users\\anna\\in.mp4",
        "~anna/in.mp4",
        "../anna/in.mp4",
        "file:///home/anna/in.mp4",
        "anna/in.mp4",
        "vidiff sample /home/anna/in.mp4",
    ],
)
def test_no_local_path_reaches_a_certificate(path: Any) -> None:
    made = make({"clip": path, "inputs": {str(path): "sha"}, "list": [path]}, source=path)
    assert "anna" not in json.dumps(made)
    assert made["request"]["clip"] == "in.mp4"
    assert made["request"]["inputs"] == {"in.mp4": "sha"}


def test_fractions_and_web_addresses_are_no_local_paths() -> None:
    request = {"fps": "30000/1001", "model": "https://example.org/a/b", "root": "/"}
    assert make(request)["request"] == request


def test_prompts_are_published_only_when_asked_for() -> None:
    request = {"prompt": "Anna/Ben walk", "caption": None, "steps": 2}
    assert make(request)["request"] == {"prompt": "[withheld]", "caption": None, "steps": 2}
    assert make(request, keep_prompt=True)["request"] == request


def test_numbers_that_json_lacks_become_text_and_foreign_objects_are_refused() -> None:
    assert make({"start": math.inf})["request"] == {"start": "inf"}
    with pytest.raises(RequestError, match="object"):
        make({"x": object()})


def test_the_environment_names_versions_and_nobody() -> None:
    found = environment()
    assert found["vidiff"] == vidiff.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"].startswith("2.")
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert getpass.getuser() not in text
    assert str(Path.home()) not in text
