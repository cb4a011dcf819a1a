"""Commands around a run: demo, train, calibrate, and what is planned of them."""

from __future__ import annotations

import argparse
import os
import sys

from vidiff.cli.commands import Commands, made
from vidiff.errors import RequestError


def register(commands: Commands) -> None:
    """Declare these commands."""
    demo = commands.add("demo", _demo, "real clips, a small model, samples, scores, one report")
    demo.add_argument("--out", default="demo", help="folder to work in (default: demo)")
    demo.add_argument("--minutes", type=float, default=10, help="time for all of it (default: 10)")
    demo.add_argument("--data", default="walk", help="walk, bunny, or a folder of your own clips")
    demo.add_argument("--seed", type=int, default=0, help="key of all random numbers")
    demo.add_argument("--samples", type=int, default=128, help="clips to score (default: 128)")

    train = commands.add("train", _train, "train a model, or go on training it")
    train.add_argument("config", help="YAML file")
    train.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")
    train.add_argument("--nproc", help="processes on this machine: a number, or auto")

    calibrate = commands.add(
        "calibrate", _calibrate, "measure the clips: the table training would use"
    )
    calibrate.add_argument("config", help="YAML file")
    calibrate.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")
    commands.later("plan", "what a configuration costs")
    commands.later("report", "one page about a run")
    commands.later("distill", "few-step models")


def _demo(args: argparse.Namespace) -> int:
    from vidiff.demo import DemoConfig, run_demo
    from vidiff.runs.config import make_config

    config = make_config(
        DemoConfig,
        out=args.out,
        minutes=args.minutes,
        data=args.data,
        seed=args.seed,
        samples=args.samples,
    )
    if args.dry_run:
        print(f"Would write clips, a run, samples and report.html into {config.out}:")
        print(config.model_dump_json(indent=2))
        return 0
    return made([run_demo(config)])


def _train(args: argparse.Namespace) -> int:
    if args.nproc and "LOCAL_RANK" not in os.environ:
        _launch(args)
    from vidiff.runs.config import dump_yaml
    from vidiff.settings import read_config
    from vidiff.training import train

    config = read_config(args.config, args.words)
    main = os.environ.get("RANK", "0") == "0"
    if main:
        print(dump_yaml(config))
    if args.dry_run:
        return 0
    run = train(config)
    return made([run.checkpoint, run.folder / "metrics.jsonl"]) if main else 0


def _launch(args: argparse.Namespace) -> None:
    """Become torchrun, so that signals reach it and, through it, every process."""
    count = args.nproc
    if count == "auto":
        import torch

        count = str(torch.cuda.device_count() or 1)
    if not count.isdigit() or int(count) < 1:
        raise RequestError(
            f"--nproc {args.nproc} is no number of processes.", "Give a number, or auto."
        )
    words = [args.config, *args.words]
    words += ["--debug"] * args.debug + ["--dry-run"] * args.dry_run
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
    command = [sys.executable, *launcher, "-m", "vidiff", "train", *words]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _calibrate(args: argparse.Namespace) -> int:
    from vidiff.data.index import scan
    from vidiff.preparation import measure
    from vidiff.settings import read_config

    config = read_config(args.config, args.words)
    index = scan(config.data, config.seed)
    index.require()
    print(measure(index.split("train"), config.train.calibration_clips, config.seed).table())
    return 0
