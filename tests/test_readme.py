"""Every example of the README runs as it stands, in a folder like the reader's."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import media
import pytest
from conftest import TINY_RUN

import vidiff.cli
from vidiff.evaluation import EvalConfig

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.S)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: the configs, and clips of their own.

    The configuration is the real one with the words of a run of seconds written into it.
    """
    import yaml

    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "configs", folder / "configs")
    path = folder / "configs" / "tiny.yaml"
    config = yaml.safe_load(path.read_text())
    for word in TINY_RUN:
        key, value = word.split("=", 1)
        section, name = key.split(".")
        config[section][name] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(config))
    (folder / "clips").mkdir()
    media.write_clips(folder / "clips", count=8, num_frames=24, size=32, fps=10)
    first = min((folder / "clips").glob("*.mp4"))
    shutil.copy(first, folder / "clips" / "clip-000.mp4")
    return folder


def test_the_console_examples_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    lines = [line[2:] for text in blocks("console") for line in text.splitlines()]
    assert len(lines) >= 6
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "vidiff"
        assert (line, vidiff.cli.main(words)) == (line, 0)
    assert (home / "samples" / "generate-seed0007.mp4").is_file()
    assert (home / "runs" / "tiny" / "eval" / "report.html").is_file()


def test_the_python_example_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (text,) = blocks("python")
    names: dict[str, object] = {"few": EvalConfig(num_clips=8)}
    text = text.replace('clips/")', f'clips/", {index_keys()})', 1)
    exec(compile(few_clips(text), "README.md", "exec"), names)
    assert (home / "out.mp4").stat().st_size > 0


def index_keys() -> str:
    words = dict(w.split("=", 1) for w in TINY_RUN)
    return f"num_frames={words['data.num_frames']}, size={words['data.size']}"


def few_clips(text: str) -> str:
    """The same example, scored on few clips: the run of seconds holds out one video only."""
    return text.replace('split("test")))', 'split("test"), config=few))')


def test_the_two_commands_stand_in_the_readme() -> None:
    first, second = blocks("bash")
    assert first.strip().endswith("vidiff demo")
    assert second.strip().endswith("pytest")
    assert "-c constraints.txt" in first
    assert "-c constraints.txt" in second
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
