"""The loss of packed batches, with the two functions where the time goes: as they are, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cartas_mlflow.pretraining.objective import IGNORED, Batch

_LOSS_ROWS = 512  # rows of logits held at once


def decode_batch(model, inputs, decoder_inputs, encoder_mask, decoder_mask, cross_mask) -> torch.Tensor:
    """Return the decoder's last hidden states [rows, target length, d_model], under bf16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model.encoder(input_ids=inputs, attention_mask=encoder_mask).last_hidden_state
        return model.decoder(
            input_ids=decoder_inputs,
            attention_mask=decoder_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=cross_mask,
            use_cache=False,
        ).last_hidden_state


def score_rows(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the cross entropies of ``hidden @ weight.T`` and its gradient by the logits (bf16).

    hidden [rows, d_model], weight [vocabulary, d_model], both bf16; labels [rows], -100 where nothing is asked.
    """
    wanted = (labels != IGNORED).unsqueeze(1)
    targets = labels.clamp_min(0).unsqueeze(1)
    logits = (hidden @ weight.T).float()
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    total = ((normaliser - logits.gather(1, targets)) * wanted).sum()
    is_target = torch.arange(len(weight)) == targets
    return total, (((logits - normaliser).exp() - is_target.float()) * wanted).to(torch.bfloat16)


@dataclass(frozen=True)
class Kernels:
    """The two functions where the time goes, as they are or compiled."""

    decode: Callable = decode_batch
    score: Callable = score_rows

    @classmethod
    def compile(cls) -> Kernels:
        """Compile both: minutes at the start, then nearly twice as fast; needs a C++ compiler. Same results."""
        return cls(torch.compile(decode_batch, dynamic=False), torch.compile(score_rows, dynamic=False))


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of ``hidden @ weight.T``, without ever holding all logits (they outgrow the cache).

    Rows labelled -100 count nothing. They are computed all the same: the CPU kernels are cached by shape, and a
    number of rows that changes with every batch costs 30 MB of memory a step.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, score):
        hidden16, weight16 = hidden.to(torch.bfloat16), weight.to(torch.bfloat16)
        grad_hidden = torch.empty_like(hidden16)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), _LOSS_ROWS):
            rows = slice(start, start + _LOSS_ROWS)
            loss, grad = score(hidden16[rows], weight16, labels[rows])
            total += loss
            grad_hidden[rows] = grad @ weight16
            grad_weight += (grad.T @ hidden16[rows]).float()
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            (grad_hidden * grad_output).to(ctx.dtypes[0]),
            (grad_weight * grad_output).to(ctx.dtypes[1]),
            None,
            None,
        )


def compute_loss(model, batch: Batch, kernels: Kernels = Kernels()) -> torch.Tensor:
    """Return the mean cross entropy per target token, in nats, under bf16 autocast."""
    inputs, decoder_inputs, labels, input_segments, target_segments = (
        torch.from_numpy(array)
        for array in (batch.inputs, batch.decoder_inputs, batch.labels, batch.input_segments, batch.target_segments)
    )
    causal = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool).tril()
    decoded = kernels.decode(
        model,
        inputs,
        decoder_inputs,
        _attention_mask(input_segments, input_segments),
        _attention_mask(target_segments, target_segments, causal),
        _attention_mask(target_segments, input_segments),
    )
    hidden = decoded.flatten(0, 1) * model.config.d_model**-0.5
    total = _LinearCrossEntropy.apply(hidden, model.shared.weight, labels.flatten(), kernels.score)
    return total / int((labels != IGNORED).sum())


def _attention_mask(queries: torch.Tensor, keys: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Return the additive mask [rows, 1, queries, keys] that keeps attention within a segment."""
    same = queries[:, :, None] == keys[:, None, :]
    if allowed is not None:
        same = same & allowed
    return torch.where(same, 0.0, -1e4)[:, None]
