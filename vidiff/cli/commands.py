"""How a command is declared, and how it answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from vidiff.errors import RequestError

Handler = Callable[[argparse.Namespace], int]


class Commands:
    """The commands of a parser; each gets the options that all share."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.common = argparse.ArgumentParser(add_help=False)
        self.common.add_argument("--debug", action="store_true", help="show an error's traceback")
        self.common.add_argument(
            "--dry-run", action="store_true", help="say what would be done, only"
        )
        self.group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(self, name: str, handler: Handler, help: str) -> argparse.ArgumentParser:
        """A command; its parser, for its own options."""
        command = self.group.add_parser(name, help=help, description=help, parents=[self.common])
        command.set_defaults(handler=handler)
        return command

    def later(self, name: str, what: str) -> None:
        """A command of the contract that is not there yet."""

        def handler(args: argparse.Namespace) -> int:
            raise RequestError(f"`vidiff {name}` ({what}) is not there yet.")

        self.add(name, handler, f"{what} (not there yet)").add_argument("rest", nargs="*")


def made(paths: Sequence[Path | str]) -> int:
    """Name the files a command made; exit code 0."""
    print("Made: " + ", ".join(str(p) for p in paths))
    return 0
