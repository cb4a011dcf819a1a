"""Pages of an evaluation stay words and pictures, whatever the files are called."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from textures import walk_clips

from vidiff.evaluation.comparing import Comparison, Difference, write_comparison
from vidiff.evaluation.pages import write_paired, write_robustness
from vidiff.evaluation.pairing import PairedReport
from vidiff.evaluation.robustness import Robustness

HOSTILE = "x'\"><script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Reader(HTMLParser):
    """Collects tags, attributes and what they load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def write_pages(folder: Path) -> list[Path]:
    """One page of each kind, with hostile words wherever words can come from outside."""
    score = {"value": 1.0, "low": 0.5, "high": 2.0, "floor": 1.0, "ratio": 1.0, "n": 4}
    results = {name: {"scores": {"kd.motion": score}} for name in ("a", HOSTILE)}
    difference = Difference(
        line="kd.motion", first="a", other=HOSTILE, difference=1.0, low=0.5, high=2.0, better="a"
    )
    write_comparison(Comparison("0" * 16, results, (difference,), paired=True), folder)
    clips = {"target": walk_clips(4, 4, 16), HOSTILE: walk_clips(4, 4, 16, seed=1)}
    trivial = {HOSTILE: {"value": 1.0, "low": 0.1, "high": 0.2, "beaten": False}}
    protocol = {"task": HOSTILE, "n": 4, "judged": "0 to 3", "card": "0", "seed": 0, "dt": 0.1}
    scores = {"psnr": {"value": 20.0, "low": 19.0, "high": 21.0, "n": 4, "trivial": trivial}}
    write_paired(PairedReport(protocol, scores, (HOSTILE,), clips), folder)
    row = {"name": HOSTILE, "values": {"psnr": float(np.pi)}, "reason": HOSTILE}
    write_robustness(Robustness((row,)), folder)
    return sorted(folder.glob("*.html"))


def test_hostile_names_stay_words_and_nothing_is_loaded(tmp_path: Path) -> None:
    pages = write_pages(tmp_path)
    assert [p.name for p in pages] == ["compare.html", "report.html", "robustness.html"]
    for page in pages:
        read = Reader(page.read_text())
        assert not {"script", "link", "iframe", "object", "base"} & set(read.tags)
        assert not [name for name, _ in read.attributes if name.startswith("on")]
        sources = [value for name, value in read.attributes if name in ("src", "href")]
        assert all(value.startswith("data:") for value in sources)
        assert ("content", "default-src 'none'") in [(n, v[:18]) for n, v in read.attributes]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; the HTML is parsed above")
def test_a_browser_shows_the_films_offline_and_runs_no_script(tmp_path: Path) -> None:
    for page in write_pages(tmp_path):
        done = subprocess.run(
            [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()],
            capture_output=True, text=True, timeout=250, check=True,
        )  # fmt: skip
        read = Reader(done.stdout)
        assert "script" not in read.tags
        assert "<title>owned</title>" not in done.stdout
        assert read.tags.count("video") == (2 if page.name == "report.html" else 0)
