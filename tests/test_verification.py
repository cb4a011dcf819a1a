"""Certificates: who changed what is told apart, and a clip is made again bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import pytest
from PIL import Image
from signers import write_signer
from test_codecs import remux

from vidiff.cli import main
from vidiff.data.export import read_metadata
from vidiff.errors import DataError, RequestError
from vidiff.generation import generate
from vidiff.generation.request import Request
from vidiff.runs.provenance import NOTICE
from vidiff.runs.signing import check_signature, sign
from vidiff.sampling import SampleConfig
from vidiff.verification import read_certificate, replay, verify

FEW = SampleConfig(steps=2)


def retag(source: Path, target: Path, words: dict[str, str]) -> Path:
    """The same coded pictures under other tags."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        new.metadata.update(words)
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips of seeds 3 and 4 and their certificates."""
    out = tmp_path_factory.mktemp("made")
    generate(run, out, Request(seeds=(3, 4), sample=FEW))
    return out


@pytest.fixture
def clip(made: Path, tmp_path: Path) -> Path:
    for name in ("generate-seed0003.mp4", "generate-seed0003.json"):
        shutil.copy(made / name, tmp_path / name)
    return tmp_path / "generate-seed0003.mp4"


def test_a_clip_as_it_was_made_is_intact(clip: Path) -> None:
    found = verify(clip)
    assert (found.verdict, found.reasons, found.signature) == ("intact", (), "none")
    assert "forger" in str(found)


def test_every_flipped_byte_is_found(clip: Path) -> None:
    data = clip.read_bytes()
    for place in range(0, len(data), 41):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        clip.write_bytes(flipped)
        assert verify(clip).verdict != "intact", place


def test_a_flipped_picture_byte_is_found_without_the_file_beside_it(clip: Path) -> None:
    clip.with_suffix(".json").unlink()
    assert verify(clip).verdict == "intact"
    data = bytearray(clip.read_bytes())
    data[-3] ^= 1  # the coded pictures come last
    clip.write_bytes(data)
    found = verify(clip)
    assert found.verdict == "altered"
    assert not found.good


def test_a_remux_keeps_the_certificate_and_is_told_from_a_change(clip: Path) -> None:
    moved = remux(clip, clip.with_name("moved.mp4"))
    shutil.copy(clip.with_suffix(".json"), moved.with_suffix(".json"))
    assert verify(moved).verdict == "moved"
    assert verify(moved).good
    assert read_certificate(moved) == read_certificate(clip)
    assert read_metadata(moved)["comment"] == NOTICE


def test_changed_words_of_a_certificate_are_found(clip: Path) -> None:
    about = json.loads(read_metadata(clip)["synopsis"])
    about["seeds"] = [7]
    found = verify(retag(clip, clip.with_name("changed.mp4"), {"synopsis": json.dumps(about)}))
    assert found.verdict == "altered"
    assert "words" in found.reasons[0]


def test_removed_tags_are_told_from_removed_tags_and_changed_pictures(
    clip: Path, made: Path
) -> None:
    bare = retag(clip, clip.with_name("bare.mp4"), {})
    assert verify(bare).verdict == "unknown"
    shutil.copy(clip.with_suffix(".json"), bare.with_suffix(".json"))
    assert verify(bare).verdict == "stripped"
    assert verify(retag(made / "generate-seed0004.mp4", bare, {})).verdict == "altered"


def test_signed_tampered_and_stripped_files_are_told_apart(clip: Path, tmp_path: Path) -> None:
    chain, key, anchor = write_signer(tmp_path / "pem")
    sign(clip, chain, key, read_certificate(clip))
    assert check_signature(clip) == ("valid", "A Signer")
    assert check_signature(clip, anchor) == ("trusted", "A Signer")
    moved = remux(clip, clip.with_name("moved.mp4"))
    assert check_signature(moved, anchor)[0] == "none"
    data = bytearray(clip.read_bytes())
    data[data.index(b"mdat") + 700] ^= 1
    clip.write_bytes(data)
    state, why = check_signature(clip, anchor)
    assert state == "invalid"
    assert "Hash.mismatch" in why
    assert not verify(clip, anchor).good


def test_sampling_signs_and_the_command_line_verifies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain, key, anchor = write_signer(tmp_path / "pem")
    out = tmp_path / "signed"
    words = ["--steps", "2", "--out", str(out), "--codec", "hevc", "--measure", "--webp", "--png"]
    assert main(["sample", str(run), *words, "--sign", str(chain), "--key", str(key)]) == 0
    clip = out / "generate-seed0000.mp4"
    assert clip.with_suffix(".webp").exists()
    assert len(list((out / "generate-seed0000").glob("*.png"))) == 8
    assert json.loads(clip.with_suffix(".json").read_text())["video"]["encoding_loss"]["psnr"] > 20
    assert main(["verify", str(clip), "--trust", str(anchor)]) == 0
    assert "a given anchor vouches for" in capsys.readouterr().out
    clip.write_bytes(clip.read_bytes()[:-1] + b"!")
    assert main(["verify", str(clip)]) == 3
    assert main(["sample", str(run), "--sign", str(chain)]) == 2


def test_a_wrong_key_is_one_sentence_and_leaves_the_clip(clip: Path, tmp_path: Path) -> None:
    chain, _, _ = write_signer(tmp_path / "pem")
    before = clip.read_bytes()
    with pytest.raises(RequestError, match="could not be signed"):
        sign(clip, chain, chain, {})
    assert clip.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "generate-seed0003.json",
        "generate-seed0003.mp4",
    ]


def test_replay_makes_every_frame_again(
    made: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = made / "generate-seed0004.mp4"
    out = tmp_path / "again"
    assert main(["replay", str(clip), "--run", str(run), "--out", str(out)]) == 0
    assert "bit for bit" in capsys.readouterr().out
    again = read_certificate(out / clip.name)
    was = read_certificate(clip)
    assert again["details"]["frames_sha256"] == was["details"]["frames_sha256"]
    assert verify(out / clip.name).verdict == "intact"


def test_replay_needs_the_same_inputs_and_weights(run: Path, clips: Path, tmp_path: Path) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (16, 16), (200, 30, 60)).save(picture)
    request = Request(task="image-to-video", image=str(picture), sample=FEW, seeds=(1,))
    clip = generate(run, tmp_path / "out", request)[0]
    with pytest.raises(RequestError, match=r"made from a file, first.png"):
        replay(clip, run, tmp_path / "again")
    other = tmp_path / "other.png"
    Image.new("RGB", (16, 16), (0, 0, 0)).save(other)
    with pytest.raises(RequestError, match="is not the file"):
        replay(clip, run, tmp_path / "again", {"image": str(other)})
    _, said = replay(clip, run, tmp_path / "again", {"image": str(picture)})
    assert "bit for bit" in said
    first = sorted((run / "checkpoints").iterdir())[0]
    with pytest.raises(RequestError, match="does not hold the weights"):
        replay(clip, first, tmp_path / "again", {"image": str(picture)})
    with pytest.raises(RequestError, match="would be overwritten"):
        replay(clip, run, clip.parent, {"image": str(picture)})


def test_replay_says_when_frames_differ(made: Path, run: Path, tmp_path: Path) -> None:
    clip = tmp_path / "generate-seed0003.mp4"
    shutil.copy(made / clip.name, clip)
    about = read_certificate(clip)
    about["request"]["sample"]["steps"] = 3
    retag(made / clip.name, clip, {"synopsis": json.dumps(about)})
    _, said = replay(clip, run, tmp_path / "again")
    assert "differ" in said


def test_a_clip_from_elsewhere_has_nothing_to_verify_or_replay(clips: Path, run: Path) -> None:
    clip = sorted(clips.glob("*.mp4"))[0]
    assert verify(clip).verdict == "unknown"
    with pytest.raises(DataError, match="says nothing of vidiff"):
        replay(clip, run, "nowhere")
    with pytest.raises(RequestError, match="no such file"):
        verify("nowhere.mp4")
