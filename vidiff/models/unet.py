"""The space-time U-Net: a noisy clip and one noise level a frame in, the network output F out.

    stem     space-to-depth by `patch`, a constant-1 channel, a 1x1 map
    down     levels of blocks; a block is  spatial 3x3 -> embedding gain -> spatial 3x3,
             then a gated temporal 3-tap convolution, then (on coarse maps) gated attention;
             the gain of the embedding is a channel vector of unit RMS in every frame
    up       the same blocks; each level joins its way-down twin once
    head     the noisy tokens come in once more: a 3x3 map of both with a gain that starts at 0,
             then depth-to-space. At small noise the answer is nearly linear in the pixels, and a
             trunk as wide as a token has numbers cannot carry them through.

The embedding is per frame, so every frame may stand at its own noise level. The layers are those
of layers.py; `norm` chooses magnitude-preserving (default) or group norm in one code path.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidiff.errors import RequestError
from vidiff.models.attention import Attention, Over
from vidiff.models.conditioning import Embedding
from vidiff.models.dropout import Dropout
from vidiff.models.layers import (
    TemporalConvolution,
    Weighted,
    activation,
    double,
    halve,
    make_norm,
    mp_cat,
    residual,
    unit_rms,
)
from vidiff.models.layout import Layout, ModelConfig, resolve


class Block(nn.Module):
    """Spatial residual branch, temporal convolution, attention."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb: int,
        side: int,
        config: ModelConfig,
        layout: Layout,
        *,
        down: bool,
        coarsest: bool,
    ) -> None:
        super().__init__()
        norm = config.norm
        self.norm, self.down = norm, down
        self.act = activation(norm)
        self.fit = Weighted(inputs, outputs, (1, 1), norm) if inputs != outputs else None
        self.norm1, self.norm2 = make_norm(outputs, norm), make_norm(outputs, norm)
        self.conv1 = Weighted(outputs, outputs, (3, 3), norm, padding=(1, 1))
        self.conv2 = Weighted(outputs, outputs, (3, 3), norm, padding=(1, 1), zero=norm == "group")
        self.scale = Weighted(emb, outputs, (), norm, zero=True)
        self.held = norm == "mp" and config.gains == "held"
        self.dropout = Dropout(config.dropout)
        self.over_time: TemporalConvolution | None = None
        self.within: Attention | None = None
        self.attention: Attention | None = None
        if config.temporal:
            self.over_time = TemporalConvolution(outputs, norm, config.theta, causal=config.causal)
            spatial = coarsest and side <= layout.joint_map
            joint = spatial and config.coarse == "joint"
            if spatial and not joint:
                self.within = self._attend(outputs, config, "space")
            if spatial or side <= layout.temporal_map:
                self.attention = self._attend(outputs, config, "joint" if joint else "time")

    @staticmethod
    def _attend(channels: int, config: ModelConfig, over: Over) -> Attention:
        return Attention(
            channels,
            config.norm,
            config.theta,
            over=over,
            causal=config.causal,
            backend=config.attention,
        )

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        emb: Float[Tensor, "n d"],
        times: Float[Tensor, "b t"],
        image_mode: bool,
    ) -> Float[Tensor, "n c2 h w"]:
        if self.fit is not None:
            x = self.fit(x)
        if self.norm == "mp" and self.down:
            x = unit_rms(x, 1)
        y = self.conv1(self.act(self.norm1(x)))
        scale = 1 + self.scale(emb)
        # A gain aligned with the embedding grows far beyond the norm of its rows.
        scale = unit_rms(scale, 1) if self.held else scale
        y = self.norm2(y) * scale.to(y.dtype)[:, :, None, None]
        y = self.conv2(self.dropout(self.act(y)))
        x = residual(self.norm, x, y)
        if self.over_time is not None and not image_mode:
            x = self.over_time(x, times.shape[1])
        for attention in (self.within, self.attention):
            x = x if attention is None else attention(x, times, image_mode)
        return x


