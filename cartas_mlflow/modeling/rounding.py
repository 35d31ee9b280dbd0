"""A frozen base's weights in the format of the products, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def rounded(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A frozen weight in the format of the products, kept with it until :func:`forget_rounded`.

    Autocast keeps what it rounds of weights that train only: a frozen base it rounds anew in every pass.
    """
    if weight.dtype == dtype or weight.requires_grad:
        return weight.to(dtype)
    if getattr(weight, "rounded", None) is None or weight.rounded.dtype != dtype:
        weight.rounded = weight.detach().to(dtype)
    return weight.rounded


def forget_rounded(model: nn.Module) -> None:
    """Give back the memory of :func:`rounded`."""
    for weight in model.parameters():
        weight.rounded = None
