"""Cross entropy over a vocabulary without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cartas_mlflow.modeling.rounding import rounded

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

IGNORED_LABEL = -100
CHUNK_ROWS = 512
"""Rows of logits held at once: they outgrow a CPU's cache, and on a GPU they are a step's largest tensor."""

Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def score_rows(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the cross entropies of ``hidden @ weight.T`` and its gradient by the logits.

    hidden [rows, width], weight [vocabulary, width], and the gradient: of one dtype; labels [rows], -100 where nothing
    is asked: these rows of the gradient mean nothing.
    """
    targets = labels.clamp_min(0).unsqueeze(1)
    log_probabilities = (hidden @ weight.T).log_softmax(dim=1, dtype=torch.float32)
    total = -(log_probabilities.gather(1, targets).squeeze(1) * (labels != IGNORED_LABEL)).sum()
    gradient = log_probabilities.exp_()  # in place: a CPU spends its time on the memory of tensors of this size
    gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -1))
    return total, gradient.to(hidden.dtype)


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    score: Score = score_rows,
) -> torch.Tensor:
    """Sum of the cross entropies of ``hidden @ weight.T``, in nats, float32.

    Args:
        hidden: [rows, width]; weight: [vocabulary, width]; labels: [rows], -100 where nothing is asked.
        dtype: of the products.
        score: see :func:`score_rows`, perhaps compiled.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, dtype, score)


class _LinearCrossEntropy(torch.autograd.Function):
    """Both gradients are computed on the way forward, chunk by chunk.

    Rows labelled -100 count nothing. They are computed all the same: the CPU kernels are cached by shape, and a
    number of rows that changes with every batch costs 30 MB of memory a step.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, dtype, score):
        wanted = (labels != IGNORED_LABEL).unsqueeze(1)
        hidden_as, weight_as = hidden.to(dtype) * wanted, rounded(weight, dtype)
        grad_hidden = torch.empty_like(hidden_as)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            loss, grad = score(hidden_as[rows], weight_as, labels[rows])
            total += loss
            grad_hidden[rows] = grad @ weight_as
            if grad_weight is not None:
                grad_weight += (grad.T @ hidden_as[rows]).float()
        ctx.save_for_backward(grad_hidden.mul_(wanted), grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            (grad_hidden * grad_output).to(ctx.dtypes[0]),
            None if grad_weight is None else (grad_weight * grad_output).to(ctx.dtypes[1]),
            None,
            None,
            None,
        )


@contextmanager
def head_deferred(model: PeftModel) -> Iterator[nn.Linear]:
    """While the model is in training mode its ``logits`` are what the head would have been given; gives the head.

    In evaluation mode the model is as always.
    """
    head = model.get_base_model().get_output_embeddings()
    before = vars(head).get("forward")
    whole = head.forward
    head.forward = lambda hidden: hidden if head.training else whole(hidden)
    try:
        yield head
    finally:
        del head.forward
        if before is not None:
            head.forward = before
