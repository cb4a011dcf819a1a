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

    info = commands.add("info", _info, "what a clip says of how it was made")
    info.add_argument("file")
    commands.later("verify", "whether a file is as it was made")
    commands.later("replay", "make a file again from its certificate")
    commands.later("export", "share a run")


def _sample(args: argparse.Namespace) -> int:
    from vidiff.generation import Request, check_task, generate, parse_seeds
    from vidiff.runs.config import make_config
    from vidiff.sampling import SampleConfig

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
    return made(generate(args.run, args.out, request, weights=args.weights, progress=_bar()))


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
