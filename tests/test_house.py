"""The house itself: style, types, floors, sizes, and files that keep their promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidiff.models.unet import SpaceTimeUNet
from vidiff.training.settings import read_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports", "--no-cache"],
    ],
    ids=["ruff", "format", "mypy", "floors"],
)
def test_the_tree_passes(command: list[str]) -> None:
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*ROOT.glob("vidiff/**/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("tests/*.py")]
    long = {str(f.relative_to(ROOT)): n for f in files if (n := lines(f)) > 400}
    assert files
    assert long == {}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_opens_with_its_command_and_builds_its_network(path: Path) -> None:
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith(f"# vidiff train configs/{path.name} ")
    assert re.search(r"minute|day|hour", second)
    config = read_config(path)
    with torch.device("meta"):
        network = SpaceTimeUNet(config.model, config.data.size)
    assert sum(p.numel() for p in network.parameters()) > 1e6


def test_the_readme_names_every_module() -> None:
    text = (ROOT / "README.md").read_text()
    modules = [p for p in ROOT.glob("vidiff/**/*.py") if p.name != "__init__.py"]
    missing = [p.name for p in modules if f" {p.name} " not in text]
    assert missing == []


def test_the_constraints_pin_every_core_dependency() -> None:
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = (ROOT / "pyproject.toml").read_text()
    block = project.split("dependencies = [")[1].split("\n]")[0]
    names = re.findall(r'^    "([A-Za-z0-9_.-]+)', block, re.M)
    assert len(names) > 10
    assert {n.lower().replace("_", "-") for n in names} <= pinned


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    hosts = "/" + "work/", "/" + "root/", "site" + "-packages/"
    for path in [*ROOT.glob("vidiff/**/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]:
        assert not any(h in path.read_text() for h in hosts), path


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
