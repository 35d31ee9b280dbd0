"""The other engine writes the same texts, or leaves them to the model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from trainings import CARDS, Trainings
from transformers import AutoTokenizer

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling import engine
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.engine import FastEngine, check_engine, evaluation_engine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.loading import load_base
from cartas_mlflow.modeling.lora import attach_adapter
from cartas_mlflow.registry.model import ReadingGenerator, open_folder
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, GenerationSettings

VARIED = {"max_new_tokens": 32, "min_new_tokens": 24, "no_repeat_ngram_size": 3}


@pytest.fixture(scope="module")
def usual(finished_trainings: Trainings) -> ReadingGenerator:
    return with_free_decoding(open_folder(finished_trainings.adapters["good"]))


@pytest.fixture(scope="module")
def fast(finished_trainings: Trainings) -> ReadingGenerator:
    return with_free_decoding(open_folder(finished_trainings.adapters["good"], "ctranslate2"))


@pytest.fixture
def prompts(bundled_rows: list[dict[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(bundled_rows[: 21 * CARDS])[list(RECORD_FIELDS)]


def with_free_decoding(generator: ReadingGenerator) -> ReadingGenerator:
    generator.defaults = GenerationSettings(max_new_tokens=32)
    return generator


@pytest.fixture
def asked(fast: ReadingGenerator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the engine was given."""
    sizes = []
    generate = fast.engine.generate

    def watched(inputs: list[list[int]], *others: Any) -> list[list[int]]:
        sizes.append(len(inputs))
        return generate(inputs, *others)

    monkeypatch.setattr(fast.engine, "generate", watched)
    return sizes


@pytest.mark.parametrize(
    "decoding",
    [
        {},
        {"max_new_tokens": 7},
        {"min_new_tokens": 20},
        {"no_repeat_ngram_size": 3},
        VARIED,
        {"repetition_penalty": 1.4},
        {"num_beams": 4},
        {"num_beams": 3, "length_penalty": 0.3, "max_new_tokens": 12},
        {"num_beams": 4, "length_penalty": 2.0, **VARIED},
    ],
    ids=str,
)
def test_it_writes_the_same_texts(
    usual: ReadingGenerator,
    fast: ReadingGenerator,
    prompts: pd.DataFrame,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    decoding: dict[str, Any],
) -> None:
    for generator in (usual, fast):
        monkeypatch.setattr(generator, "defaults", GenerationSettings(**{"max_new_tokens": 32, **decoding}))
    texts = fast.write(prompts)
    assert sum(asked) == len(prompts)
    assert texts == usual.write(prompts)
    assert all(texts)


def test_the_compared_texts_differ_from_each_other(
    fast: ReadingGenerator, prompts: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "defaults", GenerationSettings(**VARIED))
    assert len(set(fast.write(prompts))) > 10


def test_several_readings_per_prompt_come_in_the_same_order(
    usual: ReadingGenerator, fast: ReadingGenerator, prompts: pd.DataFrame, asked: list[int]
) -> None:
    several = {"num_beams": 4, "num_return_sequences": 3}
    texts = fast.write(prompts[:9], several)
    assert asked
    assert texts == usual.write(prompts[:9], several)
    assert len(texts) == 27


@pytest.mark.parametrize(
    "decoding", [{"do_sample": True, "seed": 3}, {"num_beams": 4, "repetition_penalty": 1.2}], ids=["sampling", "beams"]
)
def test_what_it_would_write_otherwise_is_left_to_the_model(
    usual: ReadingGenerator,
    fast: ReadingGenerator,
    prompts: pd.DataFrame,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    decoding: dict[str, Any],
) -> None:
    for generator in (usual, fast):
        monkeypatch.setattr(generator, "defaults", GenerationSettings(**{"max_new_tokens": 32, **decoding}))
    assert fast.write(prompts[:9]) == usual.write(prompts[:9])
    assert asked == []


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({}, True),
        ({"num_beams": 4}, True),
        ({"num_beams": 4, "length_penalty": 2.0}, True),
        ({"no_repeat_ngram_size": 3, "repetition_penalty": 2.0, "min_new_tokens": 5}, True),
        ({"num_beams": 4, "no_repeat_ngram_size": 3, "min_new_tokens": 5}, True),
        ({"num_beams": 4, "repetition_penalty": 1.2}, False),
        ({"do_sample": True}, False),
    ],
    ids=str,
)
def test_it_knows_which_texts_are_the_same(settings: dict[str, Any], same: bool) -> None:
    assert FastEngine.writes_the_same(GenerationSettings(**settings)) is same


