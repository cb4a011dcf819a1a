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
    prepare = verbs.add_parser(
        "prepare",
        help="decode every video once, into a cache for data.cache",
        parents=[commands.common],
    )
    prepare.set_defaults(handler=_data_prepare)
    prepare.add_argument("root", help="folder of videos")
    prepare.add_argument("words", nargs="*", metavar="key=value", help="such as size=64")
    prepare.add_argument("--out", required=True, help="folder of the cache")
    prepare.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")


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


def _data_prepare(args: argparse.Namespace) -> int:
    from pathlib import Path

    from tqdm import tqdm

    from vidiff.data.index import DataConfig, scan
    from vidiff.data.preparing import needed_bytes, prepare_cache
    from vidiff.runs.config import load_config
    from vidiff.runs.files import free_space

    words = [w.removeprefix("data.") for w in args.words]
    config = load_config(DataConfig, None, [f"root={json.dumps(args.root)}", *words])
    index, out = scan(config).require(), Path(args.out)
    needed, free = needed_bytes(index, out), free_space(out)
    print(f"{needed / 1e9:.3f} GB to write into {out}; {free / 1e9:.1f} GB are free there.")
    if args.dry_run:
        return 0
    with tqdm(total=len(index.usable), unit="video", disable=None) as bar:
        done = prepare_cache(index, out, args.workers, lambda k, _: bar.update(k - bar.n))
    for path, reason in done.left_out.items():
        print(f"Left out {path}: {reason}")
    print(f"{done.held} of {len(index.usable)} videos ready, {done.added} of them new.")
    print(f"Train with: data.root={args.root} data.cache={out} data.size={config.size}")
    return made([out])
