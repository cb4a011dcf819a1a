"""Captions to vectors: a small encoder trained with the network, or any encoder of Hugging Face.

    words     each word is hashed into one of BUCKETS rows of a table (Weinberger et al. 2009,
              arXiv 0902.2206), so there is no vocabulary to build and nothing to download; a script
              written without spaces counts each of its characters
    encoder   two residual 3-tap convolutions over the words, their mean, to unit RMS

No caption is zeros. Words that no training caption had fall into rows that were never trained: the
encoder knows the words of the folder, and no others.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vidiff.errors import RequestError
from vidiff.models.layers import Norm, Weighted, activation, residual, unit_rms

BUCKETS = 4096
"""Rows of the table of words; two words share one with probability 1 / BUCKETS."""

LENGTH = 64
"""Words of a caption that count; later ones are left out."""

_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


def hash_words(captions: Sequence[str | None]) -> Int[Tensor, "b l"]:
    """The row of each word, 1 .. BUCKETS, in LENGTH places; 0 where there is none."""
    rows = torch.zeros(len(captions), LENGTH, dtype=torch.long)
    for row, caption in zip(rows, captions, strict=True):
        plain = unicodedata.normalize("NFKC", caption or "").lower()
        for place, word in enumerate(_WORD.findall(plain)[:LENGTH]):
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            row[place] = 1 + int.from_bytes(digest, "big") % BUCKETS
    return rows


class WordEncoder(nn.Module):
    """Hashed words to one vector a caption, of unit RMS; zeros for no caption."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.norm, self.act = norm, activation(norm)
        self.table = nn.Parameter(torch.randn(BUCKETS + 1, width))
        self.mix = nn.ModuleList(
            Weighted(width, width, (3, 1), norm, padding=(1, 0)) for _ in range(2)
        )

    def forward(self, words: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        there = (words > 0).to(self.table.dtype)[:, None, :, None]
        x = unit_rms(F.embedding(words, self.table), -1)
        x = rearrange(x, "b l d -> b d l 1") * there
        for mix in self.mix:
            x = residual(self.norm, x, mix(self.act(x))) * there
        total = x.sum(2)[..., 0]
        # Not unit_rms: its gradient at zeros, where there is no caption, is not finite.
        return total * (total.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


HUGGING_FACE = "hf:"
"""Prefix of `model.text` that names a text encoder of Hugging Face."""


class HuggingFaceEncoder:
    """A pretrained text encoder, frozen: the mean of its last states, to unit RMS; cached.

    Args:
        name: of a repository or a local folder.

    Raises:
        RequestError: transformers is not installed, or cannot load it.
    """

    def __init__(self, name: str) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise RequestError(
                f"model.text={HUGGING_FACE}{name} needs the package transformers.",
                "Install it (pip install 'vidiff[text]'), or set model.text=words.",
            ) from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModel.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise RequestError(
                f"model.text={HUGGING_FACE}{name}: no text encoder could be loaded "
                f"({str(error).splitlines()[0]}).",
                "Give the name of a repository with a tokenizer, or a folder with one.",
            ) from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.model: Any = getattr(model, "text_model", model).eval().requires_grad_(False)
        self.width = int(self.model.config.hidden_size)
        self.known: dict[str, Tensor] = {}

    def encode(self, captions: Sequence[str | None]) -> Float[Tensor, "b d"]:
        """One row a caption; zeros for none."""
        new = sorted({c for c in captions if c and c not in self.known})
        for caption in new:
            tokens = self.tokenizer(caption, return_tensors="pt", truncation=True)
            with torch.no_grad():
                states = self.model(**tokens).last_hidden_state[0]
            self.known[caption] = unit_rms(states.float().mean(0), 0)
        blank = torch.zeros(self.width)
        return torch.stack([self.known[c] if c else blank for c in captions])


@lru_cache(maxsize=1)
def load_encoder(text: str) -> HuggingFaceEncoder:
    """The encoder that `model.text=hf:NAME` names, loaded once."""
    return HuggingFaceEncoder(text.removeprefix(HUGGING_FACE))
