"""What is chosen for a machine, and what its phases take: facts in, choices out."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import T5Config, T5ForConditionalGeneration

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.modeling.loading import choose_quantization
from cartas_mlflow.modeling.memory import (
    GIB,
    Shape,
    activation_bytes,
    cache_bytes,
    choose_micro_batch,
    needs_checkpointing,
    weight_bytes,
)
from cartas_mlflow.modeling.plan import plan_work
from cartas_mlflow.modeling.precision import choose_precision
from cartas_mlflow.settings import GenerationSettings, ModelSettings

BASE = Shape(768, 768, 12, 3072, 2, 12, 12, 32128, tied=True)
LARGE = Shape(1024, 1024, 16, 4096, 2, 24, 24, 32128, tied=True)
SMALL = Shape(256, 256, 4, 1024, 2, 4, 4, 8192, tied=True)
TOKENS = (28, 70)
"""Longest prompt and longest reading of the bundled table, in PTT5's pieces."""


def cpu(ram: float, free: float, *, bfloat16: bool = False) -> Hardware:
    return Hardware(device="cpu", cpu="x", cores=8, ram=ram, free_memory=free, bfloat16=bfloat16)


def gpu(name: str, vram: float, *, bfloat16: bool, gpus: int = 1) -> Hardware:
    facts = {"gpu": name, "vram": vram, "cuda": "13.0", "gpus": gpus}
    return Hardware("cuda", "x", 8, 32.0, vram - 0.6, bfloat16, **facts)


CARDS = {
    "RTX 3060 12 GB": gpu("RTX 3060", 12, bfloat16=True),
    "T4": gpu("T4", 15, bfloat16=False),
    "two A100 40 GB": gpu("A100", 40, bfloat16=True, gpus=2),
    "H100 80 GB": gpu("H100", 80, bfloat16=True),
    "GTX 4 GB": gpu("GTX", 4, bfloat16=False),
    "M2 16 GB": Hardware("mps", "M2", 8, 16.0, 9.0, False, gpu="Apple"),
    "CPU without AVX-512": cpu(16, 12),
    "8 GB of RAM": cpu(8, 5, bfloat16=True),
}


@pytest.mark.parametrize(
    ("card", "base", "device", "precision", "four_bits", "micro", "evaluation", "serving", "peak"),
    [
        ("RTX 3060 12 GB", BASE, "cuda", "bfloat16", None, 8, 64, "cuda", 4.5),
        ("RTX 3060 12 GB", LARGE, "cuda", "bfloat16", None, 4, 16, "cuda", 7.5),
        ("T4", BASE, "cuda", "float32", None, 8, 64, "cuda", 4.5),
        ("T4", LARGE, "cuda", "float32", None, 4, 16, "cuda", 7.5),
        ("two A100 40 GB", BASE, "cuda", "bfloat16", None, 8, 128, "cuda", 6.3),
        ("two A100 40 GB", LARGE, "cuda", "bfloat16", None, 8, 64, "cuda", 12.1),
        ("H100 80 GB", BASE, "cuda", "bfloat16", None, 8, 128, "cuda", 6.3),
        ("H100 80 GB", LARGE, "cuda", "bfloat16", None, 8, 128, "cuda", 17.4),
        ("GTX 4 GB", BASE, "cuda", "float32", None, 2, 16, "cuda", 1.9),
        ("GTX 4 GB", LARGE, "cuda", "float32", "nf4", 1, 4, "cuda", 3.2),
        ("M2 16 GB", BASE, "mps", "float32", None, 8, 32, "mps", 4.5),
        ("M2 16 GB", LARGE, "mps", "float32", None, 2, 16, "mps", 5.2),
        ("CPU without AVX-512", BASE, "cpu", "float32", None, 4, 16, "cpu", 3.4),
        ("CPU without AVX-512", LARGE, "cpu", "float32", None, 1, 4, "cpu", 4.8),
        ("8 GB of RAM", BASE, "cpu", "bfloat16", None, 4, 16, "cpu", 3.4),
        ("8 GB of RAM", LARGE, "cpu", "bfloat16", "nf4", 1, 4, "cpu", 3.9),
    ],
)
def test_a_machine_gets_what_suits_it(
    card: str,
    base: Shape,
    device: str,
    precision: str,
    four_bits: str | None,
    micro: int,
    evaluation: int,
    serving: str,
    peak: float,
) -> None:
    """PTT5 base and large with ``recommended.yaml``; a CPU's layer is said to be 1.5 times as fast in bfloat16."""
    hardware, config = CARDS[card], load_config("configs/recommended.yaml")
    chosen = choose_precision("auto", hardware, lambda: 1.5)
    quantization, _ = choose_quantization(config.model, hardware, base, chosen.dtype)
    plan = plan_work(config, hardware, base, quantization, TOKENS)
    assert (hardware.device, chosen.dtype, quantization and quantization.kind) == (device, precision, four_bits)
    assert (plan.micro_batch, plan.evaluation_batch, plan.serving_device) == (micro, evaluation, serving)
    assert round(max(plan.peaks.values()), 1) == peak
    assert plan.too_large(hardware.free_memory) == []


def test_what_does_not_fit_unquantised_is_served_by_the_cpu() -> None:
    xl = Shape(2048, 2048, 32, 5120, 3, 24, 24, 32128, tied=False)
    hardware, config = CARDS["GTX 4 GB"], load_config("configs/default.yaml")
    quantization, _ = choose_quantization(config.model, hardware, xl, "float32")
    plan = plan_work(config, hardware, xl, quantization, TOKENS)
    assert (plan.serving_device, plan.checkpointing) == ("cpu", True)
    assert set(plan.peaks) == {"treino", "avaliação"}


