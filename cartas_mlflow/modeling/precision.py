"""What number format this hardware should train in, and how a batch is cut so that it fits."""

from __future__ import annotations

from dataclasses import dataclass

from cartas_mlflow.modeling.hardware import Hardware

MEMORY_SHARE = 0.5
"""Share of the device's free memory that activations may take; weights, generation and other programs have the rest."""


@dataclass(frozen=True)
class Precision:
    """``dtype``: ``float32``, ``bfloat16`` or ``float16``; ``reason``: a Portuguese clause; ``warning``: or None."""

    dtype: str
    reason: str
    warning: str | None = None


def choose_precision(requested: str, hardware: Hardware) -> Precision:
    """bfloat16 where the device computes it natively, else float32.

    float16 is never chosen: T5's activations overflow its range (65,504) and the loss becomes NaN.
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
    if hardware.bfloat16:
        return Precision("bfloat16", "o hardware calcula bfloat16 nativamente")
    return Precision("float32", "o hardware não tem bfloat16 nativo")


def choose_micro_batch(
    requested: str | int,
    batch_size: int,
    hardware: Hardware,
    *,
    layers: int,
    width: int,
    heads: int,
    tokens: int,
    dtype: str,
) -> int:
    """Examples per forward pass: the largest divisor of ``batch_size`` whose activations fit in the free memory.

    Activations per example and layer: s·h·(34 + 5·a·s/h) bytes in a 16-bit format, twice that in float32 (Korthikanti
    et al., 2022, "Reducing Activation Recomputation in Large Transformer Models", eq. 1), with s = ``tokens`` of the
    longest text, h = ``width``, a = ``heads``; ``layers`` counts encoder and decoder layers together.
    """
    if isinstance(requested, int):
        return requested
    per_layer = tokens * width * (34 + 5 * heads * tokens / width)
    per_example = layers * per_layer * (1 if dtype in {"bfloat16", "float16"} else 2)
    affordable = hardware.free_memory * 2**30 * MEMORY_SHARE / per_example
    divisors = (size for size in range(batch_size, 0, -1) if batch_size % size == 0)
    return next((size for size in divisors if size <= affordable), 1)
