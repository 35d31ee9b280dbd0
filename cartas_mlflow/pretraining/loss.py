"""The loss of packed batches, with the two functions where the time goes: as they are, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cartas_mlflow.pretraining.objective import IGNORED, Batch

_LOSS_ROWS = 512  # rows of logits held at once


def decode_batch(model, inputs, decoder_inputs, encoder_mask, decoder_mask, cross_mask, dtype) -> torch.Tensor:
    """Return the decoder's last hidden states [rows, target length, d_model]; ``dtype`` bfloat16: under autocast."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        encoded = model.encoder(input_ids=inputs, attention_mask=encoder_mask).last_hidden_state
        return model.decoder(
            input_ids=decoder_inputs,
            attention_mask=decoder_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=cross_mask,
            use_cache=False,
        ).last_hidden_state


def score_rows(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the cross entropies of ``hidden @ weight.T`` and its gradient by the logits.

    hidden [rows, d_model], weight [vocabulary, d_model], and the gradient: of one dtype; labels [rows], -100 where
    nothing is asked.
    """
    wanted = (labels != IGNORED).unsqueeze(1)
    targets = labels.clamp_min(0).unsqueeze(1)
    logits = (hidden @ weight.T).float()
    normaliser = logits.logsumexp(dim=1, keepdim=True)
    total = ((normaliser - logits.gather(1, targets)) * wanted).sum()
    is_target = torch.arange(len(weight), device=weight.device) == targets
    return total, (((logits - normaliser).exp() - is_target.float()) * wanted).to(hidden.dtype)


@dataclass(frozen=True)
class Kernels:
    """The two functions where the time goes, as they are or compiled, and the format of their products."""

    decode: Callable = decode_batch
    score: Callable = score_rows
    dtype: torch.dtype = torch.float32
    """bfloat16 (weights stay float32) or float32."""

    @classmethod
    def compile(cls, dtype: torch.dtype) -> Kernels:
        """Compile both: minutes at the start, then nearly twice as fast; needs a C++ compiler. Same results."""
        return cls(torch.compile(decode_batch, dynamic=False), torch.compile(score_rows, dynamic=False), dtype)


PLAIN = Kernels()


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of ``hidden @ weight.T``, without ever holding all logits (they outgrow the cache).

    Rows labelled -100 count nothing. They are computed all the same: the CPU kernels are cached by shape, and a
    number of rows that changes with every batch costs 30 MB of memory a step.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, kernels):
        hidden_as, weight_as = hidden.to(kernels.dtype), weight.to(kernels.dtype)
        grad_hidden = torch.empty_like(hidden_as)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), _LOSS_ROWS):
            rows = slice(start, start + _LOSS_ROWS)
            loss, grad = kernels.score(hidden_as[rows], weight_as, labels[rows])
            total += loss
            grad_hidden[rows] = grad @ weight_as
            grad_weight += (grad.T @ hidden_as[rows]).float()
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


def compute_loss(model, batch: Batch, kernels: Kernels = PLAIN) -> torch.Tensor:
    """Return the mean cross entropy per target token, in nats, computed on the model's device."""
    device = model.shared.weight.device
    inputs, decoder_inputs, labels, input_segments, target_segments = (
        torch.from_numpy(array).to(device)
        for array in (batch.inputs, batch.decoder_inputs, batch.labels, batch.input_segments, batch.target_segments)
    )
    causal = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool, device=device).tril()
    decoded = kernels.decode(
        model,
        inputs,
        decoder_inputs,
        _attention_mask(input_segments, input_segments),
        _attention_mask(target_segments, target_segments, causal),
        _attention_mask(target_segments, input_segments),
        kernels.dtype,
    )
    hidden = decoded.flatten(0, 1) * model.config.d_model**-0.5
    total = _LinearCrossEntropy.apply(hidden, model.shared.weight, labels.flatten(), kernels)
    return total / int((batch.labels != IGNORED).sum())


def _attention_mask(queries: torch.Tensor, keys: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Return the additive mask [rows, 1, queries, keys] that keeps attention within a segment."""
    same = queries[:, :, None] == keys[:, None, :]
    if allowed is not None:
        same = same & allowed
    return torch.where(same, 0.0, -1e4)[:, None]
