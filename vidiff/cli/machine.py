"""Commands about the machine."""

from __future__ import annotations

import argparse

from vidiff.cli.commands import Commands, made


def register(commands: Commands) -> None:
    """Declare these commands."""
    doctor = commands.add("doctor", _doctor, "what this machine can do, and what clashes")
    doctor.add_argument("--out", default=".", help="where runs are to be written (default: .)")
    doctor.add_argument("--json", help="write the findings to this file")


def _doctor(args: argparse.Namespace) -> int:
    from vidiff.doctor import examine, to_json, to_text
    from vidiff.runs.files import write_json

    if args.dry_run:
        print("Would look at Python, packages, torch, readers, encoders, disk and memory.")
        return 0
    findings = examine(args.out)
    print(to_text(findings))
    answer = to_json(findings)
    if args.json:
        made([write_json(args.json, answer)])
    return 0 if answer["healthy"] else 1
