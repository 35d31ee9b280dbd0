"""A training on a handful of readings, without the pipeline around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.data.encoding import encode_texts
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.loading import Quantization, load_base, load_tokenizer
from cartas_mlflow.modeling.lora import attach_adapter
from cartas_mlflow.modeling.trainer import EvaluateEvery, ReadingTrainer, early_stopping, training_arguments
from cartas_mlflow.modeling.validation import ValidationSet
from cartas_mlflow.settings import ExperimentConfig

QUICK = {
    "lora.r": 4,
    "lora.alpha": 16,
    "lora.target_modules": "all-linear",
    "training.epochs": 1,
    "training.learning_rate": 5e-3,
    "training.device": "cpu",
    "tracking.log_every_steps": 1,
    "generation.max_new_tokens": 4,
}


def settings(**overrides: Any) -> ExperimentConfig:
    """Settings of a short training; ``training__epochs=2`` stands for ``training.epochs=2``."""
    return load_config(DEFAULT_CONFIG, QUICK | {key.replace("__", "."): value for key, value in overrides.items()})


def reading_trainer(
    base: Path,
    rows: Sequence[dict[str, str]],
    config: ExperimentConfig,
    folder: Path,
    *,
    validation_rows: int = 6,
    dropout: bool = True,
    precision: str = "float32",
    quantization: Quantization | None = None,
    loaded: PreTrainedModel | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    stopping: bool = False,
    prepare: Callable[[PreTrainedModel], None] = lambda model: None,
) -> ReadingTrainer:
    """A trainer over a base, the last rows for validation.

    Args:
        loaded: the base in memory, where it is not to be loaded anew.
        prepare: may change the base before the adapter is on.
    """
    location = BaseLocation("base", base, "folder")
    tokenizer, model = load_tokenizer(base), loaded or load_base(location, "cpu", quantization)
    prepare(model)
    model = attach_adapter(model, config.lora, config.training.seed)
    if not dropout:
        switch_off_dropout(model)
    prompts = ["{carta} | {evento} | {secao} | {tema}".format(**row) for row in rows]
    texts = [row["texto"] for row in rows]
    cut = len(rows) - validation_rows
    encoded = [
        encode_texts(tokenizer, prompts[part], texts[part], 64).dataset for part in (slice(cut), slice(cut, None))
    ]
    micro = config.training.micro_batch_size
    micro = config.training.batch_size if micro == "auto" else micro
    arguments = training_arguments(
        config,
        folder,
        device="cpu",
        precision=precision,
        micro_batch_size=micro,
        checkpointing=config.training.gradient_checkpointing == "true",
        steps_per_epoch=-(-cut // config.training.batch_size),
    )
    torch.manual_seed(config.training.seed)
    return ReadingTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded[0],
        config=config,
        validation=ValidationSet(prompts[cut:], encoded[1], texts[cut:]),
        evaluation_batch=8,
        score=lambda texts: {"rougeL": 0.0},
        tokenizer=tokenizer,
        callbacks=[
            EvaluateEvery(config.evaluation.every_epochs),
            *(early_stopping(config) if stopping else ()),
            *callbacks,
        ],
    )


def switch_off_dropout(model: nn.Module) -> None:
    """Both kinds: the modules, and the plain numbers that T5's attention keeps."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0


def shake(model: nn.Module, spread: float = 0.3) -> None:
    """Give a fresh adapter weights that make a difference, always the same."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.copy_(torch.randn(weights.shape, generator=generator) * spread)


def adapter_weights(trainer: ReadingTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_" in name}


def series(trainer: ReadingTrainer, name: str) -> list[float]:
    """A metric's values, step by step or evaluation by evaluation."""
    return [row[name] for row in trainer.state.log_history if name in row]
