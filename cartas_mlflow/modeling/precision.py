"""What number format this hardware should train in."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cartas_mlflow.modeling.hardware import Hardware

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WORTHWHILE_GAIN = 1.15
"""Times as fast that a CPU's encoder layer must be in bfloat16 for it to be taken: the gain of a whole step in more
threads is smaller than that of one layer in one thread."""
PROBE_ROUNDS = 5
PROBE_ROWS, PROBE_TOKENS = 8, 60


@dataclass(frozen=True)
class Precision:
    """``dtype``: ``float32``, ``bfloat16`` or ``float16``; ``reason``: a Portuguese clause; ``warning``: or None."""

    dtype: str
    reason: str
    warning: str | None = None


def choose_precision(requested: str, hardware: Hardware, measure_gain: Callable[[], float]) -> Precision:
    """bfloat16 where the device computes it natively, and a CPU clearly faster too; else float32.

    float16 is never chosen: T5's activations overflow its range (65,504) and the loss becomes NaN.

    Args:
        measure_gain: see :func:`measure_bfloat16_gain`; asked only where it decides.
    """
    if requested == "float16":
        warning = "float16 com T5 estoura o alcance do formato e costuma dar NaN; prefira training.precision=auto."
        if hardware.device == "cpu":
            warning = "float16 não tem efeito no treino em CPU: o cálculo será em float32."
            return Precision("float32", "float16 forçado, sem efeito em CPU", warning)
        return Precision("float16", "forçada", warning)
    if requested != "auto":
        slow = requested == "bfloat16" and not hardware.bfloat16
        return Precision(requested, "forçada", "Este hardware emula bfloat16: será mais lento." if slow else None)
    if not hardware.bfloat16:
        return Precision("float32", "o hardware não tem bfloat16 nativo")
    if hardware.device == "cuda":
        return Precision("bfloat16", "o hardware calcula bfloat16 nativamente")
    gain = measure_gain()
    measured = f"medido agora: nesta CPU, bfloat16 tem {gain:.1f} vezes a velocidade de float32"
    return Precision("bfloat16" if gain >= WORTHWHILE_GAIN else "float32", measured)


def measure_bfloat16_gain(config: PreTrainedConfig) -> float:
    """How many times as fast as in float32 this CPU computes an encoder layer of the base, forwards and backwards.

    Bare products do not tell (4.6 where the step gains 1.02 to 1.08), nor does what the CPU says of itself: with
    ``avx512_bf16`` some take twice the time of float32. The layer has the base's shape and arbitrary, frozen weights;
    the formats alternate, the best of five rounds counts. Under 2 s of one core for PTT5 base.
    """
    import torch
    from transformers import T5Config, T5EncoderModel

    shape = {**config.to_dict(), "num_layers": 1, "vocab_size": 8}
    layer = T5EncoderModel(T5Config(**shape)).requires_grad_(False)
    given = torch.zeros(PROBE_ROWS, PROBE_TOKENS, config.d_model, requires_grad=True)
    best = dict.fromkeys((False, True), math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose own time is then the whole time, whatever else the machine is doing
    try:
        for number in range(1 + PROBE_ROUNDS):
            for bfloat16 in best:
                started = time.thread_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    hidden = layer(inputs_embeds=given).last_hidden_state
                hidden.float().sum().backward()
                if number:  # the first round prepares the kernels
                    best[bfloat16] = min(best[bfloat16], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best[False] / (best[True] or math.inf)  # a clock too coarse to tell tells of no gain


@contextmanager
def fast_products() -> Iterator[None]:
    """float32 products on an NVIDIA GPU in TF32 (from Ampere on): ten bits of mantissa, as much as a training needs."""
    with _products("tf32"):
        yield


@contextmanager
def exact_products() -> Iterator[None]:
    """float32 products on a GPU in float32: a text must not hang on who writes it."""
    with _products("ieee"):
        yield


@contextmanager
def _products(precision: str) -> Iterator[None]:
    import torch

    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
