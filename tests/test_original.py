"""The old command and a settings file of the original system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartas_mlflow.cli import main
from cartas_mlflow.config import PROJECT_ROOT, find_translation, load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.original import translate

FILE: dict[str, Any] = {
    "dataset_path": "minhas.xlsx",
    "test_size": 0.2,
    "random_state": 7,
    "model_config": {
        "name": "unicamp-dl/ptt5-base-portuguese-vocab",
        "max_length": 550,
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "float16",
        },
    },
    "lora_config": {
        "r": 32,
        "lora_alpha": 64,
        "target_modules": ["q", "v", "k", "o", "wi_0", "wi_1", "wo"],
        "lora_dropout": 0.05,
        "bias": "none",
        "task_type": "SEQ_2_SEQ_LM",
    },
    "training_args": {
        "output_dir": "./results",
        "num_train_epochs": 15,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 6,
        "per_device_eval_batch_size": 1,
        "learning_rate": "5e-5",
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.005,
        "fp16": True,
        "optim": "paged_adamw_8bit",
        "evaluation_strategy": "epoch",
        "metric_for_best_model": "eval_rougeL",
        "greater_is_better": True,
        "save_total_limit": 3,
        "dataloader_num_workers": 2,
    },
    "early_stopping": {"patience": 5, "threshold": 0.005},
    "monitoring": {"log_gpu_memory": True},
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(FILE), encoding="utf-8")
    return str(path)


def test_every_key_is_translated_or_told_why_not(file: str) -> None:
    translation = find_translation(file)
    assert translation.settings == {
        "data.path": "minhas.xlsx",
        "data.validation_fraction": 0.2,
        "data.split_seed": 7,
        "model.name": "unicamp-dl/ptt5-base-portuguese-vocab",
        "data.max_length": 550,
        "model.quantization": True,
        "model.double_quantization": True,
        "model.quantization_type": "nf4",
        "lora.r": 32,
        "lora.alpha": 64,
        "lora.target_modules": ["q", "v", "k", "o", "wo"],
        "lora.dropout": 0.05,
        "lora.bias": "none",
        "tracking.output_dir": "./results",
        "training.epochs": 15,
        "training.batch_size": 6,
        "training.learning_rate": "5e-5",
        "training.scheduler": "cosine",
        "training.warmup_ratio": 0.1,
        "training.weight_decay": 0.005,
        "training.save_total_limit": 3,
        "early_stopping.metric": "rougeL",
        "early_stopping.patience": 5,
        "early_stopping.threshold": 0.005,
    }
    assert set(translation.dropped) == {
        "model_config.quantization.bnb_4bit_compute_dtype",
        "lora_config.task_type",
        "lora_config.target_modules",
        "training_args.per_device_eval_batch_size",
        "training_args.fp16",
        "training_args.optim",
        "training_args.evaluation_strategy",
        "training_args.greater_is_better",
        "training_args.dataloader_num_workers",
        "monitoring.log_gpu_memory",
    }
    assert translation.dropped["training_args.dataloader_num_workers"] == "não tem equivalente"
    assert translation.dropped["lora_config.target_modules"].startswith("wi_0 e wi_1 não existem no PTT5")


def test_it_is_a_configuration_like_any_other_and_what_is_typed_wins(file: str) -> None:
    config = load_config(file, {"training.learning_rate": "1e-3"})
    assert (config.training.batch_size, config.training.epochs, config.lora.alpha) == (6, 15, 64)
    assert config.training.learning_rate == 1e-3
    assert config.model.quantization == "true"
    assert find_translation("configs/default.yaml") is None


@pytest.mark.parametrize(
    ("flat", "settings"),
    [
        ({"training_args.per_device_train_batch_size": 4}, {"training.batch_size": 4}),
        ({"training_args.gradient_accumulation_steps": 8}, {"training.batch_size": 8}),
        ({"training_args.bf16": True}, {"training.precision": "bfloat16"}),
        ({"training_args.bf16": False}, {}),
        ({"training_args.optim": "adafactor"}, {"training.optimizer": "adafactor"}),
        (
            {"model_config.name": "unicamp-dl/ptt5-v2-base", "lora_config.target_modules": ["q", "wi_0"]},
            {"model.name": "unicamp-dl/ptt5-v2-base", "lora.target_modules": ["q", "wi_0"]},
        ),
    ],
)
def test_what_hangs_on_the_value(flat: dict[str, Any], settings: dict[str, Any]) -> None:
    assert translate(flat).settings == settings


def test_a_wrong_value_names_the_setting_and_the_file(file: str, tmp_path: Path) -> None:
    content = {**FILE, "training_args": {**FILE["training_args"], "num_train_epochs": "muitas"}}
    Path(file).write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SettingError, match=r"training\.epochs=muitas \(.*config\.yaml\) não serve: deve ser um número"):
        load_config(file)


def test_training_tells_what_became_of_each_key(file: str, tmp_path: Path, said: list[str]) -> None:
    code = main(["train", "--config", file, "--tracking.output_dir", str(tmp_path / "r"), "--model.fallback", "none",
                 "--model.name", "data/nenhum"])  # fmt: skip
    assert code == 2
    assert f"{file} é do sistema original: 24 configurações traduzidas" in said
    assert "  training.batch_size=6" in said
    assert "  sem equivalente: training_args.fp16 (float16 estoura no T5: training.precision=auto escolhe)" in said


def test_the_old_command_is_the_door_to_train() -> None:
    command = [sys.executable, str(PROJECT_ROOT / "train_model.py"), "--lr", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith(
        "❌ A configuração lr (linha de comando) não existe; você quis dizer training.learning_rate"
    )
