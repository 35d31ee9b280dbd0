"""Attentions that train for less on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softmax
from transformers.integrations.sdpa_attention import create_position_bias_mask, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cartas_mlflow.modeling.dropout import drop


@contextmanager
def lean_attention() -> Iterator[None]:
    """Within, what trains on a CPU attends as here; everything else as the library has it.

    With dropout PyTorch has no kernel that would not hold all weights either, and draws a number for each. Without, its
    kernel takes several times as long in bfloat16 as in float32, which is therefore what these small products are in.
    """
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    here = module.training and query.device.type == "cpu"
    if here and dropout and scaling == 1 and position_bias is not None:
        causal = attention_mask is None and module.is_causal and query.shape[2] > 1
        bias = create_position_bias_mask(position_bias, attention_mask, causal, query, key)
        weights = softmax(query @ key.transpose(2, 3) + bias, dim=-1, dtype=torch.float32).to(value.dtype)
        return (drop(weights, dropout) @ value).transpose(1, 2).contiguous(), None
    if here:
        query, key, value = query.float(), key.float(), value.float()
        position_bias = None if position_bias is None else position_bias.float()
    with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not here):
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            position_bias=position_bias,
            **options,
        )
