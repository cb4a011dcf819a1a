"""Commands that compare clips with clips."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vidiff.cli.commands import Commands, made
from vidiff.cli.launching import die_with_parent, launch

NO_CACHE = "none"


def register(commands: Commands) -> None:
    """Declare these commands."""
    evaluate = commands.add(
        "eval", _eval, "score a run, or a folder of clips, against held-out clips"
    )
    evaluate.add_argument("run", metavar="RUN_OR_FOLDER")
    evaluate.add_argument("words", nargs="*", metavar="key=value", help="such as num_frames=16")
    evaluate.add_argument("--data", required=True, help="folder of real clips")
    evaluate.add_argument("--split", default="test", choices=["train", "test", "all"])
    evaluate.add_argument("--clips", type=int, default=256, help="clips on each side, at most")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--json", help="write the result to this file")
    evaluate.add_argument("--out", help="folder for report.html (default: eval/ in the run)")
    evaluate.add_argument("--nproc", help="processes on this machine: a number, or auto")
    evaluate.add_argument(
        "--cache",
        help="folder for what is measured of real clips (default: the user's cache; none: none)",
    )
    commands.later("study", "blind A/B pages")


def _eval(args: argparse.Namespace) -> int:
    if "LOCAL_RANK" in os.environ:
        die_with_parent()
    elif args.nproc:
        return launch(args.nproc, _repeat(args))
    from vidiff.evaluation import EvalConfig, evaluate
    from vidiff.evaluation.cache import default_folder
    from vidiff.runs.config import load_config
    from vidiff.runs.files import write_json

    words = [f"num_clips={args.clips}", f"seed={args.seed}", *args.words]
    config = load_config(EvalConfig, None, words)
    if args.cache != NO_CACHE:
        folder = args.cache or config.cache or str(default_folder())
        config = config.model_copy(update={"cache": folder})
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        print(f"Scoring {args.run} against the {args.split} clips of {args.data}")
        print(config.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    out = Path(args.out or Path(args.run) / "eval")
    report = evaluate(args.run, args.data, split=args.split, config=config, out=out)
    if not leads:
        return 0
    print(report)
    files = [out / "report.html", out / "report.json"]
    if args.json:
        files.append(write_json(args.json, report.to_json()))
    return made(files)


def _repeat(args: argparse.Namespace) -> list[str]:
    """The command line again, for each process of a launch."""
    options: dict[str, Any] = {
        name: getattr(args, name) for name in ("data", "split", "clips", "seed", "json", "out",
                                               "cache")
    }  # fmt: skip
    words = ["eval", args.run, *args.words]
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return [*words, *["--debug"] * args.debug, *["--dry-run"] * args.dry_run]
