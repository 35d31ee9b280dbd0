"""How long an epoch will take here: one layer of the base's shape is timed, with arbitrary weights; none are read."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.settings import GenerationSettings

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDS = 3


def measure_epoch(
    folder: Path,
    *,
    device: str,
    precision: str,
    batch_size: int,
    train: tuple[int, float, float],
    validation: tuple[int, float, float],
    generation: GenerationSettings,
) -> float:
    """Seconds of an epoch: training steps, then loss and generation on the validation side. Takes well under a second.

    What is timed: an encoder layer, a decoder layer and the output over the vocabulary, forwards and backwards for a
    batch of training, and forwards for one token of a batch of generation. What is left out: LoRA's own products, the
    bookkeeping of beams, a 4-bit base's unpacking, the libraries' own work.

    Args:
        folder: of the base; only its ``config.json`` is read.
        precision: of autocast: ``float32``, ``bfloat16`` or ``float16``.
        train, validation: number of readings, and mean tokens of a prompt and of a text.
    """
    import torch

    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoders = shape["num_layers"]
    decoders = shape.get("num_decoder_layers") or encoders
    layer = _Layer(shape, device)
    inputs, targets = (max(2, round(mean)) for mean in train[1:])
    written = max(generation.min_new_tokens, min(generation.max_new_tokens, round(validation[2])))
    rows = batch_size * generation.num_beams

    with torch.autocast(device, dtype=getattr(torch, precision), enabled=precision != "float32"):
        read = layer.example(batch_size, inputs)
        answer = layer.example(batch_size, targets)
        token, memory = layer.example(rows, 1), layer.example(rows, inputs)
        step = (
            encoders * _best(lambda: layer.encode(read).sum().backward(), device)
            + decoders * _best(lambda: layer.decode(answer, read.detach()).sum().backward(), device)
            + _best(lambda: layer.head(answer).logsumexp(-1).sum().backward(), device)
        )
        with torch.no_grad():
            one_token = decoders * _best(lambda: layer.decode(token, memory, known=True), device)
            one_token += _best(lambda: layer.head(token).log_softmax(-1).topk(2), device)
    steps, batches = math.ceil(train[0] / batch_size), math.ceil(validation[0] / batch_size)
    return steps * step + batches * (step / 3 + written * one_token)  # the loss alone: forwards, a third of a step


class _Layer:
    """The products of a T5 layer (Raffel et al., 2020), on frozen matrices: gradients flow through, as with LoRA."""

    def __init__(self, shape: Mapping[str, Any], device: str) -> None:
        import torch

        width, self.heads = shape["d_model"], shape["num_heads"]
        inner, hidden = shape["num_heads"] * shape["d_kv"], shape["d_ff"]

        def matrix(rows: int, columns: int) -> Tensor:
            return torch.full((rows, columns), 0.01, device=device)

        self.width, self.device = width, device
        self.q, self.k, self.v = (matrix(width, inner) for _ in range(3))
        self.o = matrix(inner, width)
        self.up = [matrix(width, hidden) for _ in range(2 if shape.get("is_gated_act") else 1)]
        self.down, self.vocabulary = matrix(hidden, width), matrix(width, shape["vocab_size"])

    def example(self, rows: int, tokens: int) -> Tensor:
        import torch

        return torch.full((rows, tokens, self.width), 0.1, device=self.device, requires_grad=True)

    def encode(self, x: Tensor) -> Tensor:
        return self._feed(x + self._attend(x, x @ self.k, x @ self.v))

    def decode(self, x: Tensor, memory: Tensor, *, known: bool = False) -> Tensor:
        """``known``: what the encoder gave is projected already, as from the second token of a generation on."""
        x = x + self._attend(x, x @ self.k, x @ self.v)
        pair = memory[..., :1].expand(-1, -1, self.k.shape[1]) if known else None
        keys, values = (pair, pair) if pair is not None else (memory @ self.k, memory @ self.v)
        return self._feed(x + self._attend(x, keys, values))

    def head(self, x: Tensor) -> Tensor:
        return (x @ self.vocabulary).float()

    def _attend(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (x @ self.q, keys, values))
        weights = (q @ k.to(q.dtype).transpose(-1, -2)).float().softmax(-1)
        return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(-2) @ self.o

    def _feed(self, x: Tensor) -> Tensor:
        normed = x * x.float().pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
        hidden = (normed @ self.up[0]).relu()
        for gate in self.up[1:]:
            hidden = hidden * (normed @ gate)
        return x + hidden @ self.down


def _best(run: Callable[[], object], device: str) -> float:
    import torch

    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
