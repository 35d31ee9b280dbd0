"""The number format, the cut of a batch and the facts they are chosen from."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import Hardware, inspect_hardware, is_lack_of_memory, measure_bfloat16_gain
from cartas_mlflow.modeling.loading import choose_quantization
from cartas_mlflow.modeling.precision import activation_bytes, choose_micro_batch, choose_precision
from cartas_mlflow.settings import ModelSettings

PTT5_BASE = {"layers": 24, "width": 768, "heads": 12, "vocabulary": 32128}
MINI = {"layers": 8, "width": 256, "heads": 4, "vocabulary": 8192}


def machine(device: str = "cpu", *, bfloat16: bool = False, free: float = 8.0) -> Hardware:
    gpu = {"gpu": "NVIDIA T4", "vram": 16.0, "cuda": "13.0"} if device == "cuda" else {}
    return Hardware(device=device, cpu="Intel Xeon", cores=2, ram=16.0, free_memory=free, bfloat16=bfloat16, **gpu)


def micro_batch(requested: Any = "auto", batch: int = 8, free: float = 8.0, tokens: int = 90) -> int:
    return choose_micro_batch(requested, batch, machine(free=free), activation_bytes(**PTT5_BASE, tokens=tokens))


# The number format


def never_asked() -> float:
    raise AssertionError("nothing hangs on this measurement")


def test_bfloat16_where_a_gpu_computes_it_else_float32() -> None:
    with_it = choose_precision("auto", machine("cuda", bfloat16=True), never_asked)
    assert (with_it.dtype, with_it.reason) == ("bfloat16", "o hardware calcula bfloat16 nativamente")
    assert with_it.warning is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float32_where_there_is_no_bfloat16(device: str) -> None:
    without = choose_precision("auto", machine(device), never_asked)
    assert (without.dtype, without.reason) == ("float32", "o hardware não tem bfloat16 nativo")
    assert without.warning is None


@pytest.mark.parametrize(
    ("gain", "dtype", "shown"), [(0.53, "float32", "0,5"), (1.2, "float32", "1,2"), (1.6, "bfloat16", "1,6")]
)
def test_a_cpu_with_bfloat16_takes_it_only_where_it_is_clearly_faster(gain: float, dtype: str, shown: str) -> None:
    """Some with the instructions compute it at half the speed of float32."""
    chosen = choose_precision("auto", machine(bfloat16=True), lambda: gain)
    measured = f"medido agora: nesta CPU, bfloat16 tem {shown} vez a velocidade de float32"
    assert (chosen.dtype, chosen.reason, chosen.warning) == (dtype, measured, None)


def test_the_gain_of_bfloat16_is_measured_in_a_moment() -> None:
    started = time.process_time()
    assert 0.01 < measure_bfloat16_gain() < 100
    assert time.process_time() - started < 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_format_can_be_forced(dtype: str) -> None:
    chosen = choose_precision(dtype, machine(bfloat16=True))
    assert (chosen.dtype, chosen.reason, chosen.warning) == (dtype, "forçado", None)


def test_bfloat16_forced_on_hardware_that_emulates_it_is_warned_of() -> None:
    assert choose_precision("bfloat16", machine("cuda")).warning == "Este hardware emula bfloat16: será mais lento."


def test_float16_is_only_forced_and_always_warned_of() -> None:
    assert choose_precision("auto", machine("cuda")).dtype != "float16"
    forced = choose_precision("float16", machine("cuda", bfloat16=True))
    assert forced.dtype == "float16"
    assert forced.warning.startswith("float16 com T5 estoura o alcance do formato e costuma dar NaN")


def test_float16_on_a_cpu_is_said_to_be_float32() -> None:
    """The library accepts it there and silently does nothing."""
    chosen = choose_precision("float16", machine())
    assert chosen.dtype == "float32"
    assert chosen.warning == "float16 não tem efeito no treino em CPU: o cálculo será em float32."


@pytest.mark.parametrize(
    ("device", "bfloat16", "compute"),
    [("cuda", True, "bfloat16"), ("cuda", False, "float32"), ("cpu", True, "bfloat16"), ("cpu", False, "float32")],
)
def test_4_bit_products_are_computed_in_the_training_s_format(device: str, bfloat16: bool, compute: str) -> None:
    precision = choose_precision("auto", machine(device, bfloat16=bfloat16), lambda: 2.0)
    chosen = choose_quantization(ModelSettings(quantization="true"), device, precision.dtype)
    assert (chosen.kind, chosen.double, chosen.compute) == ("nf4", True, compute)


# How a batch is cut


def test_a_batch_that_fits_is_not_cut() -> None:
    assert micro_batch(free=64) == 8


@pytest.mark.parametrize("batch", [6, 7, 8, 12])
def test_the_cut_divides_the_batch_and_shrinks_with_the_memory(batch: int) -> None:
    sizes = [micro_batch(batch=batch, free=free) for free in (64, 16, 8, 4, 2, 1, 0.01)]
    assert sizes[0] == batch
    assert sizes == sorted(sizes, reverse=True)
    assert all(batch % size == 0 for size in sizes)
    assert len(set(sizes)) > 1


def test_one_example_at_a_time_however_little_memory_there_is() -> None:
    assert micro_batch(free=0) == 1


@pytest.mark.parametrize(
    ("model", "tokens", "measured"),
    [(PTT5_BASE, 90, 612), (PTT5_BASE, 450, 3679), (MINI, 86, 47), (MINI, 450, 407)],
)
def test_the_estimate_is_near_what_real_steps_took(model: dict[str, int], tokens: int, measured: float) -> None:
    """Peak memory in MiB per example, float32, LoRA on all matrices."""
    assert 0.95 * measured < activation_bytes(**model, tokens=tokens) / 2**20 < 1.55 * measured


def test_longer_texts_take_more_than_their_share() -> None:
    """Attention grows with the square."""
    assert activation_bytes(**PTT5_BASE, tokens=900) > 2.1 * activation_bytes(**PTT5_BASE, tokens=450)


def test_a_cut_that_was_asked_for_is_taken() -> None:
    assert micro_batch(4, free=0) == 4


# The facts


def test_this_machine_tells_its_facts() -> None:
    facts = inspect_hardware("cpu")
    assert facts.device == "cpu"
    assert facts.cores >= 1
    assert 0 < facts.free_memory <= facts.ram
    assert facts.gpu is facts.vram is facts.cuda is None


@pytest.mark.parametrize("capability", ["amx_bf16", "avx512_bf16", "bf16", "sve_bf16"])
def test_a_cpu_that_names_a_bfloat16_capability_has_it(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for available in (True, False):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda available=available: {"avx2": True, capability: available}
        )
        assert inspect_hardware("cpu").bfloat16 is available


def test_a_gpu_is_taken_where_there_is_one_and_old_ones_have_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, capability=(7, 5))
    facts = inspect_hardware()
    assert (facts.device, facts.gpu, facts.free_memory, facts.vram) == ("cuda", "NVIDIA T4", 14.0, 15.0)
    assert not facts.bfloat16
    pretend_gpu(monkeypatch, capability=(8, 0))
    assert inspect_hardware().bfloat16
    assert inspect_hardware("cpu").device == "cpu"


def test_asking_for_cuda_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"training\.device=cuda, mas .* não tem GPU .*; use training\.device=auto"):
        inspect_hardware("cuda")
    assert inspect_hardware("auto").device == "cpu"


def test_the_facts_that_are_logged_are_of_the_machine_not_of_the_moment() -> None:
    assert machine(bfloat16=True).flat() == {
        "device": "cpu",
        "cpu": "Intel Xeon",
        "cores": 2,
        "ram_gb": 16.0,
        "bfloat16": True,
    }
    assert machine("cuda", free=3).flat() == machine("cuda", free=9).flat()
    assert machine("cuda").flat()["vram_gb"] == 16.0


def test_lack_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_lack_of_memory(caught.value)
    assert is_lack_of_memory(MemoryError())
    assert not is_lack_of_memory(RuntimeError("shape '[2]' is invalid"))


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """There is none here: PyTorch's own answers, as a machine with one gives them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (14 * 2**30, 15 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA T4")