def test_a_row_by_itself_gets_the_same_text(fast: ReadingGenerator, prompts: pd.DataFrame, asked: list[int]) -> None:
    together = fast.write(prompts)
    assert [fast.write(prompts[row : row + 1])[0] for row in range(12)] == together[:12]


def test_the_engine_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_engine("pytorch")
    with pytest.raises(SettingError) as refused:
        check_engine("ctranslate2")
    assert str(refused.value) == (
        "serving.engine=ctranslate2 precisa do pacote ctranslate2; instale-o com pip install ctranslate2, ou use "
        "serving.engine=pytorch."
    )


def test_an_adapter_in_training_is_evaluated_by_the_engine_and_not_touched(
    writing_base: Path, bundled_rows: list[dict[str, str]]
) -> None:
    config = load_config(overrides={"generation.num_beams": "4", "generation.max_new_tokens": "32"})
    model = attach_adapter(load_base(BaseLocation("base", writing_base, "folder")), config.lora, 42).train()
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(writing_base)
    prompts = [TEMPLATES["instrucao"].format(**row) for row in bundled_rows[::9]]

    def write(chosen: FastEngine | None) -> list[str]:
        return generate_texts(model, tokenizer, prompts, config.generation, batch_size=64, max_length=64, engine=chosen)

    numbers = torch.get_rng_state()
    fast = evaluation_engine(model, tokenizer, config)
    assert fast is not None
    assert torch.equal(torch.get_rng_state(), numbers)
    texts = write(fast)
    assert texts == write(None)
    assert len(set(texts)) > 10
    with model.disable_adapter():
        assert write(None) != texts
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.training


class Weights:
    """What the choice of an engine asks of a model."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu", size: int = 1) -> None:
        self.device, self.weights = torch.device(device), [torch.empty(size, dtype=dtype, device="meta")]

    def parameters(self) -> list[torch.Tensor]:
        return self.weights


HALF_A_GIB = 2**27


@pytest.mark.parametrize(
    ("weights", "settings", "taken"),
    [
        (Weights(), {}, True),
        (Weights(size=HALF_A_GIB), {}, False),
        (Weights(device="cuda"), {}, False),
        (Weights(torch.uint8), {}, False),
        (Weights(torch.bfloat16), {}, False),
        (Weights(), {"generation.do_sample": "true"}, False),
        (Weights(), {"evaluation.engine": "pytorch"}, False),
        (Weights(size=HALF_A_GIB), {"evaluation.engine": "ctranslate2"}, True),
        (Weights(device="cuda"), {"evaluation.engine": "ctranslate2"}, True),
        (Weights(), {"evaluation.engine": "ctranslate2", "generation.do_sample": "true"}, False),
    ],
    ids=[
        "cpu",
        "large",
        "gpu",
        "4 bits",
        "bfloat16",
        "sampling",
        "refused",
        "large, asked",
        "gpu, asked",
        "asked in vain",
    ],
)
def test_where_an_evaluation_takes_the_engine(
    monkeypatch: pytest.MonkeyPatch, weights: Weights, settings: dict[str, str], taken: bool
) -> None:
    monkeypatch.setattr(engine.FastEngine, "__init__", lambda self, model, tokenizer: None)
    assert (evaluation_engine(weights, None, load_config(overrides=settings)) is not None) is taken


def test_processes_that_train_together_generate_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "count", lambda: 2)
    assert evaluation_engine(Weights(), None, load_config(overrides={"evaluation.engine": "ctranslate2"})) is None


def test_the_engine_asked_for_4_bit_weights_is_one_sentence() -> None:
    with pytest.raises(SettingError, match="não lê um base em 4 bits; use evaluation"):
        evaluation_engine(Weights(torch.uint8), None, load_config(overrides={"evaluation.engine": "ctranslate2"}))
