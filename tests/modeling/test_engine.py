"""The optional engine writes the same texts, or leaves them to the model."""

from __future__ import annotations

import importlib.util
from typing import Any

import pandas as pd
import pytest
from trainings import CARDS, Trainings

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.engine import FastEngine, check_engine
from cartas_mlflow.registry.model import ReadingGenerator, open_folder
from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings

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
