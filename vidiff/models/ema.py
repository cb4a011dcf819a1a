"""Power-function averages of the weights, and any other length rebuilt after the run.

  (1) average at step t   w_t = beta_t w_{t-1} + (1 - beta_t) theta_t,  beta_t = (1 - 1/t)^(gamma+1)
  (2) its profile         p_t(tau) = (gamma + 1) tau^gamma / t^(gamma+1)  on 0 < tau <= t
  (3) relative width      sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))
  (4) inner product       <p_{t,a}, p_{s,b}> = (a+1)(b+1) (s/t)^a / ((a+b+1) t),  s <= t

Stored snapshots of a few tracks span a space; the profile of any wanted width is projected into it
by least squares, and the same coefficients combine the weights (Karras et al. 2023, arXiv
2312.02696, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidiff.errors import RequestError

WIDEST = 12**-0.5
"""Equation (3) at gamma = 0: the plain mean of the whole run."""


def gamma_of(sigma_rel: float) -> float:
    """The positive root gamma of (3).

    Raises:
        RequestError: `sigma_rel` is not above 0 and below 0.288, the width of gamma = 0.
    """
    if not 0 < sigma_rel < WIDEST:
        raise RequestError(
            f"The relative width {sigma_rel:g} of an average is outside 0 .. {WIDEST:.3f}.",
            "Widths of 0.05 to 0.20 of the run are usual.",
        )
    s2 = sigma_rel**2
    roots = np.roots([s2, 7 * s2, 16 * s2 - 1, 12 * s2 - 1])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def width_of(gamma: float) -> float:
    """Equation (3)."""
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


class PowerEma:
    """One track per relative width, kept in float32 beside the network.

    Args:
        network: its parameters are averaged; buffers are constants here.
        widths: relative widths sigma_rel, e.g. 0.05 and 0.10 of the run's length.
    """

    def __init__(self, network: nn.Module, widths: Sequence[float] = (0.05, 0.10)) -> None:
        self.names = [name for name, _ in network.named_parameters()]
        self.gammas = {width: gamma_of(width) for width in widths}
        start = [p.detach().float().clone() for p in network.parameters()]
        self.tracks = {width: [p.clone() for p in start] for width in widths}

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        """Equation (1) after optimiser step number `step` (the first is 1)."""
        values = [p.detach().float() for p in parameters]
        for width, track in self.tracks.items():
            beta = (1 - 1 / step) ** (self.gammas[width] + 1)
            torch._foreach_lerp_(track, values, 1 - beta)

    def state(self, width: float) -> dict[str, Tensor]:
        """The averaged parameters of one track, by name."""
        return dict(zip(self.names, self.tracks[width], strict=True))

    def load(self, width: float, tensors: Mapping[str, Tensor]) -> None:
        """Put a stored track back."""
        for name, value in zip(self.names, self.tracks[width], strict=True):
            value.copy_(tensors[name])


def profile_product(t: float, a: float, s: float, b: float) -> float:
    """Equation (4): the inner product of two profiles at steps t, s with exponents a, b."""
    if t < s:
        t, a, s, b = s, b, t, a
    return (a + 1) * (b + 1) * (s / t) ** a / ((a + b + 1) * t)


def reconstruction(
    stored: Sequence[tuple[int, float]], step: int, sigma_rel: float
) -> Float[np.ndarray, "k"]:
    """Coefficients that combine stored snapshots into an average of width `sigma_rel` at `step`.

    Args:
        stored: (step, gamma) of each snapshot.
        step: end of the wanted average.
        sigma_rel: its relative width.
    """
    gamma = gamma_of(sigma_rel)
    gram = np.array([[profile_product(t, a, s, b) for s, b in stored] for t, a in stored])
    wanted = np.array([profile_product(t, a, step, gamma) for t, a in stored])
    return np.asarray(np.linalg.lstsq(gram, wanted, rcond=1e-12)[0])
