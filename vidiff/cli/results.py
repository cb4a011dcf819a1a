"""Commands that make clips and tell what made them."""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import pairwise

from vidiff.cli.commands import Commands, made
from vidiff.cli.launching import die_with_parent, launch
from vidiff.errors import DataError, RequestError


def register(commands: Commands) -> None:
    """Declare these commands."""
    sample = commands.add("sample", _sample, "make clips with a trained model")
    sample.add_argument("run", help="run folder or checkpoint folder")
    sample.add_argument(
        "words", nargs="*", metavar="key=value", help="how: guide=auto reference=early, ..."
    )
    sample.add_argument("--out", default="samples", help="folder for the clips")
    sample.add_argument("--task", default="generate", help="generate, image-to-video, predict, ...")
    sample.add_argument("--seeds", default="0", help="such as 0-7 (default: 0)")
    sample.add_argument("--steps", type=int, help="steps of the sampler (default: 24)")
    sample.add_argument("--sampler", help="exp2m, dpm2m, heun, euler, ab2, churn or sde2m")
    sample.add_argument("--guidance", type=float, help="weight of the guidance; 1 is none")
    sample.add_argument("--weights", default="ema", help="ema, model, or a track's name")
    sample.add_argument("--image", help="picture, for image-to-video")
    sample.add_argument("--clip", help="video, for tasks that start from one")
    sample.add_argument("--mask", help="picture or video, white where inpaint fills")
    sample.add_argument("--feather", type=int, help="pixels beside the hole that may change too")
    sample.add_argument("--inner", type=float, help="share of each side given, for outpaint")
    sample.add_argument("--label", help="class, by name or number")
    sample.add_argument("--caption", help="text, for models trained with captions")
    sample.add_argument("--keep", type=int, help="given frames (default: 4)")
    sample.add_argument("--frames", type=int, help="frames of the result")
    sample.add_argument("--factor", type=int, help="times as many frames, for upsample-time")
    sample.add_argument("--method", help="of a rollout: slide, roll or keyframes")
    sample.add_argument("--strength", type=float, help="0..1, for edit and vary (default: 0.5)")
    sample.add_argument("--then", metavar="RUN", help="a second model that makes the clips large")
    sample.add_argument("--codec", help="h264, h264-10bit, hevc, vp9, av1 or lossless")
    sample.add_argument("--nproc", help="processes that share the seeds: a number, or auto")
    sample.add_argument("--preview", action="store_true", help="keep preview.png as it goes")
    sample.add_argument("--gif", action="store_true", help="write GIFs too")
    sample.add_argument("--webp", action="store_true", help="write animated WebPs too")
    sample.add_argument("--png", action="store_true", help="write every frame as PNG too")
    sample.add_argument("--measure", action="store_true", help="note what encoding lost")
    sample.add_argument("--publish-prompt", action="store_true", help="put captions into the files")
    sample.add_argument("--sign", metavar="PEM", help="sign with this certificate chain (C2PA)")
    sample.add_argument("--key", metavar="PEM", help="private key of that certificate")

    info = commands.add("info", _info, "what a clip says of how it was made")
    info.add_argument("file")
    verify = commands.add("verify", _verify, "whether a clip is as it was made")
    verify.add_argument("file")
    verify.add_argument("--trust", metavar="PEM", help="certificates that may vouch for signers")

    replay = commands.add("replay", _replay, "make a clip again from its certificate")
    replay.add_argument("file")
    replay.add_argument("--run", required=True, help="run or exported folder that made it")
    replay.add_argument("--out", default="replayed", help="folder for the clip")
    for name in ("image", "clip", "mask", "caption", "then"):
        replay.add_argument(f"--{name}", help=f"the {name} of the request, where it had one")

    export = commands.add("export", _export, "a folder to share: weights, description, model card")
    export.add_argument("run", help="run folder or checkpoint folder")
    export.add_argument("--out", default="export", help="folder to write")
    export.add_argument("--weights", default="ema", help="ema, model, or a track's name")
    export.add_argument("--push", metavar="USER/NAME", help="upload it to the Hugging Face Hub")


