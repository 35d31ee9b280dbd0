"""Texts become token ids, without padding, and what is lost on the way is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cartas_mlflow.data import encoding
from cartas_mlflow.data.encoding import encode_texts
from cartas_mlflow.data.prompts import make_prompt, prompt_template
from cartas_mlflow.data.records import load_records
from cartas_mlflow.data.tokens import Tokens
from cartas_mlflow.errors import DataError
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


def test_ids_put_together_from_words_are_the_tokenizers(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [row.texto for row in load_records(DataSettings()).rows[:100]]
    texts += [
        "</s> não acaba",
        "um<extra_id_0>dois",
        "a _b_",
        "  dois   espaços ",
        "",
        "cafe\u0301 \u0301",
        "½ ª … ﬁm 漢",
    ]
    assert Tokens(tokenizer)(texts) == tokenizer(texts)["input_ids"]
    assert Tokens(tokenizer)([]) == []


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two texts are many; the folder where they go."""
    import datasets

    monkeypatch.setattr(encoding, "LARGE", 2)
    monkeypatch.setattr(encoding, "_CHUNK", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "cartas_mlflow"


def test_many_texts_go_into_a_file_that_says_the_same(
    tokenizer: PreTrainedTokenizerBase, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["字 e 漢", *TARGETS[1:]]
    large = encode_texts(tokenizer, PROMPTS, texts, 8)
    monkeypatch.setattr(encoding, "LARGE", 3)
    small = encode_texts(tokenizer, PROMPTS, texts, 8)
    assert (large.file, small.file) == (next(few.iterdir()), None)
    assert large.dataset[:] == small.dataset[:]
    for encoded in (large, small):
        assert (len(encoded), encoded.longest, encoded.truncated, encoded.unknown) == (2, (8, 8), 2, 2)


def test_the_second_time_nothing_is_tokenised(
    tokenizer: PreTrainedTokenizerBase, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode_texts(tokenizer, PROMPTS, TARGETS, 450)
    tokenizer(PROMPTS, truncation=True, max_length=4)  # leaves its mark in the tokenizer's state
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "Tokens", None)
        assert encode_texts(tokenizer, PROMPTS, TARGETS, 450).dataset[:] == first.dataset[:]
    for prompts, targets, limit in (
        (PROMPTS, TARGETS, 449),
        (PROMPTS[::-1], TARGETS, 450),
        (PROMPTS, TARGETS[::-1], 450),
    ):
        assert encode_texts(tokenizer, prompts, targets, limit).file != first.file


def test_a_file_that_is_not_whole_is_made_again(tokenizer: PreTrainedTokenizerBase, few: Path) -> None:
    first = encode_texts(tokenizer, PROMPTS, TARGETS, 450)
    rows = first.dataset[:]
    few.joinpath(first.file.name).write_bytes(first.file.read_bytes()[:700])
    assert encode_texts(tokenizer, PROMPTS, TARGETS, 450).dataset[:] == rows
    assert [file.suffix for file in few.iterdir()] == [".arrow"]


def test_a_cache_that_cannot_be_written_is_told(tokenizer: PreTrainedTokenizerBase, few: Path) -> None:
    few.write_text("no folder")
    with pytest.raises(DataError, match="HF_DATASETS_CACHE"):
        encode_texts(tokenizer, PROMPTS, TARGETS, 450)
