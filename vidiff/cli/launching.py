"""Several processes of one run, by torchrun's own agent, with signals and exit codes that hold.

torchrun ends with code 1 whatever its processes ended with, dies of USR1, and gives them 30
seconds to save. So its agent runs here in a thread: the main thread passes each signal on once,
the processes agree on a step, save and leave, and the run's own exit code is the answer.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

import psutil  # type: ignore[import-untyped]

from vidiff.errors import RequestError, Stopped

_SIGNALS = [signal.SIGTERM, signal.SIGINT]
_SIGNALS += [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


def launch(
    processes: str, words: Sequence[str], nodes: int = 1, rendezvous: str | None = None
) -> int:
    """Run `vidiff words` in several processes here; the exit code of the run.

    Args:
        processes: a number, or `auto` for one a GPU.
        nodes: machines that take part; this command runs once on each.
        rendezvous: `host:port` of one of them, the same on all; needed for more than one.

    Raises:
        RequestError: no such number, or machines without a place to meet.
    """
    # torch is imported here, for `vidiff --help` to be quick.
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    count = _count(processes)
    if nodes > 1 and not rendezvous:
        raise RequestError(
            f"--nodes {nodes} needs a place to meet.", "Give --rendezvous HOST:PORT, one for all."
        )
    where = ["--standalone"]
    if nodes > 1:
        where = ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-id", "vidiff"]
        where += ["--rdzv-endpoint", str(rendezvous)]
    command = parse_args([*where, "--nproc-per-node", str(count), "-m", "vidiff", *words])
    codes: list[int] = []

    def work() -> None:
        try:
            run(command)
            codes.append(0)
        except ChildFailedError as error:
            codes.append(error.get_first_failure()[1].exitcode)

    agent = threading.Thread(target=work, daemon=True)
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        workers = _workers()
        if len(asked) > 1 or not workers:
            for worker in workers:
                worker.kill()
            os._exit(128 + number if workers else Stopped.exit_code)
        for worker in workers:
            worker.send_signal(number)

    before = {kind: signal.signal(kind, pass_on) for kind in _SIGNALS}
    agent.start()
    agent.join()
    for kind, handler in before.items():
        signal.signal(kind, handler)
    code = codes[0] if codes else 1
    if code >= 0:
        return code
    # Killed before it could listen; where that was asked for, the last checkpoint is the state.
    return Stopped.exit_code if asked else 128 - code


def die_with_parent() -> None:
    """Be asked to stop when the launcher is gone, however it went; Linux only."""
    if sys.platform == "linux" and os.getppid() > 1:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def _count(processes: str) -> int:
    if processes == "auto":
        import torch

        return torch.cuda.device_count() or 1
    if not processes.isdigit() or int(processes) < 1:
        raise RequestError(
            f"--nproc {processes} is no number of processes.", "Give a number, or auto."
        )
    return int(processes)


def _workers() -> list[psutil.Process]:
    """The processes of the run, without what else may run beside them."""
    found = []
    for child in psutil.Process().children():
        try:
            if "LOCAL_RANK" in child.environ():
                found.append(child)
        except psutil.Error:
            continue
    return found