def _sample(args: argparse.Namespace) -> int:
    if "LOCAL_RANK" in os.environ:
        die_with_parent()
    elif args.nproc:
        at = next(i for i, word in enumerate(args.given) if word.startswith("--np"))
        words = args.given[:at] + args.given[at + 1 + ("=" not in args.given[at]) :]
        return launch(args.nproc, words)
    leads = os.environ.get("RANK", "0") == "0"
    from vidiff.generation import Publishing, generate
    from vidiff.generation.request import Request, check_task, parse_seeds
    from vidiff.runs.config import load_config, make_config
    from vidiff.sampling import SampleConfig

    own = ("steps", "sampler", "guidance")
    words = [f"{k}={getattr(args, k)}" for k in own if getattr(args, k) is not None]
    how = load_config(SampleConfig, None, [*words, *args.words])
    names = ("task", "image", "clip", "mask", "keep", "frames", "factor", "strength", "codec",
             "feather", "inner", "method", "label", "caption",
             "gif", "webp", "png", "measure")  # fmt: skip
    rest = {k: getattr(args, k) for k in names if getattr(args, k) is not None}
    request = make_config(Request, seeds=parse_seeds(args.seeds), sample=how, **rest)
    check_task(request)
    if bool(args.sign) != bool(args.key):
        raise RequestError(
            "A signature needs --sign CHAIN.pem and --key KEY.pem; one of them is missing.",
            "Give both, or neither.",
        )
    if leads:
        print(request.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    publishing = Publishing(args.publish_prompt, args.sign, args.key)
    watch = _Watch() if leads else None
    files = generate(args.run, args.out, request, weights=args.weights, progress=watch,
                     publishing=publishing, preview=args.preview, then=args.then)  # fmt: skip
    if watch is None:
        return 0
    print(watch.sum_up())
    return made(files)


class _Watch:
    """Progress of sampling on a terminal, the time left with it; and in the end, what took it."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(unit="call", disable=None, leave=False)
        self.times = [time.perf_counter()]

    def __call__(self, done: int, total: int) -> None:
        """After each call of the network."""
        self.times.append(time.perf_counter())
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()

    def sum_up(self) -> str:
        """Calls, seconds for each, and their share of the time; the rest is encoding and files."""
        calls, spent = len(self.times) - 1, time.perf_counter() - self.times[0]
        steps = sorted(b - a for a, b in pairwise(self.times))
        each = steps[calls // 2] if steps else 0.0  # the median: files are written between some
        share = min(1.0, calls * each / spent)
        return (
            f"{calls} calls of the network, {each:.3g} s each: {share:.0%} of {spent:.3g} s; "
            f"the rest went into noise, encoding and files."
        )


def _info(args: argparse.Namespace) -> int:
    from vidiff.verification import read_certificate

    print(json.dumps(read_certificate(args.file), indent=2))
    return 0


def _verify(args: argparse.Namespace) -> int:
    from vidiff.verification import verify

    finding = verify(args.file, args.trust)
    print(finding)
    return 0 if finding.good else DataError.exit_code


def _replay(args: argparse.Namespace) -> int:
    from vidiff.verification import replay

    names = ("image", "clip", "mask", "caption", "then")
    inputs = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    files, said = replay(args.file, args.run, args.out, inputs, _Watch())
    print(said)
    return made(files)


def _export(args: argparse.Namespace) -> int:
    from vidiff.sharing import export, push_to_hub

    if args.dry_run:
        print(f"Would write config.json, model.safetensors and README.md into {args.out}.")
        return 0
    files = export(args.run, args.out, args.weights)
    if args.push:
        print("Uploaded: " + push_to_hub(args.out, args.push))
    return made(files)
