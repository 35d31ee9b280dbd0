"""What a pre-training computes on: device, number format and rows of a step, chosen by what the machine answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.pretrain_settings import PretrainSettings
from cartas_mlflow.pretraining.loss import Kernels, compute_loss
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.objective import PackShape, make_batches

CPU_ROWS = 32
GPU_ROWS = ((40, 256), (14, 128), (0, 64))
"""GiB of GPU memory from which -> rows of a step."""
PROBE_ROUNDS = 2


@dataclass(frozen=True)
class Machine:
    """Where and how a step is computed. ``precision`` and ``rows`` make the result, so a checkpoint keeps them."""

    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    precision: str = "float32"
    """``float32`` or ``bfloat16`` (products only: the weights stay float32)."""
    rows: int = CPU_ROWS
    """Rows of 256 tokens a step."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32


PLAIN_CPU = Machine()


def choose_machine(settings: PretrainSettings, hardware: Hardware, time_step: Callable[[str], float]) -> Machine:
    """Choose what the settings leave to the machine (``auto``).

    A GPU computes in bfloat16 where it has it, in more rows the more memory it has. Of a CPU nothing that it says of
    itself tells which format is faster: a step is timed in both.

    Args:
        hardware: facts of the machine (``inspect_hardware``).
        time_step: seconds of a step in ``float32`` or ``bfloat16`` on this CPU.

    Raises:
        SettingError: a GPU was asked for and there is none.
    """
    if settings.device == "cuda" and hardware.device != "cuda":
        raise SettingError(
            "pretrain.device=cuda, mas este computador não tem GPU CUDA utilizável pelo PyTorch; use "
            "pretrain.device=auto."
        )
    device = "cpu" if settings.device == "cpu" else hardware.device
    if device == "cuda":
        rows = next(rows for memory, rows in GPU_ROWS if (hardware.vram or 0) >= memory)
        precision = "bfloat16" if hardware.bfloat16 else "float32"
    else:
        rows = CPU_ROWS
        precision = "float32"
        if settings.precision == "auto" and time_step("bfloat16") < time_step("float32"):
            precision = "bfloat16"
    return Machine(
        device,
        precision if settings.precision == "auto" else settings.precision,
        rows if settings.rows == "auto" else settings.rows,
    )


def time_cpu_step(settings: PretrainSettings, vocabulary_rows: int, precision: str) -> float:
    """Seconds that the CPU takes for loss and gradient of a few rows, the best of two rounds after one to warm up."""
    model = build_model(settings.shape, vocabulary_rows, settings.seed)
    kernels = Kernels(dtype=Machine(precision=precision).dtype)
    rng = np.random.default_rng(0)
    shape = PackShape(rows=4)
    sizes = (shape.input_length, shape.target_length)
    pairs = [tuple(rng.integers(3, vocabulary_rows, size) for size in sizes) for _ in range(shape.rows)]
    (batch,) = make_batches(pairs, shape, None)
    best = math.inf
    for round_number in range(1 + PROBE_ROUNDS):
        started = time.perf_counter()
        compute_loss(model, batch, kernels).backward()
        if round_number:
            best = min(best, time.perf_counter() - started)
    return best
