"""The parts put together: `loss(batch)`, `sample(condition, seeds)`, `load(run)`.

`VideoDiffusion` owns the only way from bytes to model range and back, the only call of the network
and the only place where noise is drawn. Training and sampling differ by what they do with one
function, `denoise(noisy, sigma) -> clean`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from vidiff import conditions, sampling
from vidiff.data.index import DataConfig
from vidiff.data.video import to_bytes, to_unit
from vidiff.diffusion import consistency, process
from vidiff.diffusion.calibration import Calibration
from vidiff.diffusion.process import Denoiser, ProcessConfig
from vidiff.errors import RequestError
from vidiff.models.layout import ModelConfig
from vidiff.models.lora import LoraConfig
from vidiff.models.unet import SpaceTimeUNet
from vidiff.records import Batch, Condition, draw_normal, draw_uniform, make_generator
from vidiff.sampling import SampleConfig
from vidiff.tasks import TaskConfig, draw


@dataclass(frozen=True)
class Loss:
    """The loss of a batch and what it is made of."""

    value: Float[Tensor, ""]
    """Mean over clips of equation (3) of process.py: what is minimised."""
    error: Float[Tensor, "b t"]
    """Weighted error of each frame; 1 for a network that says nothing."""
    sigma: Float[Tensor, "b t"]
    """Level of each frame (the largest of its pixels)."""


class VideoDiffusion:
    """A denoiser of clips, calibrated to a folder.

    Args:
        network: the space-time U-Net.
        calibration: measured on the training clips.
        num_frames: frames of a clip.
        size: side of the square frames in pixels.
        process: noise levels in training.
        tasks: mixture of level patterns in training.

    Attributes:
        weights_hash, data_digest: SHA-256 of the weights that `load` chose, and of the clips.
        find_reference: loads what the name of a reference means beside its checkpoint (saved.py).
        classes: names of its class labels, in their order.
        lora: the adapters it trains through, if any.
        data, seed: how its training clips were cut and split, so that the same are held out again.
    """

    def __init__(
        self,
        network: nn.Module,
        calibration: Calibration,
        num_frames: int,
        size: int,
        process: ProcessConfig | None = None,
        tasks: TaskConfig | None = None,
    ) -> None:
        self.network = network
        self.calibration = calibration
        self.num_frames, self.size = num_frames, size
        self.process = process or ProcessConfig()
        self.tasks = tasks or TaskConfig()
        self.weights_hash = self.data_digest = ""
        self.find_reference: Callable[[str], VideoDiffusion] | None = None
        self.data: DataConfig | None = None
        self.classes: tuple[str, ...] = ()
        self.lora: LoraConfig | None = None
        self.seed = 0

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    @property
    def config(self) -> ModelConfig:
        """Of the network, with what it can be told."""
        return self.network.config  # type: ignore[return-value]

    @property
    def fps(self) -> float:
        """Frames a second of the clips it was trained on."""
        return 1 / self.calibration.dt

    @property
    def level_law(self) -> tuple[float, float]:
        """Mean and sd of ln sigma in training."""
        p = self.process
        return self.calibration.p_mean if p.p_mean is None else p.p_mean, p.p_std

    def to_model(self, frames: UInt8[Tensor, "b t h w c"]) -> Float[Tensor, "b c t h w"]:
        """Bytes to model range: zero mean and sd 0.5 in each channel of the training clips."""
        x = to_unit(frames.to(self.device))
        return self.calibration.scale(rearrange(x, "b t h w c -> b c t h w"))

    def to_frames(self, x: Float[Tensor, "b c t h w"]) -> UInt8[Tensor, "b t h w c"]:
        """Model range to bytes."""
        unit = rearrange(self.calibration.unscale(x.float()), "b c t h w -> b t h w c")
        return to_bytes(unit).cpu()

    def levels(self, quantiles: Tensor) -> Tensor:
        """Training levels at uniform quantiles."""
        c, (mean, sd) = self.calibration, self.level_law
        return process.draw_levels(quantiles, mean, sd, self.process.tail, c.sigma_min, c.sigma_max)

    def _ask(
        self,
        network: nn.Module,
        noisy: Tensor,
        sigma: Tensor,
        condition: dict[str, Any],
        blind: Bool[Tensor, "b"] | None = None,
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b t"]]:
        """Equation (2) of process.py: the denoised clip and the learned log-uncertainty."""
        b, _, t, _, _ = noisy.shape
        c = process.scalings(sigma)
        frame = c.noise.amax(dim=(3, 4), keepdim=True).expand(b, 1, t, 1, 1)
        pixel = c.noise - frame if c.noise.shape[-1] > 1 else None
        if pixel is not None and blind is not None:
            pixel = pixel.masked_fill(blind.to(pixel.device).view(-1, 1, 1, 1, 1), 0.0)
        out, u = network(c.into * noisy, frame[:, 0, :, 0, 0], pixel_noise=pixel, **condition)
        return c.skip * noisy + c.out * out.float(), u.float()

    def loss(
        self,
        batch: Batch,
        seed: int,
        batch_size: int | None = None,
        network: nn.Module | None = None,
        condition: Condition | None = None,
        image_mode: bool = False,
        progress: float = 1.0,
    ) -> Loss:
        """The training loss of a batch, a function of (seed, positions) alone.

        Args:
            batch: clips and their global positions.
            batch_size: the global batch, over which the levels are stratified.
            network: the prepared network to call; by default this one's.
            condition: a field of levels instead of one drawn from the mixture; then nothing that
                is known of the clips is left out.
            progress: share 0..1 of the run that is done, which consistency tuning goes by.
        """
        positions, total = list(batch.positions), batch_size or len(batch)
        drawn = condition is None
        if condition is None:
            quantiles = _stratified(seed, positions, total)
            condition = draw(self.tasks, self.levels, quantiles, batch.frames, seed, positions)
        clean = self.to_model(batch.frames)
        noise = draw_normal(seed, positions, "noise", tuple(clean.shape[1:])).to(self.device)
        sigma = condition.floor.to(self.device)
        noisy = process.add_noise(clean, sigma, noise)
        told = self._of_batch(batch, clean, seed)
        blind = None
        if drawn:
            told = conditions.drop(told, self.config.drop, seed, positions)
            blind = conditions.dropped(self.config.drop, "pixels", seed, positions)
        extra = told | {"image_mode": image_mode}
        if self.process.objective == "consistency":
            stage = consistency.stage_of(progress)
            return self._jump_loss(network or self.network, clean, noise, condition, stage, extra)
        denoised, u = self._ask(network or self.network, noisy, sigma, extra, blind)
        pixels = None if condition.weight is None else condition.weight.to(self.device)
        emphasis = self.process.motion_emphasis
        error = process.weighted_error(denoised, clean, sigma, emphasis, pixels)
        weight = torch.ones_like(error) if pixels is None else pixels.mean(dim=(1, 3, 4))
        value = process.balance(error, u, weight).mean()
        level = sigma.amax(dim=(1, 3, 4)).expand_as(error)
        return Loss(value, error.detach(), level)

    def _jump_loss(
        self,
        network: nn.Module,
        clean: Float[Tensor, "b c t h w"],
        noise: Float[Tensor, "b c t h w"],
        condition: Condition,
        stage: int,
        extra: dict[str, Any],
    ) -> Loss:
        """Equation (1) of consistency.py; frames that are given stay at their level."""
        later = condition.floor.to(self.device)
        weight = torch.ones_like(later)
        if condition.weight is not None:
            weight = condition.weight.to(self.device)
        moves = weight > 0
        before = torch.where(moves, consistency.earlier(later, stage), later)
        lowest = self.calibration.sigma_min
        with torch.no_grad():
            level = before.clamp_min(lowest)
            target, _ = self._ask(network, clean + level * noise, level, extra)
            target = torch.where(before > lowest, target, clean)
        out, u = self._ask(network, clean + later * noise, later, extra)
        gap = torch.where(moves, later - before, 1.0)
        value = consistency.distance(out, target, gap, weight).mean() + 0 * u.sum()
        error = ((out - target) / gap).detach().square().mean(dim=(1, 3, 4)).sqrt()
        return Loss(value, error, later.amax(dim=(1, 3, 4)).expand_as(error))

    def _of_batch(self, batch: Batch, clean: Tensor, seed: int) -> conditions.Told:
        """All that is known of training clips, as the network takes it."""
        config, told = self.config, {"dt": batch.dt / self.calibration.dt}
        if config.classes and batch.label is not None:
            told["label"] = batch.label
        if batch.caption is not None:
            told |= conditions.tell_captions(config, batch.caption)
        if config.hint is not None:
            told |= conditions.draw_hint(clean, config.hint, seed, batch.positions)
        return {name: value.to(self.device) for name, value in told.items()}

    def _of_condition(self, condition: Condition) -> conditions.Told:
        """All that is known of clips to sample, as the network takes it."""
        conditions.check(self.config, condition)
        dt = condition.dt
        if dt is None:
            dt = torch.full((len(condition),), self.calibration.dt)
        told = {"dt": (dt / self.calibration.dt).float()}
        for name in ("label", "text", "words"):
            if (value := getattr(condition, name)) is not None:
                told[name] = value
        if condition.hint is not None and self.config.hint is not None:
            level, key = condition.hint_level, condition.key
            if level is None:
                level = torch.full((len(condition),), self.config.hint.level)
            keys = [0] * len(condition) if key is None else key.tolist()
            told |= conditions.show_hint(self.to_model(condition.hint), self.size, level, 0, keys)
        return {name: value.to(self.device) for name, value in told.items()}

    def tell(
        self, condition: Condition, label: int | str | None = None, caption: str | None = None
    ) -> Condition:
        """The condition with a class, by name or number, and a caption for every clip of it.

        Raises:
            RequestError: no such class, with the nearest; or a model that was trained without.
        """
        return conditions.add_words(condition, self.config, self.classes, label, caption)

    def denoiser(self, condition: Condition, image_mode: bool = False) -> Denoiser:
        """`denoise(noisy, sigma) -> clean` under a condition, guided by nothing."""
        extra = self._of_condition(condition) | {"image_mode": image_mode}

        def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self._ask(self.network, noisy, sigma, extra)[0]

        return denoise

    def settle(self, config: SampleConfig | None = None) -> SampleConfig:
        """How clips are sampled: what `config` sets, and this model's own way for the rest."""
        few = {"sampler": "jump", "grid": "jump", "steps": 2}
        usual = SampleConfig(**few if self.process.objective == "consistency" else {})
        if config is None:
            return usual
        given = {name: getattr(config, name) for name in config.model_fields_set}
        return SampleConfig(**usual.model_dump(exclude_unset=True) | given)

    @torch.no_grad()
    def sample(
        self,
        condition: Condition | None = None,
        seeds: Sequence[int] = (0,),
        config: SampleConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
        chunk: int = 8,
        reference: VideoDiffusion | None = None,
        watch: sampling.Watch | None = None,
    ) -> UInt8[Tensor, "b t h w c"]:
        """New clips, one for each seed; clip i is a function of its seed and its condition alone.

        Args:
            condition: the task; plain generation by default. One row serves all seeds.
            seeds: one a clip.
            config: sampler, steps, guidance.
            progress: called with (denoiser calls done, calls in all).
            chunk: clips sampled together on a GPU. On a CPU each is sampled alone: as fast, and
                bit for bit the same beside any others.
            reference: the weaker model of autoguidance; by default the one that the config names.
            watch: called a dozen times a batch with what its clips are guessed to be.

        Raises:
            RequestError: rows of the condition and seeds do not match, or the guidance has
                nothing to guide by.
            NumbersError: the clips came out non-finite.
        """
        config = self.settle(config)
        if reference is None and config.reference is not None:
            reference = self._reference(config.reference)
        for model in (self, reference):
            if model is not None:
                model.network.eval()
        return sampling.sample(self, condition, seeds, config, progress, chunk, reference, watch)

    def _reference(self, name: str) -> VideoDiffusion:
        if self.find_reference is None:
            raise RequestError(
                f"reference={name} is looked for beside the checkpoint of the model, and this "
                "model was not loaded from one.",
                "Give a loaded model as `reference`.",
            )
        return self.find_reference(name)


def build(
    model: ModelConfig,
    calibration: Calibration,
    num_frames: int,
    size: int,
    process: ProcessConfig | None = None,
    tasks: TaskConfig | None = None,
    seed: int = 0,
) -> VideoDiffusion:
    """A fresh model, its weights a function of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_generator(seed, 0, "weights").initial_seed())
        network = SpaceTimeUNet(model, size, channels=len(calibration.mean))
    return VideoDiffusion(network, calibration, num_frames, size, process, tasks)


def _stratified(seed: int, positions: list[int], batch_size: int) -> Float[Tensor, "b"]:
    """The quantile of each position: one in each bin of its global batch, in shuffled order."""
    slots = []
    for position in positions:
        step, place = divmod(position, batch_size)
        order = torch.randperm(batch_size, generator=make_generator(seed, step, "strata"))
        slots.append(float(order[place]))
    uniform = draw_uniform(seed, positions, "level")
    return process.stratify(uniform, torch.tensor(slots), batch_size)
