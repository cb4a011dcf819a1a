"""Commands about a folder of clips."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from vidiff.cli.commands import Commands, made


def register(commands: Commands) -> None:
    """Declare these commands."""
    data = commands.group.add_parser("data", help="look at a folder of clips before training on it")
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="a verdict for every file", parents=[commands.common])
    check.set_defaults(handler=_data_check)
    check.add_argument("root", help="folder of videos")
    check.add_argument("words", nargs="*", metavar="key=value", help="such as num_frames=16")
    check.add_argument("--json", help="write the verdicts to this file")
    check.add_argument("--csv", help="write a table to this file")
    check.add_argument("--card", help="write a page with figures and pictures to this file")


def _data_check(args: argparse.Namespace) -> int:
    from vidiff.data.card import describe_folder, write_card
    from vidiff.data.index import DataConfig, scan
    from vidiff.runs.config import load_config
    from vidiff.runs.files import write_json, write_text

    words = [w.removeprefix("data.") for w in args.words]
    config = load_config(DataConfig, None, [f"root={json.dumps(args.root)}", *words])
    index = scan(config, progress=_bar())
    print(index.table())
    print(describe_folder(index))
    files = []
    if args.json and not args.dry_run:
        files.append(write_json(args.json, index.to_json()))
    if args.csv and not args.dry_run:
        files.append(write_text(args.csv, index.to_csv()))
    if args.card and not args.dry_run:
        files.append(write_card(args.card, index))
    if files:
        made(files)
    index.require()
    return 0


def _bar() -> Callable[[int, int], None]:
    """Progress on a terminal: files examined."""
    from tqdm import tqdm

    bar = tqdm(unit="file", disable=None, leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update
