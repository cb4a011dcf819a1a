"""The page of a run: complete, self-contained, possible while the run goes on."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vidiff.cli import main
from vidiff.errors import RequestError
from vidiff.training.reporting import write_report


class Seen(HTMLParser):
    """Tags and what they load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_finished_run_becomes_one_page_that_loads_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    seen = Seen(out.read_text())
    assert "script" not in seen.tags
    assert all(source.startswith("data:") for source in seen.sources)
    assert "video" in seen.tags
    assert "img" in seen.tags
    assert seen.tags.count("svg") >= 5
    for words in ("Step 6 of 6, finished", "no alarm", "Held-out error", "Noise bands",
                  "learned weight", "kWh", "optimizer.lr", "redundancy"):  # fmt: skip
        assert words in seen.text, words


def test_a_run_under_way_has_a_page_too(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(run, half)
    lines = (half / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (half / "metrics.jsonl").write_bytes(b"".join(lines[:4]) + lines[4][:7])
    shutil.rmtree(half / "samples")
    (half / "timing.jsonl").unlink()
    text = Seen(write_report(half).read_text()).text
    assert "not finished" in text
    assert "None yet" in text
    assert "Not recorded yet" in text


def test_alarms_stand_on_the_page_with_what_to_try_and_run_no_script(
    run: Path, tmp_path: Path
) -> None:
    ill = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(run, ill)
    line = {"step": 5, "alarm": "frozen", "text": "<script>1</script>", "remedy": "Try this."}
    (ill / "alarms.jsonl").write_text(json.dumps(line) + "\n")
    html = write_report(ill).read_text()
    assert "<script" not in html
    assert "<img src=x" not in html
    text = Seen(html).text
    assert "Step 5, frozen: <script>1</script> Try this." in text
    assert "1 alarm(s)" in text


def test_the_page_of_an_evaluation_is_left_alone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "report.html").write_text("<title>Evaluation</title>")
    assert write_report(copy) == copy / "training.html"
    assert "Evaluation" in (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    assert write_report(copy) == write_report(copy) == copy / "report.html"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"metrics\.jsonl"):
        write_report(tmp_path)


def test_the_session_tells_its_versions_and_keeps_secrets(run: Path) -> None:
    line = json.loads((run / "sessions.jsonl").read_text().splitlines()[0])
    assert {"command", "torch", "device", "processes", "threads", "watts"} <= set(line)
    assert not re.search(r"hf_[a-z0-9]{12}", json.dumps(line))
