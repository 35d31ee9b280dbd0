"""Cheaper masks, the same dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cartas_mlflow.modeling.dropout import CheapDropout, cheapen_dropout


def drop(values: torch.Tensor, p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return CheapDropout(p).train()(values)


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_the_probability_and_the_rest_is_scaled(p: float) -> None:
    dropped = drop(torch.ones(1000, 1000), p)
    kept = dropped[dropped != 0]
    assert torch.unique(kept).tolist() == pytest.approx([1 / (1 - p)])
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / 1e6) ** 0.5)


def test_elements_cut_from_one_random_number_are_dropped_independently() -> None:
    dropped = (drop(torch.ones(500_000, 4), 0.3) == 0).double()
    covariance = torch.cov(dropped.T)
    assert covariance.diagonal().tolist() == pytest.approx([0.21] * 4, abs=2e-3)
    assert (covariance - torch.diag(covariance.diagonal())).abs().max().item() < 2e-3


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5)])
def test_any_shape_will_do(shape: tuple[int, ...]) -> None:
    assert drop(torch.ones(shape), 0.5).shape == shape


def test_the_gradient_goes_where_the_value_went() -> None:
    values = torch.ones(1000, requires_grad=True)
    dropped = drop(values, 0.25)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())


def test_the_type_is_kept() -> None:
    assert drop(torch.ones(100, dtype=torch.bfloat16), 0.1).dtype == torch.bfloat16


def test_the_masks_come_from_the_global_generator() -> None:
    values = torch.ones(1000)
    assert torch.equal(drop(values, 0.5, seed=1), drop(values, 0.5, seed=1))
    assert not torch.equal(drop(values, 0.5, seed=1), drop(values, 0.5, seed=2))


def test_nothing_is_dropped_in_evaluation_or_with_probability_0() -> None:
    values = torch.rand(100)
    assert torch.equal(CheapDropout(0.5).eval()(values), values)
    assert torch.equal(drop(values, 0.0), values)


def test_every_dropout_of_a_model_becomes_cheap_and_keeps_its_probability() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.3)))
    cheapen_dropout(model)
    assert [(type(m), m.p) for m in model.modules() if isinstance(m, nn.Dropout)] == [
        (CheapDropout, 0.1),
        (CheapDropout, 0.3),
    ]
