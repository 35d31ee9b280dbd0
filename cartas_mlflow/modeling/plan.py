"""How the work is cut so that it fits, and what each phase will take: pure functions of the machine's facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cartas_mlflow.modeling.engine import COPIES, choose_engine
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.modeling.loading import Quantization
from cartas_mlflow.modeling.memory import (
    GIB,
    LIBRARIES,
    Shape,
    activation_bytes,
    cache_bytes,
    choose_evaluation_batch,
    choose_micro_batch,
    logits_bytes,
    needs_checkpointing,
    weight_bytes,
)
from cartas_mlflow.settings import ExperimentConfig


@dataclass(frozen=True)
class WorkPlan:
    """How a training is cut.

    ``micro_batch``: examples per forward pass; ``evaluation_batch``: texts generated at once, by ``evaluation_engine``;
    ``checkpointing``: activations are computed again instead of kept; ``peaks``: Portuguese name of a phase -> GiB that
    it will take of the device, on a CPU with the libraries; ``serving_device``: where the base fits unquantised.
    """

    micro_batch: int
    evaluation_batch: int
    evaluation_engine: str
    checkpointing: bool
    peaks: Mapping[str, float]
    serving_device: str

    def too_large(self, free: float) -> list[str]:
        """The phases that will take more than there is (GiB)."""
        return [phase for phase, peak in self.peaks.items() if peak > free]


def plan_work(
    config: ExperimentConfig,
    hardware: Hardware,
    shape: Shape,
    quantization: Quantization | None,
    tokens: tuple[int, int],
    processes: int = 1,
) -> WorkPlan:
    """Cut the batches and foresee the memory of each phase.

    Args:
        tokens: of the longest prompt and of the longest reading.
        processes: that train together; on a CPU they share its memory.
    """
    training, generation, number = config.training, config.generation, processes
    if hardware.device == "cpu":
        hardware = replace(hardware, free_memory=hardware.free_memory / number)
    example = activation_bytes(shape, max(tokens))
    checkpointing = needs_checkpointing(training.gradient_checkpointing, hardware, example)
    if checkpointing:
        example = activation_bytes(shape, max(tokens), checkpointing=True)
    text = cache_bytes(shape, generation, tokens[0])
    micro = choose_micro_batch(training.micro_batch_size, training.batch_size // number, hardware, example)
    at_once = choose_evaluation_batch(config.evaluation.batch_size, hardware, text)

    held = weight_bytes(shape, four_bits=quantization is not None, compute=quantization.compute if quantization else "")
    whole, outside = weight_bytes(shape), LIBRARIES if hardware.device == "cpu" else 0.0
    fits = hardware.device == "cpu" or whole + text < hardware.free_memory * GIB
    engine = choose_engine(config, device=hardware.device, plain=quantization is None, size=whole, processes=number)
    copies = 0.0 if engine == "pytorch" else COPIES * whole
    peaks = {"treino": held + micro * example + logits_bytes(shape), "avaliação": held + copies + at_once * text}
    if fits:
        peaks |= {"avaliação final": whole + copies + at_once * text, "servir": whole + at_once * text}
    return WorkPlan(
        micro,
        at_once,
        engine,
        checkpointing,
        {phase: (outside + peak) / GIB for phase, peak in peaks.items()},
        hardware.device if fits else "cpu",
    )
