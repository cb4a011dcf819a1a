"""One page about a run: how it learns, whether it is well, what it makes, what it costs.

Everything is read from the run's folder, so a page can be made while the run goes on, on another
machine, or years later. The page holds all it shows and opens offline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vidiff.errors import RequestError
from vidiff.runs.files import read_json
from vidiff.runs.page import Media, Page
from vidiff.runs.tracking import in_words, read_metrics

MARK = "Made by `vidiff report`"
Lines = Sequence[Mapping[str, Any]]


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: a folder that `vidiff train` wrote, finished or not.
        out: the file; by default `report.html` in the run, or `training.html` where that is
            another page, an evaluation's.

    Raises:
        RequestError: no run is there.
    """
    folder = Path(run)
    if not (folder / "metrics.jsonl").is_file():
        raise RequestError(
            f"{run} holds no metrics.jsonl.", "Give a folder that `vidiff train` wrote."
        )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    lines = read_metrics(folder / "metrics.jsonl")
    alarms, sessions, timing = (
        _optional(folder / f"{name}.jsonl") for name in ("alarms", "sessions", "timing")
    )
    page = Page(
        f"Training of {folder.name or folder.resolve().name}",
        _summary(folder, config, lines, alarms),
        f"{MARK}. Everything on this page is in the page; it loads nothing.",
    )
    _show_health(page, alarms, lines)
    _show_previews(page, folder)
    _show_curves(page, lines)
    _show_bands(page, lines)
    _show_cost(page, timing, sessions, lines)
    _show_config(page, folder, config, sessions)
    return page.write(_place(folder, out))


def _optional(path: Path) -> list[dict[str, Any]]:
    return read_metrics(path) if path.is_file() else []


def _place(folder: Path, out: str | Path | None) -> Path:
    if out is not None:
        return Path(out)
    usual = folder / "report.html"
    ours = not usual.exists() or MARK in usual.read_text(encoding="utf-8", errors="replace")
    return usual if ours else folder / "training.html"


def _steps(folder: Path, config: Mapping[str, Any]) -> int:
    plan = folder / "plan.json"
    return int(read_json(plan)["steps"] if plan.exists() else config["train"]["steps"])


def _summary(folder: Path, config: Mapping[str, Any], lines: Lines, alarms: Lines) -> str:
    done, steps = max((line["step"] for line in lines), default=0), _steps(folder, config)
    state = "finished" if done >= steps else "not finished"
    held_out = [line["held_out"] for line in lines if "held_out" in line]
    error = f" Held-out error {held_out[-1]:.3f} (1: nothing learnt)." if held_out else ""
    ill = f"{len(alarms)} alarm(s)" if alarms else "no alarm"
    return f"Step {done} of {steps}, {state}; {ill}.{error}"


def _show_health(page: Page, alarms: Lines, lines: Lines) -> None:
    page.heading("Health")
    if not alarms:
        page.note("No alarm was raised: nothing blew up, froze, flickered or was learnt by "
                  "heart, as far as the run has looked.", tone="good")  # fmt: skip
    for alarm in alarms:
        page.note(f"Step {alarm['step']}, {alarm['alarm']}: {alarm['text']} {alarm['remedy']}",
                  tone="bad")  # fmt: skip
    skipped = sum(bool(line.get("skipped")) for line in lines)
    if skipped:
        page.text(f"{skipped} step(s) were skipped: their gradient was out of line.")


def _show_previews(page: Page, folder: Path) -> None:
    sheets = sorted((folder / "samples").glob("step-*.png"))
    if not sheets:
        page.heading("Samples")
        page.text("None yet: the first come at train.preview_every steps.")
        return
    page.heading("Samples from fixed seeds")
    film = sheets[-1].with_suffix(".mp4")
    if film.is_file():
        caption = f"Step {_number(film)}: the same noise as in every picture below."
        page.media(Media(film.read_bytes(), "video/mp4", caption, width=720))
    chosen = sorted({*(round(i * (len(sheets) - 1) / 3) for i in range(4))})
    for i in chosen:
        page.media(Media(sheets[i].read_bytes(), "image/png", f"Step {_number(sheets[i])}"))


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _series(lines: Lines, name: str) -> tuple[list[int], list[float]]:
    pairs = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _levels(lines: Lines, kind: str) -> list[str]:
    """Names of that kind, by level."""
    last = next((line for line in reversed(lines) if "held_out" in line), {})
    names = [name for name in last if name.startswith(f"{kind}.")]
    return sorted(names, key=lambda name: float(name.split(".", 1)[1]))


