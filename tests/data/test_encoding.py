"""Texts become token ids, without padding, and what is lost on the way is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cartas_mlflow.data.encoding import encode_texts
from cartas_mlflow.data.prompts import make_prompt, prompt_template
from cartas_mlflow.data.records import load_records
from cartas_mlflow.settings import DataSettings

PROMPTS = ["Interprete a carta O Sol:", "Leia:"]
TARGETS = ["Abra a janela.", "Feche a porta, apague a luz e vá dormir sem culpa."]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_base)


def test_ids_read_back_to_the_texts_and_end_with_the_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode_texts(tokenizer, PROMPTS, TARGETS, 450)
    for column, texts in (("input_ids", PROMPTS), ("labels", TARGETS)):
        assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded.dataset[column]] == texts
        assert all(ids[-1] == tokenizer.eos_token_id for ids in encoded.dataset[column])
    assert (encoded.truncated, encoded.unknown) == (0, 0)


def test_nothing_is_padded_and_the_length_is_the_longer_sides(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode_texts(tokenizer, PROMPTS, TARGETS, 450)
    inputs, labels = ([len(ids) for ids in encoded.dataset[column]] for column in ("input_ids", "labels"))
    assert inputs[0] != inputs[1]
    assert labels[0] != labels[1]
    assert encoded.dataset["length"] == [max(pair) for pair in zip(inputs, labels, strict=True)]
    assert encoded.longest == (max(inputs), max(labels))
    assert [len(mask) for mask in encoded.dataset["attention_mask"]] == inputs


def test_a_text_over_the_limit_is_cut_there_and_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode_texts(tokenizer, PROMPTS, TARGETS, 8)
    whole = encode_texts(tokenizer, PROMPTS, TARGETS, 450)
    over = sum(len(ids) > 8 for column in ("input_ids", "labels") for ids in whole.dataset[column])
    assert over > 0
    assert encoded.truncated == over
    assert encoded.longest == (8, 8)
    assert encoded.dataset["labels"][1][-1] == tokenizer.eos_token_id


def test_characters_that_the_vocabulary_lacks_are_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode_texts(tokenizer, ["Leia: 漢"], ["字 e 漢"], 450).unknown == 3


def test_the_bundled_table_fits_the_default_limit(tokenizer: PreTrainedTokenizerBase) -> None:
    settings = DataSettings()
    rows = load_records(settings).rows
    prompts = [make_prompt(prompt_template(settings), row) for row in rows]
    encoded = encode_texts(tokenizer, prompts, [row.texto for row in rows], settings.max_length)
    assert (len(encoded.dataset), encoded.truncated, encoded.unknown) == (462, 0, 0)
