"""The doctor answers whatever is broken, and never breaks itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vidiff import doctor
from vidiff.cli import main
from vidiff.doctor import Failure, Finding, ask, to_json, to_text


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of the given source in front of the installed ones, here and in children."""
    folder = tmp_path / "planted"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in paths if p))

    def put(name: str, source: str) -> None:
        (folder / f"{name}.py").write_text(source)

    put.folder = folder  # type: ignore[attr-defined]
    return put


def plant_distribution(folder: Path, name: str, version: str, module: str) -> None:
    """What pip leaves behind after installing `name`."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(f"{module}\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n")


def test_this_machine_is_found_fit_and_every_remark_has_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "doctor.json"
    assert main(["doctor", "--out", str(tmp_path), "--json", str(out)]) == 0
    said = json.loads(out.read_text())
    assert said["healthy"] is True
    names = [finding["name"] for finding in said["findings"]]
    for name in ("Python", "packages", "torch", "xformers", "PyAV", "decord", "OpenCV", "disk",
                 "shared memory", "memory", "threads", "open files", "trackers"):  # fmt: skip
        assert name in names
    text = capsys.readouterr().out
    assert "libx264" in text
    assert "This machine can train and sample." in text


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import os; os.abort()", "it crashed (SIGABRT)"),
        ("raise ImportError('libcudart.so.13: no such file')", "libcudart.so.13"),
    ],
)
def test_a_torch_that_does_not_load_is_a_line_not_a_crash(plant, source: str, why: str) -> None:
    plant("torch", source)
    found = list(doctor._torch())
    assert [finding.verdict for finding in found] == ["problem"]
    assert why in found[0].text
    assert "pytorch.org" in found[0].remedy
    assert to_json(found)["healthy"] is False


def test_problems_end_with_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = Finding("torch", "problem", "does not work", "Install torch again.")
    monkeypatch.setattr(doctor, "examine", lambda out: [bad])
    assert main(["doctor"]) == 1
    assert "1 problem(s)" in to_text([bad])


def test_a_decord_that_does_not_load_is_a_remark_because_pyav_reads_too(plant) -> None:
    plant("decord", "raise OSError('wrong ELF class')")
    found = by_name(list(doctor._reader()))["decord"]
    assert found.verdict == "note"
    assert "wrong ELF class" in found.text


def test_two_packages_that_own_one_module_are_told_apart(plant) -> None:
    plant_distribution(plant.folder, "decord2", "3.4.0", "decord")
    plant_distribution(plant.folder, "eva-decord", "0.6.1", "decord")
    found = by_name(list(doctor._reader()))["decord"]
    assert found.verdict == "problem"
    assert "decord2" in found.text
    assert "pip uninstall" in found.remedy


def test_xformers_of_another_torch_is_a_remark_with_the_reason(
    plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plant.folder / "xformers").mkdir()
    (plant.folder / "xformers" / "__init__.py").write_text("__version__ = '0.0.35'")
    broken = "def memory_efficient_attention(*a): raise NotImplementedError('no kernel')"
    (plant.folder / "xformers" / "ops.py").write_text(broken)
    plant_distribution(plant.folder, "xformers", "0.0.35", "xformers")
    found = by_name(list(doctor._xformers()))["xformers"]
    assert found.verdict == "note"
    assert "NotImplementedError on" in found.text
    assert "model.attention=auto" in found.remedy


def test_a_version_below_the_asked_one_is_a_problem(plant) -> None:
    plant_distribution(plant.folder, "einops", "0.2.0", "einops")
    found = by_name(list(doctor._packages()))["packages"]
    assert found.verdict == "problem"
    assert "einops 0.2.0 (>=0.8 asked)" in found.text


def test_a_library_that_hangs_is_given_up(plant) -> None:
    said = ask("import threading; threading.Event().wait()", patience=0.5)
    assert isinstance(said, Failure)
    assert "did not answer" in said.why


def test_a_folder_that_takes_no_files_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vidiff.doctor.tempfile.TemporaryFile", refuse)
    found = by_name(list(doctor._disk(tmp_path / "not" / "yet")))["disk"]
    assert (found.verdict, found.text) == (
        "problem",
        f"{tmp_path} takes no files: Permission denied",
    )


def test_more_threads_than_cpus_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    found = by_name(list(doctor._threads()))["threads"]
    assert found.verdict == "note"
    assert "OMP_NUM_THREADS" in found.remedy


def test_little_shared_memory_names_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 64 * 2**20})
    monkeypatch.setattr("vidiff.doctor.shutil.disk_usage", lambda folder: usage)
    found = by_name(list(doctor._shared_memory()))["shared memory"]
    assert found.verdict == "note"
    assert "data.workers=0" in found.remedy
    assert "--shm-size" in found.remedy
