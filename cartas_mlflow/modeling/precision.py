"""What number format this hardware should train in, and how a batch is cut so that it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cartas_mlflow.console import decimal
from cartas_mlflow.modeling.hardware import Hardware, measure_bfloat16_gain

MEMORY_SHARE = 0.5
"""Share of the device's free memory that activations may take; weights, generation and other programs have the rest."""

WORTHWHILE_GAIN = 1.25
"""Times as fast that a CPU's products must be in bfloat16 for it to be taken: only a part of a step is products."""


@dataclass(frozen=True)
class Precision:
    """``dtype``: ``float32``, ``bfloat16`` or ``float16``; ``reason``: a Portuguese clause; ``warning``: or None."""

    dtype: str
    reason: str
    warning: str | None = None


def choose_precision(
    requested: str, hardware: Hardware, measure_gain: Callable[[], float] = measure_bfloat16_gain
) -> Precision:
    """bfloat16 where the device computes it natively, and a CPU clearly faster too; else float32.

    float16 is never chosen: T5's activations overflow its range (65,504) and the loss becomes NaN.

    Args:
        measure_gain: see :func:`~cartas_mlflow.modeling.hardware.measure_bfloat16_gain`; asked only where it decides.
    """
    if requested == "float16":
        warning = "float16 com T5 estoura o alcance do formato e costuma dar NaN; prefira training.precision=auto."
        if hardware.device == "cpu":
            warning = "float16 não tem efeito no treino em CPU: o cálculo será em float32."
            return Precision("float32", "float16 forçado, sem efeito em CPU", warning)
        return Precision("float16", "forçado", warning)
    if requested != "auto":
        slow = requested == "bfloat16" and not hardware.bfloat16
        return Precision(requested, "forçado", "Este hardware emula bfloat16: será mais lento." if slow else None)
    if not hardware.bfloat16:
        return Precision("float32", "o hardware não tem bfloat16 nativo")
    if hardware.device == "cuda":
        return Precision("bfloat16", "o hardware calcula bfloat16 nativamente")
    gain = measure_gain()
    measured = f"medido agora: nesta CPU, bfloat16 tem {decimal(gain, 1)} vez a velocidade de float32"
    return Precision("bfloat16" if gain >= WORTHWHILE_GAIN else "float32", measured)


def choose_micro_batch(requested: str | int, batch_size: int, hardware: Hardware, example_bytes: float) -> int:
    """Examples per forward pass: the largest divisor of ``batch_size`` whose activations fit in the free memory.

    Args:
        requested: ``auto``, or the number that the user wants.
        example_bytes: what one example takes, see :func:`activation_bytes`.
    """
    if isinstance(requested, int):
        return requested
    affordable = hardware.free_memory * 2**30 * MEMORY_SHARE / example_bytes
    divisors = (size for size in range(batch_size, 0, -1) if batch_size % size == 0)
    return next((size for size in divisors if size <= affordable), 1)


def activation_bytes(*, layers: int, width: int, heads: int, vocabulary: int, tokens: int) -> float:
    """Memory that one example takes in a training step, in bytes.

    Fitted to the peak memory of real steps of T5 with LoRA on all matrices (9.4 and 222.9 million parameters, 70 to 450
    tokens, on a CPU): from 5 % below it to 50 % above. Fewer targets take up to a third less. bfloat16 autocast takes
    nearly as much as float32, since it keeps most values in both formats.

    Args:
        layers: encoder and decoder layers together.
        tokens: of the longest text.
    """
    per_token = 340 * width + 16 * heads * tokens
    return layers * tokens * per_token + 16 * tokens * vocabulary
