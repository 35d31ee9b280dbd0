"""Dropout at a fraction of its price on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

STEPS = 1 << 16
"""A probability is kept to this fraction."""


def draw_kept(shape: Sequence[int], p: float) -> torch.Tensor:
    """What dropout keeps, int16 [*shape], on a CPU: 0 with probability ``p``, else 1.

    Four elements are cut out of each 64-bit random number of NumPy's SFC64, started anew each time by a number of
    PyTorch's own generator, so that seeds and checkpoints hold. (The library draws a number per element, on one thread:
    23 to 31 % of a step of a small T5 with LoRA on all matrices.)
    """
    count = math.prod(shape)
    generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
    numbers = torch.from_numpy(generator.random_raw((count + 3) // 4).view(np.int16))
    return numbers[:count].view(*shape).ge_(int(p * STEPS) - STEPS // 2)  # uniform on -STEPS/2 … STEPS/2 - 1


def drop(values: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout of a tensor on a CPU, in training."""
    return _Drop.apply(values, draw_kept(values.shape, p), 1 / (1 - p)) if p else values


class _Drop(torch.autograd.Function):
    """Keeps two bytes per element for the way back, where the library's product keeps a factor."""

    @staticmethod
    def forward(ctx, values, kept, scale):
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (values * kept.to(values.dtype)).mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        (kept,) = ctx.saved_tensors
        return (gradient * kept.to(gradient.dtype)).mul_(ctx.scale), None, None


class CheapDropout(nn.Dropout):
    """``nn.Dropout`` that, on a CPU, draws as :func:`draw_kept`."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        return drop(values, self.p)


def cheapen_dropout(model: nn.Module) -> None:
    """Turn every dropout module of the model, its adapter's included, into a :class:`CheapDropout`, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CheapDropout
