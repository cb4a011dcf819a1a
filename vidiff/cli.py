"""The door: words to a typed request, one function call, its answer printed.

Exit codes: 0 done; 1 a fault of ours; 2 a bad request or config; 3 unusable data; 4 the numbers
went bad; 75 stopped on request, run the same command again. torch is imported inside commands
only, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from vidiff import __version__
from vidiff.errors import DataError, RequestError, Stopped, VidiffError

LATER = {
    "plan": "what a configuration costs",
    "report": "one page about a run",
    "verify": "whether a file is as it was made",
    "replay": "make a file again from its certificate",
    "doctor": "what this machine can do",
    "distill": "few-step models",
    "study": "blind A/B pages",
    "export": "share a run",
}
"""Commands of the contract that are not there yet."""

Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = _parse(argv)
    try:
        handler: Handler = args.handler
        return handler(args)
    except VidiffError as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: {error.cause}", file=sys.stderr)
        if error.remedy:
            print(error.remedy, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped. Run the same command again to go on.", file=sys.stderr)
        return Stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        print(f"error: a fault in vidiff: {type(error).__name__}: {error}", file=sys.stderr)
        print("Run again with --debug and report what it prints.", file=sys.stderr)
        return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; `key=value` words may stand anywhere among the options."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    strays = [word for word in rest if word.startswith("-") or "=" not in word]
    if strays or (rest and not hasattr(args, "words")):
        parser.error(f"unrecognized arguments: {' '.join(strays or rest)}")
    if rest:
        args.words += rest
    return args


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--dry-run", action="store_true", help="say what would be done, only")
    parser = argparse.ArgumentParser(
        prog="vidiff",
        description="Train a video diffusion model on a folder of clips, make new clips, and "
        "learn how good they are.",
    )
    parser.add_argument("--version", action="version", version=f"vidiff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, handler: Handler, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help, parents=[common])
        command.set_defaults(handler=handler)
        return command

    demo = add("demo", _demo, "real clips, a small model, samples, scores, one report")
    demo.add_argument("--out", default="demo", help="folder to work in (default: demo)")
    demo.add_argument("--minutes", type=float, default=10, help="time for all of it (default: 10)")
    demo.add_argument("--data", default="walk", help="walk, bunny, or a folder of your own clips")
    demo.add_argument("--seed", type=int, default=0, help="key of all random numbers")
    demo.add_argument("--samples", type=int, default=128, help="clips to score (default: 128)")

    data = commands.add_parser("data", help="look at a folder of clips before training on it")
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="a verdict for every file", parents=[common])
    check.set_defaults(handler=_data_check)
    check.add_argument("root", help="folder of videos")
    check.add_argument("words", nargs="*", metavar="key=value", help="such as num_frames=16")
    check.add_argument("--json", help="write the verdicts to this file")
    check.add_argument("--csv", help="write a table to this file")
    prepare = verbs.add_parser("prepare", help="the raw cache (not there yet)", parents=[common])
    prepare.set_defaults(handler=_later("data prepare", "the raw cache"))
    prepare.add_argument("rest", nargs="*")
    prepare.add_argument("--out")

    calibrate = add("calibrate", _calibrate, "measure the clips: the table training would use")
    calibrate.add_argument("config", help="YAML file")
    calibrate.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")

    train = add("train", _train, "train a model, or go on training it")
    train.add_argument("config", help="YAML file")
    train.add_argument("words", nargs="*", metavar="key=value", help="such as data.root=clips/")
    train.add_argument("--nproc", help="processes on this machine: a number, or auto")

    sample = add("sample", _sample, "make clips with a trained model")
    sample.add_argument("run", help="run folder or checkpoint folder")
    sample.add_argument("--out", default="samples", help="folder for the clips")
    sample.add_argument("--task", default="generate", help="generate, image-to-video, predict, ...")
    sample.add_argument("--seeds", default="0", help="such as 0-7 (default: 0)")
    sample.add_argument("--steps", type=int, help="steps of the sampler (default: 24)")
    sample.add_argument("--sampler", help="dpm2m, heun, euler, ab2, churn or sde2m")
    sample.add_argument("--guidance", type=float, help="weight of classifier-free guidance")
    sample.add_argument("--weights", default="ema", help="ema, model, or a track's name")
    sample.add_argument("--image", help="picture, for image-to-video")
    sample.add_argument("--clip", help="video, for tasks that start from one")
    sample.add_argument("--mask", help="picture, white where inpaint fills")
    sample.add_argument("--keep", type=int, help="given frames (default: 4)")
    sample.add_argument("--frames", type=int, help="frames of the result")
    sample.add_argument("--factor", type=int, help="times as many frames, for upsample-time")
    sample.add_argument("--strength", type=float, help="0..1, for edit (default: 0.5)")
    sample.add_argument("--gif", action="store_true", help="write GIFs too")

    evaluate = add("eval", _eval, "score a run, or a folder of clips, against held-out clips")
    evaluate.add_argument("run", metavar="RUN_OR_FOLDER")
    evaluate.add_argument("words", nargs="*", metavar="key=value", help="such as num_frames=16")
    evaluate.add_argument("--data", required=True, help="folder of real clips")
    evaluate.add_argument("--split", default="test", choices=["train", "test", "all"])
    evaluate.add_argument("--clips", type=int, default=256, help="clips on each side, at most")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--json", help="write the result to this file")
    evaluate.add_argument("--out", help="folder for report.html (default: beside the run)")

    info = add("info", _info, "what a clip says of how it was made")
    info.add_argument("file")

    for name, what in LATER.items():
        later = add(name, _later(name, what), f"{what} (not there yet)")
        later.add_argument("rest", nargs="*")
    return parser


def _later(name: str, what: str) -> Handler:
    def handler(args: argparse.Namespace) -> int:
        raise RequestError(f"`vidiff {name}` ({what}) is not there yet.")

    return handler


def _made(paths: Sequence[Path | str]) -> int:
    print("Made: " + ", ".join(str(p) for p in paths))
    return 0


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
    return _made([run_demo(config)])


def _data_check(args: argparse.Namespace) -> int:
    from vidiff.data.index import DataConfig, scan
    from vidiff.runs.config import load_config
    from vidiff.runs.files import write_json, write_text

    words = [w.removeprefix("data.") for w in args.words]
    index = scan(load_config(DataConfig, None, [f"root={json.dumps(args.root)}", *words]))
    print(index.table())
    made = []
    if args.json and not args.dry_run:
        made.append(write_json(args.json, index.to_json()))
    if args.csv and not args.dry_run:
        made.append(write_text(args.csv, index.to_csv()))
    if made:
        _made(made)
    index.require()
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from vidiff.data.index import scan
    from vidiff.preparation import measure, read_config

    config = read_config(args.config, args.words)
    index = scan(config.data, config.seed)
    index.require()
    print(measure(index.split("train"), config.train.calibration_clips, config.seed).table())
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.nproc and "LOCAL_RANK" not in os.environ:
        _launch(args)
    from vidiff.preparation import read_config
    from vidiff.runs.config import dump_yaml
    from vidiff.training import train

    config = read_config(args.config, args.words)
    main = os.environ.get("RANK", "0") == "0"
    if main:
        print(dump_yaml(config))
    if args.dry_run:
        return 0
    run = train(config)
    return _made([run.checkpoint, run.folder / "metrics.jsonl"]) if main else 0


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


def _sample(args: argparse.Namespace) -> int:
    from vidiff.generation import Request, check_task, generate, parse_seeds
    from vidiff.pipeline import SampleConfig
    from vidiff.runs.config import make_config

    own = ("steps", "sampler", "guidance")
    given = {k: getattr(args, k) for k in own if getattr(args, k) is not None}
    names = ("task", "image", "clip", "mask", "keep", "frames", "factor", "strength", "gif")
    rest = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    request = make_config(
        Request, seeds=parse_seeds(args.seeds), sample=make_config(SampleConfig, **given), **rest
    )
    check_task(request)
    print(request.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    return _made(generate(args.run, args.out, request, weights=args.weights, progress=_bar()))


def _bar() -> Callable[[int, int], None]:
    """Progress of sampling on a terminal: calls of the network."""
    from tqdm import tqdm

    bar = tqdm(unit="call", disable=None, leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


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
    made = [out / "report.html", out / "report.json"]
    if args.json:
        made.append(write_json(args.json, report.to_json()))
    return _made(made)


def _info(args: argparse.Namespace) -> int:
    from vidiff.data.export import read_metadata
    from vidiff.runs.provenance import from_metadata

    tags = read_metadata(args.file)
    try:
        print(json.dumps(from_metadata(tags), indent=2))
    except RequestError:
        raise DataError(
            f"{args.file} says nothing of vidiff: it was made elsewhere, or its tags were removed.",
            "Look for the sidecar file of the same name that ends in .json.",
        ) from None
    return 0