def _show_curves(page: Page, lines: Lines) -> None:
    page.heading("Learning")
    bands = {f"noise {n.split('.', 1)[1]}": _series(lines, n) for n in _levels(lines, "held_out")}
    if bands:
        page.curve(bands, x="step", y="held-out error", log=True,
                   caption="Fixed clips and noise, a line a level; 1: nothing learnt.")  # fmt: skip
    page.curve({"error": _series(lines, "error")}, x="step", y="training error", log=True,
               caption="As noisy as the drawn levels; the curves above tell more.")  # fmt: skip
    page.curve({"gradient norm": _series(lines, "grad_norm")}, x="step", y="norm", log=True)
    page.curve({"learning rate": _series(lines, "lr")}, x="step", y="rate")
    moved = {n: _series(lines, f"sample.{n}") for n in ("motion", "change", "flicker")}
    if moved["motion"][0]:
        page.curve({"motion": moved["motion"]}, x="step", y="widths/s",
                   caption="How much the samples move, in frame widths a second.")  # fmt: skip
        page.curve({n: moved[n] for n in ("change", "flicker")}, x="step", y="grey levels",
                   caption="Change from frame to frame, and flicker of brightness.")  # fmt: skip


def _show_bands(page: Page, lines: Lines) -> None:
    last = next((line for line in reversed(lines) if "held_out" in line), None)
    if last is None:
        return
    page.heading("Noise bands")
    rows = []
    for name in _levels(lines, "held_out"):
        level = name.split(".", 1)[1]
        seen = last.get(f"train.{level}", math.nan)
        rows.append([level, last[name], seen, last[name] / seen])
    page.table(["noise", "held out", "training clips", "ratio"], rows,
               caption=f"Errors at step {last['step']}; a ratio that grows while the held-out "
               "error rises means that clips are learnt by heart.")  # fmt: skip
    weights = _levels(lines, "weight")
    if weights:
        levels = [math.log(float(name.split(".", 1)[1])) for name in weights]
        page.curve({"weight": (levels, [last[name] for name in weights])}, x="ln noise level",
                   y="learned weight", log=True,
                   caption="The weight that the network gave each level: the inverse of the "
                   "error it expects there.")  # fmt: skip


def _show_cost(page: Page, timing: Lines, sessions: Lines, lines: Lines) -> None:
    page.heading("Cost")
    if not timing or not sessions:
        page.text("Not recorded yet.")
        return
    about = sessions[-1]
    seconds = sum(line.get("total", line["seconds"]) for line in timing)
    waited = sum(line["waited"] for line in timing) / max(1e-9, sum(t["seconds"] for t in timing))
    busy = seconds * about["processes"]
    unit = "GPU" if about["device"] == "cuda" else "CPU"
    joule = busy * about["watts"]
    page.table(
        ["what", "value"],
        [
            ["time of its steps", in_words(seconds)],
            [f"{unit} process-seconds", f"{busy:.0f}"],
            ["waiting for data", f"{waited:.1%}"],
            ["energy, estimated", f"{joule / 3.6e6:.3g} kWh"],
            ["processes", f"{about['processes']} on {about['device_name']}"],
        ],
        caption=f"Energy assumes {about['watts']:.0f} W a process ({about['watts_from']}); "
        "cooling, memory and the rest of the machine are left out.",
    )


def _show_config(page: Page, folder: Path, config: Mapping[str, Any], sessions: Lines) -> None:
    page.heading("What it was")
    page.table(["key", "value"], [[key, str(value)] for key, value in _flat(config)])
    calibration = folder / "calibration.json"
    if calibration.is_file():
        rows = [[key, str(value)] for key, value in read_json(calibration).items()]
        page.table(["measured on the clips", "value"], rows)
    if sessions:
        names = [n for n in sessions[-1] if n not in ("watts", "watts_from")]
        rows = [[n, *(str(s.get(n, "")) for s in sessions[-3:])] for n in names]
        header = ["session", *(f"from step {s['step']}" for s in sessions[-3:])]
        page.table(header, rows, caption="The last sessions of this run.")


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in data.items():
        nested = isinstance(value, Mapping)
        pairs += _flat(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]
    return pairs
