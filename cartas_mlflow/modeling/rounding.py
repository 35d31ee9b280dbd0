"""A frozen base's weights in the format of the products, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def rounded(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A frozen weight in the format of the products, kept with it until :func:`forget_rounded`.

    Autocast keeps what it rounds of weights that train only: a frozen base it rounds anew in every pass. So is a weight
    of :func:`round_anew` here.
    """
    if weight.dtype == dtype or weight.requires_grad or getattr(weight, "rounded_anew", False):
        return weight.to(dtype)
    if getattr(weight, "rounded", None) is None or weight.rounded.dtype != dtype:
        weight.rounded = weight.detach().to(dtype)
    return weight.rounded


def round_anew(model: nn.Module) -> None:
    """Keep no copy of the weights that the model has now: where memory lacks, half of them more is too much."""
    for weight in model.parameters():
        weight.rounded_anew = True


def forget_rounded(model: nn.Module) -> None:
    """Give back the memory of :func:`rounded`."""
    for weight in model.parameters():
        weight.rounded = None
