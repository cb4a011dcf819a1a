"""Commands that make clips and tell what made them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from vidiff.cli.commands import Commands, made
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
    from vidiff.generation import Publishing, generate
    from vidiff.request import Request, check_task, parse_seeds
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
    print(request.model_dump_json(indent=2))
    if args.dry_run:
        return 0
    publishing = Publishing(args.publish_prompt, args.sign, args.key)
    files = generate(args.run, args.out, request, weights=args.weights, progress=_bar(),
                     publishing=publishing, then=args.then)  # fmt: skip
    return made(files)


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
    files, said = replay(args.file, args.run, args.out, inputs, _bar())
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
