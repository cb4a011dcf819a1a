"""One run, from a folder of clips to checkpoints, and all that it tells on the way."""

from vidiff.training.loop import Run, train

__all__ = ["Run", "train"]
