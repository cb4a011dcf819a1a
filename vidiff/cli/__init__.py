"""The door: words to a typed request, one function call, its answer printed.

Exit codes: 0 done; 1 a fault of ours; 2 a bad request or config; 3 unusable data; 4 the numbers
went bad; 75 stopped on request, run the same command again. torch is imported inside commands
only, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from vidiff import __version__
from vidiff.cli import folders, machine, results, runs, scores
from vidiff.cli.commands import Commands, Handler
from vidiff.errors import Stopped, VidiffError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    args = _parse(argv)
    try:
        handler: Handler = args.handler
        return handler(args)
    except VidiffError as error:
        if isinstance(error, Stopped) and os.environ.get("RANK", "0") != "0":
            return error.exit_code
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
    args.given = list(sys.argv[1:] if argv is None else argv)
    strays = [word for word in rest if word.startswith("-") or "=" not in word]
    if strays or (rest and not hasattr(args, "words")):
        parser.error(f"unrecognized arguments: {' '.join(strays or rest)}")
    if rest:
        args.words = [*args.words, *rest]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vidiff",
        description="Train a video diffusion model on a folder of clips, make new clips, and "
        "learn how good they are.",
    )
    parser.add_argument("--version", action="version", version=f"vidiff {__version__}")
    commands = Commands(parser)
    for room in (runs, folders, results, scores, machine):
        room.register(commands)
    return parser
