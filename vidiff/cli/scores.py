"""Commands that compare clips with clips."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vidiff.cli.commands import Commands, made
from vidiff.cli.launching import die_with_parent, launch
from vidiff.errors import RequestError

NO_CACHE = "none"
OPTIONS = ("data", "split", "clips", "seed", "json", "out", "cache", "task", "protocol", "weights")
SWITCHES = ("compare", "robustness", "download", "debug", "dry_run")


def register(commands: Commands) -> None:
    """Declare these commands."""
    evaluate = commands.add(
        "eval", _eval, "score a run, or a folder of clips, against held-out clips"
    )
    evaluate.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_OR_FOLDER",
        help="one, or several with --compare; key=value words such as num_frames=16 may follow",
    )
    evaluate.set_defaults(words=())
    evaluate.add_argument("--data", help="folder of real clips")
    evaluate.add_argument("--split", default="test", choices=["train", "test", "all"])
    evaluate.add_argument("--clips", type=int, help="clips on each side, at most (default: 256)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--json", help="write the result to this file")
    evaluate.add_argument("--out", help="folder for report.html (default: eval/ in the run)")
    evaluate.add_argument("--nproc", help="processes on this machine: a number, or auto")
    evaluate.add_argument(
        "--compare",
        action="store_true",
        help="differences of several runs, folders, or files that --json wrote",
    )
    evaluate.add_argument(
        "--task",
        help="judge answers to predict, backward, interpolate, upsample-time or reconstruct; or "
        "pairs: files of a folder against those of --data",
    )
    evaluate.add_argument(
        "--robustness", action="store_true", help="unseen rates, lengths, sizes, conditions"
    )
    evaluate.add_argument(
        "--protocol", help="a published distance: fvd, fvd2048_16f, fid, kid, ..."
    )
    evaluate.add_argument("--weights", help="file of the network that --protocol is defined with")
    evaluate.add_argument("--download", action="store_true", help="fetch it from its authors")
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
    among = [w for w in args.runs if "=" in w and not Path(w).exists()]
    args.words = [*among, *args.words]
    args.runs = [w for w in args.runs if w not in among]
    if args.compare and all(name.endswith(".json") for name in args.runs):
        return _compare_files(args)
    if args.data is None:
        raise RequestError("--data is missing.", "Name the folder of real clips: --data clips/.")
    if len(args.runs) > 1 and not args.compare:
        raise RequestError(f"{len(args.runs)} sources were named.", "Add --compare, or name one.")
    config = _config(args)
    if _leads():
        print(f"Scoring {', '.join(args.runs)} against the {args.split} clips of {args.data}")
        print(config.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    return _published(args, config) if args.protocol else _score(args, config)


def _config(args: argparse.Namespace) -> Any:
    from vidiff.evaluation import EvalConfig, PairConfig
    from vidiff.evaluation.cache import default_folder
    from vidiff.runs.config import load_config

    kind = PairConfig if args.task else EvalConfig
    clips = args.clips or (None if args.task else 64 if args.robustness else 256)
    words = [f"num_clips={clips}"] if clips else []
    config = load_config(kind, None, [*words, f"seed={args.seed}", *args.words])
    if args.cache == NO_CACHE:
        return config
    folder = args.cache or config.cache or str(default_folder())
    return config.model_copy(update={"cache": folder})


def _score(args: argparse.Namespace, config: Any) -> int:
    from vidiff.evaluation import compare, evaluate, evaluate_robustness, evaluate_task
    from vidiff.runs.files import write_json

    run, split = args.runs[0], args.split
    out = Path(args.out or Path(run) / "eval")
    names = ["report"]
    result: Any
    if args.compare:
        out, names = Path(args.out or "compare"), ["compare"]
        result = compare(args.runs, args.data, split=split, config=config, out=out)
    elif args.task:
        result = evaluate_task(run, args.data, args.task, split=split, config=config, out=out)
    elif args.robustness:
        names = ["robustness"]
        result = evaluate_robustness(run, args.data, split=split, config=config, out=out)
    else:
        result = evaluate(run, args.data, split=split, config=config, out=out)
    if not _leads():
        return 0
    print(result)
    files = [out / f"{name}.{kind}" for name in names for kind in ("html", "json")]
    if args.json:
        files.append(write_json(args.json, result.to_json()))
    return made(files)


def _published(args: argparse.Namespace, config: Any) -> int:
    from dataclasses import asdict

    from vidiff.evaluation import evaluate_published
    from vidiff.runs.files import write_json

    weights = Path(args.weights) if args.weights else None
    found = evaluate_published(
        args.runs[0], args.data, args.protocol, weights=weights, download=args.download,
        split=args.split, config=config,
    )  # fmt: skip
    if _leads():
        print(f"{found.name} {found.value:.6g}, {found.clips} clips of {found.frames} frames")
    return made([write_json(args.json, asdict(found))]) if args.json and _leads() else 0


def _compare_files(args: argparse.Namespace) -> int:
    from vidiff.evaluation import compare_files
    from vidiff.evaluation.comparing import write_comparison
    from vidiff.runs.files import write_json

    comparison = compare_files(args.runs)
    print(comparison)
    files = write_comparison(comparison, args.out) if args.out else []
    if args.json:
        files.append(write_json(args.json, comparison.to_json()))
    return made(files) if files else 0


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _repeat(args: argparse.Namespace) -> list[str]:
    """The command line again, for each process of a launch."""
    words = ["eval", *args.runs, *args.words]
    for name in OPTIONS:
        value = getattr(args, name)
        words += [] if value is None else [f"--{name}", str(value)]
    return words + [f"--{s.replace('_', '-')}" for s in SWITCHES if getattr(args, s)]