# What is asked for


@pytest.mark.parametrize(
    ("asked", "hardware", "taken", "why"),
    [
        ("auto", CARDS["T4"], False, "sem ela o modelo ocupa 2.7 GB, menos de um quarto dos 14.4 GB livres"),
        ("auto", CARDS["GTX 4 GB"], True, "sem ela o modelo ocupa 2.7 GB, mais de um quarto dos 3.4 GB livres"),
        ("auto", CARDS["M2 16 GB"], False, None),
        ("true", CARDS["H100 80 GB"], True, "forçada"),
        ("true", CARDS["CPU without AVX-512"], True, "forçada"),
        ("false", CARDS["GTX 4 GB"], False, "forçada"),
    ],
)
def test_four_bits_only_where_they_are_needed(asked: str, hardware: Hardware, taken: bool, why: str | None) -> None:
    chosen, reason = choose_quantization(ModelSettings(quantization=asked), hardware, LARGE, "bfloat16")
    assert (chosen is not None) == taken
    assert why in {reason, None}
    if chosen is not None:
        assert (chosen.kind, chosen.double, chosen.compute) == ("nf4", True, "bfloat16")


def test_an_apple_gpu_has_no_four_bits_to_be_forced() -> None:
    with pytest.raises(
        SettingError, match=r"^model\.quantization=true, mas a GPU da Apple .*; use .*false ou training"
    ):
        choose_quantization(ModelSettings(quantization="true"), CARDS["M2 16 GB"], BASE, "float32")


def micro_batch(requested: Any = "auto", batch: int = 8, free: float = 8.0) -> int:
    return choose_micro_batch(requested, batch, gpu("x", free + 0.6, bfloat16=True), activation_bytes(BASE, 90))


def test_a_batch_that_fits_is_not_cut_but_a_cpu_takes_no_more_than_keeps_it_busy() -> None:
    assert micro_batch(free=64) == 8
    assert choose_micro_batch("auto", 8, cpu(512, 500), activation_bytes(BASE, 90)) == 2


@pytest.mark.parametrize("batch", [6, 7, 8, 12])
def test_the_cut_divides_the_batch_and_shrinks_with_the_memory(batch: int) -> None:
    sizes = [micro_batch(batch=batch, free=free) for free in (64, 16, 8, 4, 2, 1, 0.01)]
    assert sizes[0] == batch
    assert sizes == sorted(sizes, reverse=True)
    assert all(batch % size == 0 for size in sizes)
    assert len(set(sizes)) > 1


def test_one_example_at_a_time_however_little_memory_there_is_and_what_was_asked_for_is_taken() -> None:
    assert micro_batch(free=0) == 1
    assert micro_batch(4, free=0) == 4


@pytest.mark.parametrize(
    ("asked", "free", "taken"), [("auto", 8, False), ("auto", 1, True), ("true", 99, True), ("false", 0, False)]
)
def test_activations_are_computed_again_where_not_one_example_fits(asked: str, free: float, taken: bool) -> None:
    assert needs_checkpointing(asked, cpu(16, free), activation_bytes(BASE, 90)) == taken


# The arithmetic against what is real


@pytest.mark.parametrize("kind", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}])
def test_the_weights_are_counted_as_the_model_has_them(kind: dict[str, Any]) -> None:
    config = T5Config(
        vocab_size=999, d_model=64, d_kv=16, num_heads=3, d_ff=192, num_layers=2, num_decoder_layers=3, **kind
    )
    real = T5ForConditionalGeneration(config).num_parameters()
    assert Shape.of(config).parameters == pytest.approx(real, rel=0.01)


def test_of_ptt5_they_are_those_of_its_published_sizes() -> None:
    assert BASE.parameters == pytest.approx(222_903_552, rel=1e-3)
    assert weight_bytes(BASE, four_bits=True, compute="bfloat16") == pytest.approx(233.5e6, rel=0.05)
    assert weight_bytes(BASE, four_bits=True) == pytest.approx(396.2e6, rel=0.05)
    with_beams = GenerationSettings(num_beams=4)
    assert 128 * cache_bytes(BASE, with_beams, 28) / GIB == pytest.approx(5.6, rel=0.05)
    assert 128 * cache_bytes(LARGE, with_beams, 28) / GIB == pytest.approx(14.8, rel=0.05)


@pytest.mark.parametrize(
    ("base", "tokens", "measured"), [(BASE, 90, 612), (BASE, 450, 3679), (SMALL, 86, 47), (SMALL, 450, 407)]
)
def test_the_activations_are_near_what_real_steps_took(base: Shape, tokens: int, measured: float) -> None:
    """Peak memory in MiB per example, float32, LoRA on all matrices, when logits were still held whole: four times."""
    logits = 16 * tokens * base.vocabulary
    assert 0.95 * measured < (activation_bytes(base, tokens) + logits) / 2**20 < 1.55 * measured


def test_longer_texts_take_more_than_their_share() -> None:
    """Attention grows with the square."""
    assert activation_bytes(BASE, 900) > 2.1 * activation_bytes(BASE, 450)
    assert activation_bytes(BASE, 450, checkpointing=True) < 0.1 * activation_bytes(BASE, 450)
