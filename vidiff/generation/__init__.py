"""From a request to clips with their certificates: one pass of the sampler, or several."""

from vidiff.generation.making import Publishing, generate

__all__ = ["Publishing", "generate"]
