"""The processes that share a piece of work: one alone, or all of a torchrun launch.

Work is cut into chunks that depend on the work only; chunk k goes to process k mod size, and
every process gets all results in order. So the answer is the same for any number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch.distributed as dist

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew(AbstractContextManager["Crew"]):
    """Joins the processes of this launch on entry, leaves them on exit.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._joined = False

    @staticmethod
    def of_launch() -> Crew:
        """The crew that torchrun's environment describes; one alone without it."""
        return Crew(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    @property
    def leads(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def __enter__(self) -> Crew:
        if self.size > 1 and not dist.is_initialized():
            # gloo, because results are small objects on the CPU, whatever made them.
            dist.init_process_group("gloo")
            self._joined = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._joined:
            dist.destroy_process_group()
            self._joined = False

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`work` of every item, in order, each done by one process."""
        mine = {i: work(items[i]) for i in range(self.rank, len(items), self.size)}
        if self.size == 1:
            return list(mine.values())
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, mine)
        every = {i: result for part in parts for i, result in part.items()}
        return [every[i] for i in range(len(items))]

    def agree(self, value: Result) -> Result:
        """The leader's value, in every process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]
