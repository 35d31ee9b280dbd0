"""A model's weights that make room for another's, and come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cartas_mlflow.modeling import parking
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.loading import Quantization, load_base
from cartas_mlflow.modeling.parking import parked


def test_a_4_bit_model_writes_the_same_logits_after_it_was_away(tiny_base: Path) -> None:
    model = load_base(BaseLocation("tiny", tiny_base, "folder"), "cpu", Quantization("nf4", True, "float32")).eval()
    words = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 8, 9]])}
    with torch.inference_mode():
        before = model(**words).logits
    with parked(model):
        assert all(weight.numel() == 0 for weight in model.parameters())
    with torch.inference_mode():
        assert torch.equal(model(**words).logits, before)


def test_an_error_meanwhile_gives_them_back_too() -> None:
    model = torch.nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(KeyError), parked(model):
        raise KeyError
    assert torch.equal(model.weight, before)


def test_where_the_disk_is_full_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(3, 2)

    def full(*args: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0")

    monkeypatch.setattr(parking.torch, "save", full)
    with parked(model):
        assert model.weight.shape == (2, 3)
