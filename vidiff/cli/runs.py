"""Commands around a run: demo, train, calibrate, and what is planned of them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from vidiff.cli.commands import Commands, made
from vidiff.cli.launching import die_with_parent

if TYPE_CHECKING:
    from vidiff.training.settings import TrainConfig


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
    train.add_argument("--nodes", type=int, default=1, help="machines; run this once on each")
    train.add_argument("--rendezvous", help="HOST:PORT where the machines meet, one for all")

    train.add_argument(
        "--overfit-one", action="store_true",
        help="self-test: learn one clip by heart, say whether that works, train nothing else",
    )  # fmt: skip
    train.add_argument("--schema", action=_Schema, help="print the JSON schema for editors")

    calibrate = commands.add(
        "calibrate", _calibrate, "measure the clips: the table training would use"
    )
    calibrate.add_argument("config", help="YAML file")
    calibrate.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")

    plan = commands.add("plan", _plan, "what a configuration costs: memory, time, disk")
    plan.add_argument("config", help="YAML file")
    plan.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")
    plan.add_argument("--nproc", type=int, default=1, help="processes it will run on (default: 1)")
    report = commands.add("report", _report, "one page about a run, finished or not")
    report.add_argument("run", help="run folder")
    report.add_argument("--out", help="file to write (default: report.html in the run)")
    distill = commands.add("distill", _distill, "a run that samples in one to four calls")
    distill.add_argument("run", help="run folder of `vidiff train`")
    distill.add_argument("words", nargs="*", metavar="key=value", help="such as train.steps=2000")
    distill.add_argument("--out", help="folder of the new run (default: RUN-few)")


class _Schema(argparse.Action):
    """Prints the schema of configurations and ends, like --help."""

    def __init__(self, option_strings: list[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **rest)

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from vidiff.training.settings import editor_schema

        print(editor_schema(), end="")
        parser.exit()


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
    if "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        die_with_parent()
    elif (args.nproc or args.nodes > 1) and not args.overfit_one:
        return _launch(args)
    from vidiff.runs.config import dump_yaml
    from vidiff.training import train
    from vidiff.training.settings import read_config

    config = read_config(args.config, args.words)
    main = os.environ.get("RANK", "0") == "0"
    if main:
        print(dump_yaml(config))
    if args.dry_run:
        return _plan(args) if main else 0
    if args.overfit_one:
        return _overfit_one(config)
    run = train(config)
    return made([run.checkpoint, run.folder / "metrics.jsonl"]) if main else 0


def _overfit_one(config: TrainConfig) -> int:
    from vidiff.errors import NumbersError
    from vidiff.training.selftest import overfit_one

    found = overfit_one(config)
    print(found.to_text())
    made([found.sheet])
    return 0 if found.passed else NumbersError.exit_code


def _plan(args: argparse.Namespace) -> int:
    from pathlib import Path

    from vidiff.training.outlook import look_ahead
    from vidiff.training.settings import read_config

    config = read_config(args.config, args.words)
    count = os.environ.get("WORLD_SIZE") or str(args.nproc or 1)
    print(look_ahead(config, int(count) if count.isdigit() else 1).to_text())
    if not Path(config.data.root).exists():
        print(f"{'Data':<11}{config.data.root} is not there yet: clips are not counted")
    return 0


def _report(args: argparse.Namespace) -> int:
    from vidiff.training.reporting import write_report

    if args.dry_run:
        print(f"Would write one page about {args.run}.")
        return 0
    return made([write_report(args.run, args.out)])


def _distill(args: argparse.Namespace) -> int:
    from vidiff.runs.config import dump_yaml
    from vidiff.training import train
    from vidiff.training.distilling import few_step_config

    config = few_step_config(args.run, args.out, args.words)
    print(dump_yaml(config))
    if args.dry_run:
        return 0
    run = train(config)
    return made([run.checkpoint, run.folder / "metrics.jsonl"])


def _launch(args: argparse.Namespace) -> int:
    from vidiff.cli.launching import launch

    options = ["--debug"] * args.debug + ["--dry-run"] * args.dry_run
    words = ["train", args.config, *args.words, *options]
    return launch(args.nproc or "1", words, args.nodes, args.rendezvous)


def _calibrate(args: argparse.Namespace) -> int:
    from vidiff.data.index import scan
    from vidiff.training.preparation import measure
    from vidiff.training.settings import read_config

    config = read_config(args.config, args.words)
    index = scan(config.data, config.seed)
    index.require()
    print(measure(index.split("train"), config.train.calibration_clips, config.seed).table())
    return 0
