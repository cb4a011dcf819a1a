"""When the numbers go bad: a bad step is skipped, several not finite send the run back.

Going back means the last checkpoint, and the order of clips moved on past the stretch that went
bad: later positions, so other clips, levels and noise. All of it is a function of the run, so an
interrupted run goes back to the same place in the same way. A run that goes bad again before it
has reached a new checkpoint, or too often, is beyond that and ends.
"""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

from vidiff.errors import NumbersError
from vidiff.runs import checkpoint
from vidiff.training.preparation import Session
from vidiff.training.state import State

MOST_ROLLBACKS = 3
"""So often a run may go back."""


def judge(state: State, numbers: Tensor, spike: float, patience: int = 5) -> bool:
    """True when a step must be skipped: not finite, or a gradient far out of line.

    Args:
        numbers: loss, error and gradient norm.
        spike: how many running medians a gradient norm may reach.
        patience: so many spikes in a row are no spikes but a new level, as when the gains of a
            young network open; the running median then starts anew.
    """
    if not bool(torch.isfinite(numbers).all()):
        state.bad_in_a_row += 1
        return True
    state.bad_in_a_row = 0
    norm = float(numbers[2])
    usual = statistics.median(state.norms) if len(state.norms) >= 20 else float("inf")
    if norm > spike * usual and state.spikes_in_a_row < patience - 1:
        state.spikes_in_a_row += 1
        return True
    state.norms = [norm] if norm > spike * usual else [*state.norms, norm][-64:]
    state.spikes_in_a_row = 0
    return False


def go_back(session: Session) -> str:
    """Return to the last checkpoint, past the clips that went bad; what was done, in a sentence.

    Raises:
        NumbersError: there is nothing to go back to, or it did not help before.
    """
    state = session.state
    went_bad, turn, earlier = state.step, state.turn, state.rollbacks
    found = checkpoint.latest(session.folder / "checkpoints")
    if found is None:
        raise _end(f"{state.bad_in_a_row} steps in a row up to step {went_bad} were not finite, "
                   "and there is no checkpoint yet to go back to.")  # fmt: skip
    tensors, stored = checkpoint.load(found[0])
    there = int(stored["train"]["step"])
    if len(earlier) >= MOST_ROLLBACKS or (earlier and there <= earlier[-1]["to"]):
        raise _end(f"The numbers went bad at step {went_bad} again; going back to step {there} "
                   f"did not help ({len(earlier)} time(s)).")  # fmt: skip
    state.load(tensors, stored)
    state.skipped = turn - state.step
    state.rollbacks = [*earlier, {"from": went_bad, "to": there, "skipped": state.skipped}]
    state.bad_in_a_row = 0
    return (
        f"Steps up to {went_bad} went bad: back at step {there}, with the clips of "
        f"{turn - there} steps left out."
    )


def _end(cause: str) -> NumbersError:
    return NumbersError(
        cause,
        "Lower optimizer.lr (a resumed run takes train.allow=[optimizer.lr]), or set "
        "train.precision=fp32; the last checkpoint is intact.",
    )
