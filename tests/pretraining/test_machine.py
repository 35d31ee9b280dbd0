"""What a pre-training computes on: chosen by the machine's answers, kept by the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.pretrain_settings import PretrainSettings, PretrainShape
from cartas_mlflow.pretraining.machine import Machine, choose_machine, time_cpu_step
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.training import Pretraining, read_machine

SHAPE = PretrainShape(d_model=64, d_ff=64, heads=1, encoder_layers=1, decoder_layers=1)
CPU = Hardware(device="cpu", cpu="some", cores=2, ram=16.0, free_memory=12.0, bfloat16=True)
H100 = replace(CPU, device="cuda", gpu="H100", vram=79.0, cuda="12.8")
T4 = replace(CPU, device="cuda", gpu="T4", vram=14.6, cuda="12.8", bfloat16=False)
OLD = replace(T4, gpu="GTX 1060", vram=5.9)
BF16_WINS = {"float32": 2.0, "bfloat16": 1.0}
FLOAT_WINS = {"float32": 1.0, "bfloat16": 2.0}


@pytest.mark.parametrize(
    ("settings", "hardware", "seconds", "machine"),
    [
        ({}, CPU, BF16_WINS, Machine("cpu", "bfloat16", 32)),
        ({}, CPU, FLOAT_WINS, Machine("cpu", "float32", 32)),
        ({}, replace(CPU, bfloat16=False), BF16_WINS, Machine("cpu", "bfloat16", 32)),
        ({"precision": "bfloat16"}, CPU, FLOAT_WINS, Machine("cpu", "bfloat16", 32)),
        ({"rows": 8}, CPU, FLOAT_WINS, Machine("cpu", "float32", 8)),
        ({}, H100, FLOAT_WINS, Machine("cuda", "bfloat16", 256)),
        ({"precision": "float32", "rows": 32}, H100, BF16_WINS, Machine("cuda", "float32", 32)),
        ({}, T4, BF16_WINS, Machine("cuda", "float32", 128)),
        ({}, OLD, BF16_WINS, Machine("cuda", "float32", 64)),
        ({"device": "cpu"}, CPU, BF16_WINS, Machine("cpu", "bfloat16", 32)),
        ({"device": "cuda"}, H100, FLOAT_WINS, Machine("cuda", "bfloat16", 256)),
    ],
)
def test_the_machine_decides_what_the_settings_leave_to_it(
    settings: dict, hardware: Hardware, seconds: dict[str, float], machine: Machine
) -> None:
    assert choose_machine(PretrainSettings(**settings), hardware, seconds.__getitem__) == machine


def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(SettingError, match=r"^pretrain\.device=cuda, mas este computador não tem GPU CUDA"):
        choose_machine(PretrainSettings(device="cuda"), CPU, FLOAT_WINS.__getitem__)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_real_step_is_timed(precision: str) -> None:
    assert 0 < time_cpu_step(PretrainSettings(shape=SHAPE), 256, precision) < 60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_checkpoint_keeps_what_it_was_computed_with(precision: str, tmp_path: Path) -> None:
    machine = Machine("cpu", precision, 8)
    training = Pretraining(build_model(SHAPE, 256, seed=0), PretrainSettings(shape=SHAPE), machine)
    training.save(tmp_path / "checkpoint.pt")
    assert read_machine(tmp_path / "checkpoint.pt", "cpu") == machine
