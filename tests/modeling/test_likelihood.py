"""How likely a text is under a prompt, and the share of texts that fit their own prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from readings import settings
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL
from cartas_mlflow.modeling.likelihood import LENGTHS, log_likelihoods, prompt_fit, reading_collator
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.validation import wanted_fits

LIMITS = {"batch_size": 3, "max_length": 64}
CARDS = ("O Sol", "A Lua", "A Torre", "O Mundo", "O Louco", "A Morte", "O Carro")
TEXTS = (
    "O dia clareou e a casa inteira saiu para o quintal.",
    "A noite veio devagar.",
    "Caiu a parede da sala, e com ela o quadro da avó, que ninguém queria.",
    "Abra a porta e conte as horas.",
    "O cachorro late na beira do barranco.",
)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_base(BaseLocation("base", tiny_base, "folder"), "cpu", None), load_tokenizer(tiny_base)


def asked(text: int, card: int) -> str:
    return f"{CARDS[card]} | {text}"


def test_a_likelihood_is_the_models_own_loss(base: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = base
    pairs = [(asked(number, number), text) for number, text in enumerate(TEXTS)]
    for (prompt, text), found in zip(pairs, log_likelihoods(*base, pairs, **LIMITS), strict=True):
        labels = tokenizer(text_target=text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            loss = model.eval()(**tokenizer(prompt, return_tensors="pt"), labels=labels).loss
        assert found == pytest.approx(-loss.item() * labels.numel(), rel=1e-4)


def test_texts_of_all_lengths_make_batches_of_a_few_shapes(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = base
    collator, shapes, lengths = reading_collator(tokenizer, model), set(), set()
    for number in range(1, 33):
        row = dict(tokenizer(" ".join(["sol"] * number)))
        batch = collator([{**row, "labels": row["input_ids"]}])
        shapes.add((batch["input_ids"].shape[1], batch["labels"].shape[1]))
        lengths.add(len(row["input_ids"]))
        assert int(batch["attention_mask"].sum()) == int((batch["labels"] != IGNORED_LABEL).sum()) == max(lengths)
    assert len(lengths) == 32
    assert len(shapes) <= max(lengths) // LENGTHS + 1
    assert all(size % LENGTHS == 0 for shape in shapes for size in shape)


def test_the_share_is_that_of_trying_every_rival(base: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    pairs = [(asked(number, card), text) for number, text in enumerate(TEXTS) for card in range(len(CARDS))]
    found = log_likelihoods(*base, pairs, **LIMITS)
    rows = [found[start : start + len(CARDS)] for start in range(0, len(found), len(CARDS))]
    for own in range(len(CARDS)):
        expected = sum(row[own] > max(row[:own] + row[own + 1 :]) for row in rows) / len(TEXTS)
        prompts = [asked(number, own) for number in range(len(TEXTS))]
        rivals = [[asked(number, card) for card in range(len(CARDS)) if card != own] for number in range(len(TEXTS))]
        assert prompt_fit(*base, TEXTS, prompts, rivals, **LIMITS) == pytest.approx(expected)


def test_a_prompt_that_tells_nothing_apart_fits_nothing(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    prompts = ["Escreva:"] * len(TEXTS)
    assert prompt_fit(*base, TEXTS, prompts, [["Escreva:"] * 3] * len(TEXTS), **LIMITS) == 0.0


def test_texts_without_prompts_are_an_error(base: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    with pytest.raises(ValueError, match="5 texts, 1 prompts, 0 lists of rivals"):
        prompt_fit(*base, TEXTS, ["O Sol:"], [], **LIMITS)


@pytest.mark.parametrize(
    ("asked", "metric", "final", "fits"),
    [
        ("final", "chrf", True, ["prompt_fit", "generated_prompt_fit"]),
        ("final", "chrf", False, []),
        ("final", "prompt_fit", False, ["prompt_fit"]),
        ("epoch", "chrf", False, ["prompt_fit"]),
        ("epoch", "loss", True, ["prompt_fit", "generated_prompt_fit"]),
        ("none", "chrf", True, []),
        ("none", "prompt_fit", True, ["prompt_fit"]),
    ],
)
def test_the_fit_is_measured_when_it_was_asked_for_or_chooses_the_epoch(
    asked: str, metric: str, final: bool, fits: list[str]
) -> None:
    config = settings(evaluation__prompt_fit=asked, early_stopping__metric=metric)
    assert wanted_fits(config, final) == fits
