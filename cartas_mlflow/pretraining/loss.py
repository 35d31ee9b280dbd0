"""The loss of packed batches, with the two functions where the time goes: as they are, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cartas_mlflow.modeling.chunked_loss import score_rows, summed_cross_entropy
from cartas_mlflow.pretraining.objective import IGNORED, Batch


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
    total = summed_cross_entropy(
        hidden, model.shared.weight, labels.flatten(), dtype=kernels.dtype, score=kernels.score
    )
    return total / int((batch.labels != IGNORED).sum())


def _attention_mask(queries: torch.Tensor, keys: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """Return the additive mask [rows, 1, queries, keys] that keeps attention within a segment."""
    same = queries[:, :, None] == keys[:, None, :]
    if allowed is not None:
        same = same & allowed
    return torch.where(same, 0.0, -1e4)[:, None]
