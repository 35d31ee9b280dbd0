"""A T5 with LoRA that computes the same with less: what a training step spends beside its matrix products."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch.nn.functional import linear
from transformers.models.t5.modeling_t5 import T5DenseActDense, T5DenseGatedActDense, T5LayerNorm

from cartas_mlflow.modeling.dropout import CheapDropout, cheapen_dropout, draw_kept
from cartas_mlflow.modeling.rounding import rounded


def make_lean(model: nn.Module) -> None:
    """Turn the layers of a T5 with its adapter into those of this module, in place; what they compute stays the same.

    Only in training mode, and only where an adapter's layer is an ordinary one on an ordinary frozen matrix: the rest
    is left to the libraries.
    """
    cheapen_dropout(model)
    for module in model.modules():
        lean = _LEAN.get(type(module))
        if lean is not None and not (lean in {LeanLinear, LeanNorm} and module.weight.requires_grad):
            module.__class__ = lean


def _format(values: torch.Tensor) -> torch.dtype:
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


class LeanLinear(nn.Linear):
    """Rounds its frozen matrix once."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(values)
        return linear(values, rounded(self.weight, _format(values)), self.bias)


class LeanLoraLinear(LoraLinear):
    """One pass over the layer's input and output each, where the library makes six: see :class:`_LoraProduct`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.training or args or kwargs or x.device.type != "cpu" or not self._is_plain():
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        dropout = self.lora_dropout[name]
        return _LoraProduct.apply(
            x,
            rounded(self.base_layer.weight, _format(x)),
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            dropout.p if isinstance(dropout, nn.Dropout) else 0.0,
        )

    def _is_plain(self) -> bool:
        names = self.active_adapters
        if self.disable_adapters or self.merged or len(names) != 1 or names[0] not in self.lora_A:
            return False
        base, up = self.base_layer, self.lora_B[names[0]]
        return (
            type(base) is LeanLinear
            and base.bias is None
            and up.bias is None
            and not base.weight.requires_grad
            and names[0] not in self.lora_variant
            and type(self.lora_dropout[names[0]]) in {CheapDropout, nn.Identity}
        )


class _LoraProduct(torch.autograd.Function):
    """``W x + scaling B A dropout(x)``: Hu et al. 2021, "LoRA", equation 3, with the dropout of PEFT.

    values [..., in], weight [out, in] in the format of the products, down [r, in], up [out, r].
    """

    @staticmethod
    def forward(ctx, values, weight, down, up, scaling, p):
        given = values.flatten(0, -2).to(weight.dtype)
        down_as, up_as = down.to(weight.dtype), up.to(weight.dtype)
        kept = draw_kept(given.shape, p) if p else None
        left = given if kept is None else given * kept.to(given.dtype)
        scale = scaling / (1 - p)
        low = left @ down_as.T
        result = (given @ weight.T).addmm_(low, up_as.T, alpha=scale)
        ctx.save_for_backward(weight, down_as, up_as, kept, left, low)
        ctx.scale, ctx.dtypes = scale, (values.dtype, down.dtype, up.dtype)
        return result.view(*values.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx, gradient):
        weight, down, up, kept, left, low = ctx.saved_tensors
        above = gradient.flatten(0, -2).to(weight.dtype)
        grad_low = (above @ up) * ctx.scale
        grad_up = (above.T @ low) * ctx.scale
        grad_values = None
        if ctx.needs_input_grad[0]:
            through = grad_low @ down
            if kept is not None:
                through.mul_(kept.to(through.dtype))
            grad_values = (above @ weight).add_(through).to(ctx.dtypes[0]).view(*gradient.shape[:-1], -1)
        return (
            grad_values,
            None,
            (grad_low.T @ left).to(ctx.dtypes[1]),
            grad_up.to(ctx.dtypes[2]),
            None,
            None,
        )


class LeanNorm(T5LayerNorm):
    """Gives under autocast what the products behind it take, so that it is rounded once for all of them."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(hidden_states)
        return _Norm.apply(hidden_states, self.weight, self.variance_epsilon, _format(hidden_states))


class _Norm(torch.autograd.Function):
    """``weight x / rms(x)`` with a frozen weight: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"."""

    @staticmethod
    def forward(ctx, values, weight, epsilon, dtype):
        inverse = values.float().square().mean(dim=-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(values, weight, inverse)
        return (values * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx, gradient):
        values, weight, inverse = ctx.saved_tensors
        scaled = gradient * weight
        along = (scaled * values).mean(dim=-1, keepdim=True).mul_(inverse.square())
        return scaled.addcmul_(values, along, value=-1).mul_(inverse).to(values.dtype), None, None, None


class LeanFeedForward(T5DenseActDense):
    """Does not widen what comes out of the activation only for autocast to round it again."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(hidden_states.device.type):
            return super().forward(hidden_states)
        return self.wo(self.dropout(self.act(self.wi(hidden_states))))


class LeanGatedFeedForward(T5DenseGatedActDense):
    """As :class:`LeanFeedForward`, of T5 v1.1."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not torch.is_autocast_enabled(hidden_states.device.type):
            return super().forward(hidden_states)
        return self.wo(self.dropout(self.act(self.wi_0(hidden_states)) * self.wi_1(hidden_states)))


_LEAN = {
    nn.Linear: LeanLinear,
    LoraLinear: LeanLoraLinear,
    T5LayerNorm: LeanNorm,
    T5DenseActDense: LeanFeedForward,
    T5DenseGatedActDense: LeanGatedFeedForward,
}
