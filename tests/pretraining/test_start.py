"""A pre-training that begins with an earlier base's language: decoder and embeddings stay, the rest begins anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.pretrain_settings import PretrainShape
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.start import CROSS_ATTENTION, mix_weights, take_vocabulary, take_weights

SHAPE = PretrainShape(d_model=64, d_ff=64, heads=1, encoder_layers=1, decoder_layers=2)


@pytest.fixture
def earlier(tiny_base: Path, tmp_path: Path) -> Path:
    """A base of the shape, with the tiny one's tokenizer."""
    folder = tmp_path / "anterior"
    build_model(SHAPE, 1024, seed=1).save_pretrained(folder)
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        if (tiny_base / name).exists():
            shutil.copy(tiny_base / name, folder / name)
    return folder


def test_the_decoder_and_the_embeddings_stay_and_what_was_taught_is_gone(earlier: Path) -> None:
    before = load_base(BaseLocation("anterior", earlier, "folder")).state_dict()
    model = build_model(SHAPE, 1024, seed=2)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    take_weights(model, str(earlier), "language")
    for name, tensor in model.state_dict().items():
        kept = name.startswith(("shared.", "decoder.")) and CROSS_ATTENTION not in name
        if "embed_tokens" in name or name == "lm_head.weight":  # tied to the shared ones
            kept = True
        assert torch.equal(tensor, before[name] if kept else fresh[name]), name
    assert any(CROSS_ATTENTION in name for name in fresh)


def test_all_of_a_base_can_stay(earlier: Path) -> None:
    before = load_base(BaseLocation("anterior", earlier, "folder")).state_dict()
    model = build_model(SHAPE, 1024, seed=2)
    take_weights(model, str(earlier), "all")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_was_learnt_can_go_part_of_the_way_back(earlier: Path) -> None:
    before = load_base(BaseLocation("anterior", earlier, "folder")).state_dict()
    learnt = dict(build_model(SHAPE, 1024, seed=2).named_parameters())
    mixed = {name: tensor.detach().clone() for name, tensor in learnt.items()}
    mix_weights(mixed, str(earlier), 0.25)
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.75 * learnt[name].detach() + 0.25 * before[name])


def test_the_vocabulary_is_the_base_s(earlier: Path, tmp_path: Path) -> None:
    take_vocabulary(str(earlier), tmp_path / "tokenizer")
    text = "O Louco abre a janela."
    assert load_tokenizer(tmp_path / "tokenizer")(text) == load_tokenizer(earlier)(text)


def test_another_shape_and_no_base_are_one_sentence_each(earlier: Path, tmp_path: Path) -> None:
    other = build_model(SHAPE.model_copy(update={"d_ff": 128}), 1024, seed=2)
    with pytest.raises(SettingError, match="tem outra forma"):
        take_weights(other, str(earlier), "language")
    with pytest.raises(SettingError, match="tem outra forma"):
        mix_weights(other.state_dict(), str(earlier), 0.5)
    (tmp_path / "vazia").mkdir()
    (tmp_path / "vazia" / "notas.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(SettingError, match="não é a pasta de um modelo base"):
        take_vocabulary(str(tmp_path / "vazia"), tmp_path / "t")
