"""Variations of a clip: its own noise found, mixed with other noise, and walked down again.

The probability-flow ODE runs both ways. Upwards it finds the noise that would have made the clip:

  (1) y   = the clip at the highest level s of the schedule        n = (y - D(y; s)) / s
  (2) n'  = sqrt(1 - a^2) n + a n_seed                             y' = D(y; s) + s n'

and from y' the sampler walks down as ever: a = 0 gives the clip back but for the error of the
solver, a = 1 another clip whose coarsest content alone is kept. (1) is DDIM inversion (Song et al.
2021, arXiv 2010.02502), here by Heun's method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from vidiff.diffusion import samplers
from vidiff.errors import RequestError
from vidiff.pipeline import VideoDiffusion
from vidiff.records import Condition
from vidiff.sampling import Job, Progress, SampleConfig, walk
from vidiff.tasks import generate


@torch.no_grad()
def vary(
    model: VideoDiffusion,
    clip: UInt8[Tensor, "1 t h w c"],
    amount: float,
    seeds: Sequence[int],
    config: SampleConfig | None = None,
    told: Condition | None = None,
    progress: Progress | None = None,
) -> UInt8[Tensor, "b t h w c"]:
    """One variation of a clip for each seed.

    Args:
        amount: a of (2), 0..1.
        told: one row with the class or caption of the clip, if the model knows such.

    Raises:
        RequestError: the amount is not in 0..1.
    """
    if not 0 <= amount <= 1:
        raise RequestError(
            f"A variation by {amount:g} is not possible.",
            "Give 0 (the clip itself) to 1 (only its coarsest content is kept).",
        )
    config, c = model.settle(config), model.calibration
    condition = told or generate(1, clip.shape[1])
    top = c.sigma_max / 2
    grid = samplers.make_grid(config.grid, config.steps, c.sigma_min, top, *model.level_law)
    rising = grid[:-1].flip(0).to(model.device, torch.float32)
    levels = rising[:, None, None, None, None, None].expand(-1, 1, 1, clip.shape[1], 1, 1)
    denoise = model.denoiser(condition)
    y = samplers.heun(denoise, model.to_model(clip), levels)
    coarse = denoise(y, levels[-1])
    own = (y - coarse) / top
    made = []
    for k, seed in enumerate(seeds):

        def tell(call: int, calls: int, k: int = k) -> None:
            if progress:
                progress(k * calls + call, len(seeds) * calls)

        job = Job(model, condition, [seed], config, None)
        mixed = (1 - amount**2) ** 0.5 * own + amount * job.noise("sample")
        made.append(model.to_frames(walk(job, tell, coarse + top * mixed)))
    return torch.cat(made)
