"""The number format, and the facts it is chosen from."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from transformers import T5Config

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import Hardware, computes_as_cpu, inspect_hardware, is_lack_of_memory
from cartas_mlflow.modeling.precision import choose_precision, exact_products, fast_products, measure_bfloat16_gain


def machine(device: str = "cpu", *, bfloat16: bool = False, free: float = 8.0) -> Hardware:
    gpu = {"gpu": "NVIDIA T4", "vram": 16.0, "cuda": "13.0"} if device == "cuda" else {}
    return Hardware(device=device, cpu="Intel Xeon", cores=2, ram=16.0, free_memory=free, bfloat16=bfloat16, **gpu)


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
    ("gain", "dtype", "shown"), [(0.53, "float32", "0.5"), (1.08, "float32", "1.1"), (1.6, "bfloat16", "1.6")]
)
def test_a_cpu_with_bfloat16_takes_it_only_where_it_is_clearly_faster(gain: float, dtype: str, shown: str) -> None:
    """Some with the instructions compute it at half the speed of float32."""
    chosen = choose_precision("auto", machine(bfloat16=True), lambda: gain)
    measured = f"medido agora: nesta CPU, bfloat16 tem {shown} vezes a velocidade de float32"
    assert (chosen.dtype, chosen.reason, chosen.warning) == (dtype, measured, None)


@pytest.mark.parametrize("kind", [{}, {"feed_forward_proj": "gated-gelu"}, {"num_heads": 3, "d_kv": 16}])
def test_the_gain_of_bfloat16_is_measured_on_a_layer_of_the_base_s_shape_in_a_moment(kind: dict[str, Any]) -> None:
    started = time.process_time()
    threads = torch.get_num_threads()
    assert 0.01 < measure_bfloat16_gain(T5Config(**{"d_model": 64, "d_ff": 128, "num_layers": 12, **kind})) < 100
    assert time.process_time() - started < 10
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_format_can_be_forced(dtype: str) -> None:
    chosen = choose_precision(dtype, machine(bfloat16=True), never_asked)
    assert (chosen.dtype, chosen.reason, chosen.warning) == (dtype, "forçada", None)


def test_bfloat16_forced_on_hardware_that_emulates_it_is_warned_of() -> None:
    assert (
        choose_precision("bfloat16", machine("cuda"), never_asked).warning
        == "Este hardware emula bfloat16: será mais lento."
    )


def test_float16_is_only_forced_and_always_warned_of() -> None:
    assert choose_precision("auto", machine("cuda"), never_asked).dtype != "float16"
    forced = choose_precision("float16", machine("cuda", bfloat16=True), never_asked)
    assert forced.dtype == "float16"
    assert forced.warning.startswith("float16 com T5 estoura o alcance do formato e costuma dar NaN")


def test_float16_on_a_cpu_is_said_to_be_float32() -> None:
    """The library accepts it there and silently does nothing."""
    chosen = choose_precision("float16", machine(), never_asked)
    assert chosen.dtype == "float32"
    assert chosen.warning == "float16 não tem efeito no treino em CPU: o cálculo será em float32."


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


def test_apple_s_gpu_is_taken_only_where_it_computes_as_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("cartas_mlflow.modeling.hardware.computes_as_cpu", lambda device: True)
    assert (inspect_hardware().device, inspect_hardware("cpu").device) == ("mps", "cpu")
    monkeypatch.setattr("cartas_mlflow.modeling.hardware.computes_as_cpu", lambda device: False)
    facts = inspect_hardware()
    assert (facts.device, facts.remark) == ("cpu", "a GPU da Apple (mps) não calcula um passo de T5 como a CPU")
    with pytest.raises(
        SettingError, match=r"^training\.device=mps, mas a GPU da Apple .*; use training\.device=auto\.$"
    ):
        inspect_hardware("mps")


def test_a_device_is_held_against_the_cpu_by_the_gradients_of_a_step() -> None:
    """The CPU agrees with itself; that no difference is too small to be seen is why the threshold is not zero."""
    state = torch.random.get_rng_state()
    assert computes_as_cpu("cpu")
    assert not computes_as_cpu("cpu", agreement=-1.0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_products_on_a_gpu_are_fast_in_training_and_exact_in_generation() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with fast_products():
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        with exact_products():
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


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
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
