"""The command line's contract: words, files, exit codes, one sentence and a way out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_RUN
from media import moving_square
from PIL import Image

from vidiff.cli import main
from vidiff.data.clips import read_start
from vidiff.data.export import read_metadata, write_mp4
from vidiff.data.video import probe, read_frames
from vidiff.training import train

CONFIG = str(Path(__file__).parent.parent / "configs" / "tiny.yaml")


def test_help_answers_without_torch() -> None:
    code = (
        "import sys, vidiff.cli\n"
        "try: vidiff.cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "bad = [m for m in ('torch', 'accelerate', 'av', 'cv2') if m in sys.modules]\n"
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sample" in done.stdout


def test_python_dash_m_vidiff_works() -> None:
    command = [sys.executable, "-m", "vidiff", "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("vidiff ")


def test_data_check_gives_a_verdict_for_every_file(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "check.json", tmp_path / "check.csv"
    words = [str(clips), "num_frames=8", "size=16", "--json", str(out), "--csv", str(table)]
    assert main(["data", "check", *words]) == 0
    verdicts = json.loads(out.read_text())
    assert len(verdicts["files"]) == 8
    keys = {"path", "usable", "windows", "reason", "remedy"}
    assert all(keys <= set(file) for file in verdicts["files"])
    assert len(table.read_text().splitlines()) == 9
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("case", ["empty", "no videos", "too short", "missing"])
def test_unusable_folders_end_with_code_3_and_a_remedy(
    case: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, words = tmp_path / "root", []
    if case != "missing":
        root.mkdir()
    if case == "no videos":
        (root / "notes.txt").write_text("no clip here")
    if case == "too short":
        root, words = clips, ["num_frames=500"]
    code = main(["data", "check", str(root), *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == (2 if case == "missing" else 3), lines
    assert lines[0].startswith("error: ")
    assert len(lines) >= 2
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.stesp=3", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("model.size=huge", "model.size"),
        ("data.num_frames=0", "data.num_frames"),
    ],
)
def test_a_bad_word_is_answered_with_its_key_and_code_2(
    word: str, said: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", CONFIG, f"data.root={clips}", f"out={out}", word]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_missing_config_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "configs/tyni.yaml"]) == 2
    assert "tyni.yaml" in capsys.readouterr().err


def test_commands_that_are_not_there_yet_say_so_in_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    for name in re.findall(r"^    (\w+) .*not there yet", capsys.readouterr().out, re.M):
        assert main([name]) == 2
        assert "is not there yet" in capsys.readouterr().err


def test_train_then_sample_then_eval_from_the_command_line(
    run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "samples"
    words = ["--seeds", "0-5", "--steps", "3", "--out", str(out), "--gif"]
    assert main(["sample", str(run), *words]) == 0
    clip = out / "generate-seed0003.mp4"
    info = probe(clip)
    assert (info.num_frames, info.width, info.height) == (8, 16, 16)
    assert info.fps == pytest.approx(10)
    sidecar = json.loads(clip.with_suffix(".json").read_text())
    assert sidecar["seeds"] == [3]
    assert len(sidecar["weights_sha256"]) == len(sidecar["data_digest"]) == 64
    assert read_metadata(clip)
    assert main(["info", str(clip)]) == 0
    assert "AI-generated" in capsys.readouterr().out
    result = tmp_path / "eval.json"
    words = ["--data", str(clips), "--split", "all", "--clips", "8", "--json", str(result)]
    words += ["num_frames=8", "size=16"]
    assert main(["eval", str(out), *words, "--out", str(tmp_path / "report")]) == 0
    scores = json.loads(result.read_text())
    assert {"protocol", "scores", "per_clip", "anchors", "copies", "warnings"} <= set(scores)
    assert {"value", "low", "high", "floor", "ratio", "n"} == set(scores["scores"]["kd.motion"])
    assert (tmp_path / "report" / "report.html").is_file()


def test_two_processes_share_the_seeds_and_make_the_files_of_one(run: Path, tmp_path: Path) -> None:
    made = {}
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # what each of several processes gets
    words = [str(run), "--seeds", "0-4", "steps=3", "guide=time", "guidance=2", "--preview"]
    for count in ("1", "2"):
        out = tmp_path / count
        command = ["-m", "vidiff", "sample", *words, "--out", str(out), "--nproc", count]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=one)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Made:") == 1
        assert "calls of the network" in done.stdout
        made[count] = {p.name: p.read_bytes() for p in out.iterdir() if p.name != "preview.png"}
        assert (out / "preview.png").is_file()
    assert len(made["1"]) == 11
    assert made["1"] == made["2"]


def test_tasks_with_inputs_keep_what_they_were_given(
    run: Path, clips: Path, tmp_path: Path
) -> None:
    clip = str(next(clips.glob("*.mp4")))
    image, mask = tmp_path / "first.png", tmp_path / "mask.png"
    Image.new("RGB", (40, 30), (200, 30, 60)).save(image)
    hole = Image.new("L", (16, 16), 0)
    hole.paste(255, (4, 4, 12, 12))
    hole.save(mask)
    common = ["--steps", "2", "--out", str(tmp_path / "out")]
    for task, words in {
        "image-to-video": ["--image", str(image)],
        "predict": ["--clip", clip, "--keep", "2"],
        "backward": ["--clip", clip, "--keep", "2"],
        "interpolate": ["--clip", clip, "--keep", "1"],
        "upsample-time": ["--clip", clip],
        "inpaint": ["--clip", clip, "--mask", str(mask)],
        "outpaint": ["--clip", clip, "--inner", "0.5"],
        "edit": ["--clip", clip, "--strength", "0.3"],
        "vary": ["--clip", clip, "--strength", "0.3"],
        "loop": ["--keep", "2"],
        "rollout": ["--keep", "2", "--frames", "13", "--clip", clip],
    }.items():
        code = main(["sample", str(run), "--task", task, *words, *common])
        assert (task, code) == (task, 2 if task in ("inpaint", "outpaint") else 0)
        assert (tmp_path / "out" / f"{task}-seed0000.mp4").exists() == (code == 0)


@pytest.mark.parametrize("method", ["slide", "roll", "keyframes"])
def test_a_rollout_is_as_long_as_asked_and_made_again_bit_for_bit(
    method: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "rollout", "--method", method, "--frames", "11", "--keep", "2"]
    out = str(tmp_path / "out")
    assert main(["sample", str(run), *words, "--steps", "2", "--out", out]) == 0
    clip = tmp_path / "out" / "rollout-seed0000.mp4"
    assert probe(clip).num_frames == 11
    again = str(tmp_path / "again")
    assert main(["replay", str(clip), "--run", str(run), "--out", again]) == 0
    assert "bit for bit" in capsys.readouterr().out
    start = str(tmp_path / "out" / "rollout-seed0000.mp4")
    code = main(["sample", str(run), *words, "--steps", "2", "--clip", start, "--out", again])
    assert code == (0 if method == "slide" else 2)


def test_a_run_with_pixel_levels_fills_holes_and_frames(clips: Path, tmp_path: Path) -> None:
    words = ["model.pixel_levels=true", "tasks.shared=0.5", "tasks.pixels=0.05"]
    run = train(None, *TINY_RUN, *words, data=clips, out=tmp_path / "run", say=len).folder
    clip = sorted(clips.glob("*.mp4"))[0]
    mask = write_mp4(tmp_path / "mask.mp4", moving_square(24, (32, 32)), 10)
    common = ["--clip", str(clip), "--steps", "2", "--out", str(tmp_path / "out"),
              "--codec", "lossless"]  # fmt: skip
    assert main(["sample", str(run), "--task", "inpaint", "--mask", str(mask), *common]) == 0
    code = main(["sample", str(run), "--task", "outpaint", "--inner", "0.5", *common])
    assert code == 0
    given = read_start(clip, 8, 0.1, 8)
    made = read_frames(
        tmp_path / "out" / "outpaint-seed0000.mp4", [0.05 + k / 10 for k in range(8)]
    )
    assert (made[:, 4:12, 4:12] == given.numpy()).all()
    assert made[:, :4].std() > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "dance"], "dance"),
        (["--task", "vary"], "needs --clip"),
        (["--task", "predict"], "--clip"),
        (["--task", "image-to-video", "--image", "nowhere.png"], "nowhere.png"),
        (["--seeds", "4-1"], "--seeds"),
        (["--steps", "0"], "steps"),
        (["--sampler", "magic"], "sampler"),
        (["--guidance", "2"], "guidance"),
        (["guide=auto", "guidance=2"], "reference"),
        (["guide=histroy", "guidance=2"], "guide"),
        (["gudie=time"], "guide"),
    ],
)
def test_bad_requests_end_with_code_2_and_write_nothing(
    run: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["sample", str(run), "--out", str(out), *words]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("command", ["train", "sample", "eval", "demo"])
def test_a_dry_run_writes_nothing(
    command: str, run: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = {
        "train": [CONFIG, f"data.root={clips}", f"out={out}", *TINY_RUN],
        "sample": [str(run), "--out", str(out)],
        "eval": [str(run), "--data", str(clips), "--out", str(out)],
        "demo": ["--out", str(out)],
    }[command]
    assert main([command, *words, "--dry-run"]) == 0
    assert capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_one_sentence_unless_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fault(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("by nobody")

    monkeypatch.setattr("vidiff.verification.read_metadata", fault)
    assert main(["info", "x.mp4"]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "Traceback" not in said
    assert main(["info", "x.mp4", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