class SpaceTimeUNet(nn.Module):
    """The network F of the preconditioned denoiser (diffusion/process.py).

    Args:
        config: architecture.
        frame_size: side of the square frames in pixels.
        channels: colour channels of a frame.
    """

    def __init__(self, config: ModelConfig, frame_size: int, channels: int = 3) -> None:
        super().__init__()
        layout = resolve(config, frame_size)
        self.config, self.layout, self.channels = config, layout, channels
        self.checkpointing = config.checkpointing
        p, widths, norm = layout.patch, layout.widths, config.norm
        emb = 4 * widths[0] if widths[0] < 128 else 2 * widths[-1]
        if config.classes == "auto":
            raise RequestError(
                "A network needs the number of its classes, not model.classes=auto.",
                "Give the number; `vidiff train` counts the labels of the folder.",
            )
        self.embedding = Embedding(
            emb,
            norm,
            config.classes,
            config.text_width,
            words=config.text == "words",
            hint=config.hint is not None,
        )
        shown = channels if config.hint else 0
        self.extra = {"hint": shown, "pixel_levels": int(config.pixel_levels)}
        inputs = (channels + sum(self.extra.values())) * p * p + 1
        self.stem = Weighted(inputs, widths[0], (1, 1), norm)
        sides = [frame_size // p // 2**i for i in range(len(widths))]
        last = len(widths) - 1

        def block(inputs: int, level: int, *, down: bool) -> Block:
            return Block(
                inputs,
                widths[level],
                emb,
                sides[level],
                config,
                layout,
                down=down,
                coarsest=level == last,
            )

        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for i in range(len(widths)):
            first = widths[max(i - 1, 0)]
            blocks = [
                block(first if j == 0 else widths[i], i, down=True) for j in range(layout.blocks)
            ]
            self.down.append(nn.ModuleList(blocks))
        for i in reversed(range(len(widths))):
            blocks = [block(widths[i], i, down=False) for _ in range(layout.blocks)]
            self.up.append(nn.ModuleList(blocks))
        self.joins = nn.ModuleList(
            Weighted(widths[i + 1], widths[i], (1, 1), norm) for i in reversed(range(last))
        )
        self.head_norm = make_norm(widths[0], norm)
        pixels = channels * p * p
        self.head = Weighted(widths[0] + pixels, pixels, (3, 3), norm, padding=(1, 1), zero=True)
        self.head_scale = Weighted(emb, pixels, (), norm, zero=True)
        self.uncertainty = Weighted(emb, 1, (), norm, zero=True)

    def forward(
        self,
        x: Float[Tensor, "b c t h w"],
        c_noise: Float[Tensor, "b t"],
        dt: Float[Tensor, "b"],
        *,
        label: Int[Tensor, "b"] | None = None,
        text: Float[Tensor, "b d"] | None = None,
        words: Int[Tensor, "b l"] | None = None,
        hint: Float[Tensor, "b c2 t h w"] | None = None,
        hint_noise: Float[Tensor, "b"] | None = None,
        pixel_noise: Float[Tensor, "b 1 t h w"] | None = None,
        image_mode: bool = False,
    ) -> tuple[Float[Tensor, "b c t h w"], Float[Tensor, "b t"]]:
        """F and the learned log-uncertainty u of each frame.

        Args:
            x: noisy clip, scaled to unit variance.
            c_noise: noise level of each frame, `ln(sigma) / 4`.
            dt: seconds between frames over the reference spacing (1: the usual rate); 0 for an
                unknown rate, which counts as the usual one where time is measured.
            label: class; `classes` or -1 for none.
            text: pooled text embedding, zeros for none.
            words: hashed words of a caption (text.py), zeros for none.
            hint: low-resolution clip, brought to this size and unit variance; zeros for none.
            hint_noise: its noise level, `ln(sigma) / 4`; infinite for none.
            pixel_noise: per-pixel `c_noise` minus the frame's; zero where they agree.
            image_mode: frames are independent pictures; temporal layers are bypassed.

        Raises:
            RequestError: a hint or pixel levels for a network that was built without them.
        """
        t = x.shape[2]
        spacing = torch.where(dt > 0, dt, 1.0).float()
        times = torch.arange(t, device=x.device) * spacing[:, None]
        emb, level_features = self.embedding(
            c_noise, dt, label, text, apart=image_mode, words=words, hint_noise=hint_noise
        )
        emb = rearrange(emb, "b t d -> (b t) d")
        x = self._tokens(x, hint, pixel_noise)
        noisy = x[:, : self.head_scale.weight.shape[0]]
        x = self.stem(x)
        skips = []
        for level, blocks in enumerate(self._levels(self.down)):
            x = x if level == 0 else halve(x)
            for block in blocks:
                x = self._run(block, x, emb, times, image_mode)
            skips.append(x)
        for step, blocks in enumerate(self._levels(self.up)):
            if step == 0:
                skips.pop()
            else:
                x = residual(self.config.norm, double(self.joins[step - 1](x)), skips.pop(), 0.5)
            for block in blocks:
                x = self._run(block, x, emb, times, image_mode)
        x = activation(self.config.norm)(self.head_norm(x))
        noisy = noisy * (1 + self.head_scale(emb).to(x.dtype))[:, :, None, None]
        x = self.head(mp_cat(x, noisy))
        p = self.layout.patch
        x = rearrange(x, "(b t) (c p q) h w -> b c t (h p) (w q)", t=t, p=p, q=p)
        return x, self.uncertainty(level_features)[..., 0]

    @staticmethod
    def _levels(side: nn.ModuleList) -> list[nn.ModuleList]:
        return [level for level in side if isinstance(level, nn.ModuleList)]

    def _tokens(
        self, x: Tensor, hint: Tensor | None, pixel_noise: Tensor | None
    ) -> Float[Tensor, "n c h w"]:
        parts = [x]
        for field, what, extra in (
            ("hint", "a hint clip", hint),
            ("pixel_levels", "noise levels that differ between pixels", pixel_noise),
        ):
            channels = self.extra[field]
            if extra is not None and not channels:
                raise RequestError(
                    f"This network was built without model.{field}; it cannot be given {what}.",
                    f"Use a model that was trained with model.{field} set.",
                )
            shape = (len(x), channels, *x.shape[2:])
            parts.append(x.new_zeros(shape) if extra is None else extra.to(x.dtype).expand(shape))
        p = self.layout.patch
        tokens = rearrange(torch.cat(parts, 1), "b c t (h p) (w q) -> (b t) (c p q) h w", p=p, q=p)
        return torch.cat([tokens, torch.ones_like(tokens[:, :1])], dim=1)

    def _run(
        self, block: nn.Module, x: Tensor, emb: Tensor, times: Tensor, image_mode: bool
    ) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, emb, times, image_mode, use_reentrant=False)
        return block(x, emb, times, image_mode)

    def normalize_weights(self) -> None:
        """Forced weight normalisation of every MP layer; call after each optimiser step."""
        for module in self.modules():
            if isinstance(module, Weighted):
                module.normalize()


def hidden_matrix(name: str, parameter: Tensor) -> bool:
    """True for the weights that Muon moves: matrices inside blocks, not the ends or embeddings."""
    ends = ("stem", "head", "embedding", "uncertainty", "scale", "head_scale", "lora")
    return parameter.ndim >= 2 and not any(part in ends for part in name.split("."))
