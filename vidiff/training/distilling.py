"""From a trained run to one that samples in a few calls: the same training with another objective.

The run is started from the averaged weights of the first, with its calibration, its clips and a
tenth of its steps and learning rate; what the network learns is in diffusion/consistency.py.
Everything else (resume, checkpoints, sampling words, tasks) is as for any run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vidiff.errors import RequestError
from vidiff.runs.config import load_config
from vidiff.training.settings import TrainConfig

SHARE = 0.1
"""Of the steps and the learning rate of the run."""


def few_step_config(
    run: str | Path, out: str | Path | None = None, words: Sequence[str] = ()
) -> TrainConfig:
    """The configuration that turns a run into a few-step model.

    Args:
        out: folder of the new run; by default that of the run with `-few` behind it.
        words: `key=value` words on top.

    Raises:
        RequestError: not a run folder, or a run that is one already; bad words.
    """
    folder = Path(run)
    stored = folder / "config.yaml"
    if not stored.is_file():
        raise RequestError(
            f"{run} is no run folder: it has no config.yaml.", "Name a folder of `vidiff train`."
        )
    old = load_config(TrainConfig, stored)
    if old.process.objective == "consistency":
        raise RequestError(f"{run} samples in few calls already.", "Name the run it came from.")
    plain = old.tasks.shared + old.tasks.sorted + old.tasks.independent
    own = [
        f"out={out or folder.with_name(folder.name + '-few')}",
        f"train.init_from={run}",
        "train.recalibrate=false",
        "train.max_minutes=null",
        f"train.steps={max(1, round(SHARE * old.train.steps))}",
        f"optimizer.lr={SHARE * old.optimizer.lr:g}",
        "process.objective=consistency",
        # Jumps take all frames of a clip together: mixed levels would be learnt in vain.
        f"tasks.shared={plain:.6g}",
        "tasks.sorted=0",
        "tasks.independent=0",
    ]
    return load_config(TrainConfig, stored, [*own, *words])
