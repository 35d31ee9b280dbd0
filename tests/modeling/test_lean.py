"""Leaner layers, the same numbers."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cartas_mlflow.modeling.attention import lean_attention
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.dropout import cheapen_dropout
from cartas_mlflow.modeling.lean import LeanFeedForward, LeanLinear, LeanLoraLinear, LeanNorm, make_lean
from cartas_mlflow.modeling.loading import load_base
from cartas_mlflow.modeling.lora import attach_adapter
from cartas_mlflow.modeling.rounding import forget_rounded, rounded
from cartas_mlflow.settings import LoraSettings

BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 1], [8, 9, 1, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "labels": torch.tensor([[6, 7, 8, 9, 1], [5, 1, -100, -100, -100]]),
}


def adapted(tiny_base: Path, dropout: float, targets: tuple[str, ...] = ("all-linear",)) -> nn.Module:
    """A small T5 whose adapter does something."""
    settings = LoraSettings(dropout=dropout, target_modules=targets)
    model = attach_adapter(load_base(BaseLocation("base", tiny_base, "folder")), settings, seed=1)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.train()


def step(model: nn.Module, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one pass, its masks drawn from a fixed seed."""
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(**BATCH).loss
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("targets", [("all-linear",), ("q", "v")])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_those_of_the_library_s_layers(
    tiny_base: Path, dropout: float, targets: tuple[str, ...]
) -> None:
    library, lean = adapted(tiny_base, dropout, targets), adapted(tiny_base, dropout, targets)
    cheapen_dropout(library)
    make_lean(lean)
    loss, gradients = step(library, torch.float32)
    lean_loss, lean_gradients = step(lean, torch.float32)
    assert lean_loss == pytest.approx(loss, rel=1e-5)
    assert lean_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(lean_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_activations_that_are_computed_again_are_dropped_as_the_first_time(tiny_base: Path) -> None:
    kept, again = adapted(tiny_base, 0.3), adapted(tiny_base, 0.3)
    for model in (kept, again):
        make_lean(model)
    again.enable_input_require_grads()
    again.activation_checkpointing_enable()
    (loss, gradients), (loss_again, gradients_again) = step(kept, torch.float32), step(again, torch.float32)
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_in_bfloat16_the_gradient_is_as_near_to_float32_s_as_the_library_s(tiny_base: Path, dropout: float) -> None:
    library, lean, exact = (adapted(tiny_base, dropout) for _ in range(3))
    cheapen_dropout(library)
    cheapen_dropout(exact)
    make_lean(lean)
    loss, wanted = step(exact, torch.float32)
    whole = torch.cat([gradient.flatten() for gradient in wanted.values()])

    def distance(model: nn.Module) -> float:
        found, gradients = step(model, torch.bfloat16)
        assert found == pytest.approx(loss, rel=1e-2)
        return (torch.cat([gradient.flatten() for gradient in gradients.values()]) - whole).norm().item()

    of_lean = distance(lean)
    assert of_lean < 1.2 * distance(library)
    assert of_lean < 0.2 * whole.norm().item()


def test_what_is_not_ordinary_is_left_to_the_library(tiny_base: Path) -> None:
    model = adapted(tiny_base, 0.0)
    make_lean(model)
    for module in model.modules():  # attentions have a number, not a module
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    plain = model(**BATCH).loss.item()
    with model.disable_adapter():
        assert model(**BATCH).loss.item() != pytest.approx(plain, rel=1e-4)
    model.merge_adapter()
    assert model(**BATCH).loss.item() == pytest.approx(plain, rel=1e-4)
    model.unmerge_adapter()
    model.add_adapter("second", model.peft_config["default"])
    assert model(**BATCH).loss.item() == pytest.approx(plain, rel=1e-4)


def test_every_layer_s_kind_is_found_and_what_trains_stays(tiny_base: Path) -> None:
    model = adapted(tiny_base, 0.1, ("q",))
    make_lean(model)
    kinds = {type(module) for module in model.modules()}
    assert {LeanLinear, LeanLoraLinear, LeanFeedForward, LeanNorm} <= kinds
    assert {type(module) for name, module in model.named_modules() if name.endswith(("lora_A.default",))} == {nn.Linear}


def test_a_frozen_weight_is_rounded_once_and_forgotten_when_told() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    first = rounded(layer.weight, torch.bfloat16)
    assert first.dtype == torch.bfloat16
    assert rounded(layer.weight, torch.bfloat16) is first
    assert copy.deepcopy(layer).weight.dtype == torch.float32
    with torch.no_grad():
        layer.weight += 1
    forget_rounded(layer)
    torch.testing.assert_close(rounded(layer.weight, torch.bfloat16), layer.weight.to(torch.bfloat16))


def test_a_weight_that_trains_gets_its_gradient_through_the_rounding() -> None:
    weight = nn.Parameter(torch.ones(3))
    rounded(weight, torch.bfloat16).sum().backward()
    assert weight.grad.tolist() == [1, 1, 1]


MASKS = {"none": None, "padding and future": torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_the_library_s_but_for_the_masks_of_its_dropout(mask: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.is_causal = True
    query, key, value = (torch.randn(2, 3, 5, 8).to(dtype) for _ in range(3))
    given = {"scaling": 1.0, "position_bias": torch.randn(1, 3, 5, 5).to(dtype)}  # a cross-attention's is so too
    exact = [tensor.float() for tensor in (query, key, value)]
    bias = given["position_bias"].float()
    wanted, _ = sdpa_attention_forward(module, *exact, MASKS[mask], scaling=1.0, position_bias=bias)
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    with lean_attention(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        whole, barely, dropped = (
            attend(module, query, key, value, MASKS[mask], dropout=p, **given)[0].float() for p in (0.0, 1e-9, 0.5)
        )
    torch.testing.assert_close(whole, wanted)
    torch.testing.assert_close(barely, wanted, **near)
    assert not torch.allclose(dropped, wanted, **near)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
