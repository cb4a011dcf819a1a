"""Captions to vectors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vidiff.errors import RequestError
from vidiff.models.layers import Norm
from vidiff.models.layout import ModelConfig, fit_conditions
from vidiff.models.text import BUCKETS, LENGTH, WordEncoder, hash_words, load_encoder


def test_words_are_hashed_alike_whatever_their_case_and_punctuation() -> None:
    a, b, c = hash_words(["A red, red cat!", "a RED red cat", "a red cat"])
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert int((a > 0).sum()) == 4
    assert int(a.max()) <= BUCKETS


def test_a_script_without_spaces_counts_its_characters_and_long_captions_are_cut() -> None:
    cat, long = hash_words(["\u7ea2\u8272\u7684\u732b on a mat", "word " * 99])
    assert int((cat > 0).sum()) == 7
    assert int((long > 0).sum()) == LENGTH


@pytest.mark.parametrize("norm", ["mp", "group"])
def test_a_caption_is_a_vector_of_unit_rms_and_none_is_zeros(norm: Norm) -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(32, norm)
    out = encoder(hash_words(["a red cat", None, "a cat, red", ""]))
    assert out.square().mean(1).sqrt().tolist() == pytest.approx([1, 0, 1, 0], abs=1e-3)
    assert not torch.allclose(out[0], out[2], atol=1e-2)  # the order of words counts
    one = encoder(hash_words(["a red cat"]))
    torch.testing.assert_close(one[0], out[0])
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "bad",
    [
        {"text": "bytes"},
        {"text": "given"},
        {"text": "words", "text_width": 4},
        {"text_width": 4},
    ],
)
def test_settings_that_contradict_each_other_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="text"):
        ModelConfig.model_validate(bad)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, tiny BERT with random weights, as Hugging Face stores it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **size)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    return folder


def test_any_encoder_of_hugging_face_can_read_the_captions(encoder: Path) -> None:
    text = f"hf:{encoder}"
    found = load_encoder(text)
    assert fit_conditions(ModelConfig(text=text), 0, True).text_width == found.width == 16
    rows = found.encode(["a red cat", None, "a cat", "a red cat"])
    assert rows.square().mean(1).sqrt().tolist() == pytest.approx([1, 0, 1, 1], abs=1e-3)
    assert torch.equal(rows[0], rows[3])
    assert not torch.allclose(rows[0], rows[2], atol=1e-2)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        load_encoder(f"hf:{tmp_path}")
    assert str(tmp_path) in caught.value.cause


def test_without_transformers_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RequestError) as caught:
        load_encoder("hf:anything")
    assert "vidiff[text]" in caught.value.remedy
