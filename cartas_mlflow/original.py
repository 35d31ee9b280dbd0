"""A settings file of the original system, key by key: what it is called here, or why it has no counterpart.

The original's files have the sections ``model_config``, ``lora_config``, ``training_args`` (fields of the Trainer of
2024), ``early_stopping`` and ``monitoring``, and ``dataset_path``, ``test_size``, ``random_state`` beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SECTIONS = {"model_config", "lora_config", "training_args"}
"""A file that has one of these is the original's: no setting of this project stands under such a name."""

RENAMED = {
    "dataset_path": "data.path",
    "test_size": "data.validation_fraction",
    "random_state": "data.split_seed",
    "model_config.name": "model.name",
    "model_config.max_length": "data.max_length",
    "model_config.quantization.load_in_4bit": "model.quantization",
    "model_config.quantization.bnb_4bit_use_double_quant": "model.double_quantization",
    "model_config.quantization.bnb_4bit_quant_type": "model.quantization_type",
    "lora_config.r": "lora.r",
    "lora_config.lora_alpha": "lora.alpha",
    "lora_config.lora_dropout": "lora.dropout",
    "lora_config.bias": "lora.bias",
    "lora_config.target_modules": "lora.target_modules",
    "training_args.output_dir": "tracking.output_dir",
    "training_args.run_name": "tracking.run_name",
    "training_args.logging_steps": "tracking.log_every_steps",
    "training_args.num_train_epochs": "training.epochs",
    "training_args.learning_rate": "training.learning_rate",
    "training_args.lr_scheduler_type": "training.scheduler",
    "training_args.warmup_ratio": "training.warmup_ratio",
    "training_args.weight_decay": "training.weight_decay",
    "training_args.max_grad_norm": "training.max_grad_norm",
    "training_args.seed": "training.seed",
    "training_args.gradient_checkpointing": "training.gradient_checkpointing",
    "training_args.group_by_length": "training.group_by_length",
    "training_args.save_total_limit": "training.save_total_limit",
    "training_args.generation_max_length": "generation.max_new_tokens",
    "training_args.generation_num_beams": "generation.num_beams",
    "early_stopping.patience": "early_stopping.patience",
    "early_stopping.threshold": "early_stopping.threshold",
}
WITHOUT_COUNTERPART = {
    "model_config.quantization.bnb_4bit_compute_dtype": "o cálculo segue training.precision; float16 estoura no T5",
    "lora_config.task_type": "é sempre SEQ_2_SEQ_LM",
    "training_args.fp16": "float16 estoura no T5: training.precision=auto escolhe",
    "training_args.per_device_eval_batch_size": "evaluation.batch_size cuida disso",
    "training_args.greater_is_better": "vem da métrica",
    "training_args.load_best_model_at_end": "é sempre assim",
    "training_args.predict_with_generate": "é sempre assim",
    "training_args.evaluation_strategy": "avalia-se por época (evaluation.every_epochs)",
    "training_args.eval_strategy": "avalia-se por época (evaluation.every_epochs)",
    "training_args.save_strategy": "salva-se por época",
    "training_args.report_to": "é sempre o MLflow",
    "monitoring": "o MLflow acompanha a máquina (tracking.system_metrics)",
}
"""Key, or section, of the original -> why it is not needed."""
OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "adafactor"}
GATED = ("wi_0", "wi_1")
"""Modules of T5 v1.1, which the original named and PTT5 (v1.0) does not have: they were lost without a word."""


@dataclass(frozen=True)
class Translation:
    """``settings``: dotted name -> value; ``dropped``: key of the original -> clause on why it has no counterpart."""

    settings: Mapping[str, Any]
    dropped: Mapping[str, str]


def is_original(tree: Mapping[str, Any]) -> bool:
    """Whether a file's content is the original system's."""
    return not SECTIONS.isdisjoint(tree)


def translate(flat: Mapping[str, Any]) -> Translation:
    """The original's settings under this project's names.

    Args:
        flat: dotted key of the original -> value.
    """
    settings: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for key, value in flat.items():
        if key in RENAMED:
            settings[RENAMED[key]] = value
        elif key not in COMBINED:
            section = key.split(".", 1)[0]
            dropped[key] = WITHOUT_COUNTERPART.get(key) or WITHOUT_COUNTERPART.get(section) or "não tem equivalente"
    for combine in (_batch, _precision, _optimizer, _best_metric, _modules):
        combine(flat, settings, dropped)
    return Translation(settings, dropped)


COMBINED = {
    "training_args.per_device_train_batch_size",
    "training_args.gradient_accumulation_steps",
    "training_args.bf16",
    "training_args.optim",
    "training_args.metric_for_best_model",
}
"""Keys whose translation hangs on their value, or on one another."""


def _batch(flat: Mapping[str, Any], settings: dict[str, Any], dropped: dict[str, str]) -> None:
    # The loss is exact however a batch is cut: only the product counts, and the machine decides on the cut.
    sizes = [flat.get(f"training_args.{key}") for key in ("per_device_train_batch_size", "gradient_accumulation_steps")]
    if any(size is not None for size in sizes):
        first, second = (1 if size is None else size for size in sizes)
        whole = isinstance(first, int) and isinstance(second, int)
        settings["training.batch_size"] = first * second if whole else f"{first} × {second}"


def _precision(flat: Mapping[str, Any], settings: dict[str, Any], dropped: dict[str, str]) -> None:
    if flat.get("training_args.bf16") is True:
        settings["training.precision"] = "bfloat16"


def _optimizer(flat: Mapping[str, Any], settings: dict[str, Any], dropped: dict[str, str]) -> None:
    name = flat.get("training_args.optim")
    if name in OPTIMIZERS:
        settings["training.optimizer"] = name
    elif name is not None:
        dropped["training_args.optim"] = f"{name} não há; vale training.optimizer"


def _best_metric(flat: Mapping[str, Any], settings: dict[str, Any], dropped: dict[str, str]) -> None:
    name = flat.get("training_args.metric_for_best_model")
    if name is not None:
        settings["early_stopping.metric"] = str(name).removeprefix("eval_")


def _modules(flat: Mapping[str, Any], settings: dict[str, Any], dropped: dict[str, str]) -> None:
    names = settings.get("lora.target_modules")
    if isinstance(names, list) and "ptt5-v2" not in str(settings.get("model.name", "")):
        absent = [name for name in names if name in GATED]
        settings["lora.target_modules"] = [name for name in names if name not in GATED]
        if absent:
            dropped["lora_config.target_modules"] = f"{' e '.join(absent)} não existem no PTT5 (são do T5 v1.1)"
