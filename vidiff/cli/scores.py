"""Commands that compare clips with clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from vidiff.cli.commands import Commands, made


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
    evaluate.add_argument("--out", help="folder for report.html (default: beside the run)")
    commands.later("study", "blind A/B pages")


def _eval(args: argparse.Namespace) -> int:
    from vidiff.evaluation import EvalConfig, evaluate
    from vidiff.runs.config import load_config
    from vidiff.runs.files import write_json

    words = [f"num_clips={args.clips}", f"seed={args.seed}", *args.words]
    config = load_config(EvalConfig, None, words)
    print(f"Scoring {args.run} against the {args.split} clips of {args.data}")
    print(config.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    out = Path(args.out or args.run)
    report = evaluate(args.run, args.data, split=args.split, config=config, out=out)
    print(report)
    files = [out / "report.html", out / "report.json"]
    if args.json:
        files.append(write_json(args.json, report.to_json()))
    return made(files)
