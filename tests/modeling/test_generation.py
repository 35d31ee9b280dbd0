"""The one routine that writes texts: in order, repeatable, as the settings say."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from readings import shake
from torch import nn

from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.generation import decoding_config, generate_texts
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.lora import attach_adapter
from cartas_mlflow.settings import GenerationSettings, LoraSettings

PROMPTS = [
    "A Lua",
    "Interprete a carta O Louco na ocasião Mudança de Casa, seção Conselho, tema Espiritualidade, no seu estilo:",
    "O Sol | Ano Novo",
    "A Imperatriz | Fim de Ciclo | Sombra | Trabalho",
    "O",
    "A Lua",
    "Interprete a carta A Torre na ocasião Noivado",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Any:
    """A base with an adapter that answers different prompts differently."""
    adapted = attach_adapter(
        load_base(BaseLocation("base", tiny_base, "folder")), LoraSettings(target_modules=("all-linear",)), seed=1
    )
    shake(adapted)
    return adapted


def write(model: Any, tokenizer: Any, prompts: list[str] = PROMPTS, batch_size: int = 32, **settings: Any) -> list[str]:
    chosen = GenerationSettings(**{"max_new_tokens": 12, **settings})
    return generate_texts(model, tokenizer, prompts, chosen, batch_size=batch_size, max_length=64)


def generated_ids(model: Any, tokenizer: Any, **settings: Any) -> torch.Tensor:
    config = decoding_config(model, GenerationSettings(**{"max_new_tokens": 12, **settings}))
    return model.generate(**tokenizer(PROMPTS[:1], return_tensors="pt"), generation_config=config)


def repeated_pairs(tokenizer: Any, text: str) -> int:
    ids = tokenizer(text)["input_ids"]
    pairs = list(pairwise(ids))
    return len(pairs) - len(set(pairs))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_texts_come_in_the_order_of_the_prompts_whatever_their_length_and_the_batch(
    model: Any, tokenizer: Any, batch_size: int
) -> None:
    alone = [write(model, tokenizer, [prompt])[0] for prompt in PROMPTS]
    assert len(set(alone)) >= 4
    assert alone[0] == alone[5]
    assert write(model, tokenizer, batch_size=batch_size) == alone


def test_several_texts_per_prompt_stand_together(model: Any, tokenizer: Any) -> None:
    settings = GenerationSettings(max_new_tokens=12, num_beams=3)
    texts = generate_texts(model, tokenizer, PROMPTS, settings, batch_size=2, max_length=64, sequences=3)
    assert len(texts) == 3 * len(PROMPTS)
    assert texts[::3] == write(model, tokenizer, num_beams=3)


@pytest.mark.parametrize("limit", [3, 40])
def test_max_new_tokens_is_the_limit_of_the_text(model: Any, tokenizer: Any, limit: int) -> None:
    ids = generated_ids(model, tokenizer, max_new_tokens=limit)
    assert ids.shape[1] == 1 + limit  # the start token counts apart


def test_min_new_tokens_keeps_a_text_from_ending_early(model: Any, tokenizer: Any) -> None:
    def wants_to_end(module: nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([tokenizer.eos_token_id]), 1e4)

    hook = model.get_base_model().lm_head.register_forward_hook(wants_to_end)
    try:
        assert generated_ids(model, tokenizer).shape[1] == 2
        assert generated_ids(model, tokenizer, min_new_tokens=7).shape[1] == 1 + 7 + 1
    finally:
        hook.remove()


def test_beams_find_another_text_than_the_greedy_search(model: Any, tokenizer: Any) -> None:
    assert write(model, tokenizer, num_beams=4) != write(model, tokenizer)


def test_length_penalty_counts_with_beams(model: Any, tokenizer: Any) -> None:
    def total(penalty: float) -> int:
        texts = write(model, tokenizer, num_beams=4, length_penalty=penalty, max_new_tokens=40)
        return sum(map(len, texts))

    assert total(-10) <= total(10)


def test_no_repeat_ngram_size_bans_repetition(model: Any, tokenizer: Any) -> None:
    free = write(model, tokenizer, max_new_tokens=40)
    banned = write(model, tokenizer, max_new_tokens=40, no_repeat_ngram_size=2)
    assert sum(repeated_pairs(tokenizer, text) for text in free) > 50
    assert sum(repeated_pairs(tokenizer, text) for text in banned) <= len(PROMPTS)


def test_repetition_penalty_has_an_effect(model: Any, tokenizer: Any) -> None:
    assert write(model, tokenizer, max_new_tokens=40, repetition_penalty=5.0) != write(
        model, tokenizer, max_new_tokens=40
    )


def test_sampling_is_repeatable_by_its_seed_and_leaves_the_random_numbers_alone(model: Any, tokenizer: Any) -> None:
    sampling = {"do_sample": True, "temperature": 2.0, "top_p": 0.95, "top_k": 200}
    before = torch.get_rng_state()
    once, again = (write(model, tokenizer, seed=7, **sampling) for _ in range(2))
    assert once == again
    assert write(model, tokenizer, seed=8, **sampling) != once
    assert torch.equal(torch.get_rng_state(), before)


def test_top_k_of_1_is_the_greedy_search(model: Any, tokenizer: Any) -> None:
    assert write(model, tokenizer, do_sample=True, top_k=1) == write(model, tokenizer)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_after_an_error(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)
    write(model, tokenizer)
    assert model.training is training

    def fail(count: int) -> None:
        assert not model.training
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate_texts(model, tokenizer, PROMPTS, GenerationSettings(), batch_size=2, max_length=64, on_progress=fail)
    assert model.training is training
    model.eval()


def test_progress_counts_prompts(model: Any, tokenizer: Any) -> None:
    seen: list[int] = []
    settings = GenerationSettings(max_new_tokens=2)
    generate_texts(model, tokenizer, PROMPTS, settings, batch_size=3, max_length=64, on_progress=seen.append)
    assert seen == [3, 3, 1]


def test_a_prompt_beyond_the_limit_is_cut_not_refused(model: Any, tokenizer: Any) -> None:
    settings = GenerationSettings(max_new_tokens=4)
    long = generate_texts(model, tokenizer, ["A Lua " * 500], settings, batch_size=1, max_length=16)
    assert long == generate_texts(model, tokenizer, ["A Lua " * 400], settings, batch_size=1, max_length=16)


def test_no_prompts_no_texts(model: Any, tokenizer: Any) -> None:
    assert write(model, tokenizer, []) == []


def test_what_the_base_s_own_generation_config_says_does_not_count(
    tiny_base: Path, tmp_path: Path, tokenizer: Any
) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "opinado")
    file = folder / "generation_config.json"
    opinions = {"max_length": 3, "min_new_tokens": 5, "num_beams": 3, "no_repeat_ngram_size": 1, "do_sample": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), **opinions}))
    plain, opinionated = (load_base(BaseLocation("b", path, "folder")) for path in (tiny_base, folder))
    assert write(opinionated, tokenizer) == write(plain, tokenizer)
