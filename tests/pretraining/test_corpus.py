"""The texts of pre-training: what is read, split, held out, and given a prompt."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cartas_mlflow.errors import DataError
from cartas_mlflow.pretraining.corpus import (
    DomainText,
    find_texts,
    is_held_out,
    load_corpus,
    read_paragraphs,
    split_text,
)
from cartas_mlflow.pretraining.essays import find_essays, read_essays

ESSAY = """# O Louco

Um parágrafo longo sobre a carta. Tem duas frases.

## Amor

**Luz · Ano Novo.** Você saiu sem mala.

**Conselho · Fim de Ciclo.** Feche a porta com cuidado.
"""


def test_the_readings_of_an_essay_get_the_prompt_of_their_heading(tmp_path: Path) -> None:
    (tmp_path / "00-o-louco.md").write_text(ESSAY, encoding="utf-8")
    texts = read_essays(find_essays(tmp_path), "{carta} | {evento} | {secao} | {tema}")
    assert [(item.prompt, item.text) for item in texts] == [
        ("", "Um parágrafo longo sobre a carta. Tem duas frases."),
        ("O Louco | Ano Novo | Luz | Amor", "Você saiu sem mala."),
        ("O Louco | Fim de Ciclo | Conselho | Amor", "Feche a porta com cuidado."),
    ]


def test_a_long_text_is_split_at_its_sentences() -> None:
    def words(text: str) -> int:
        return len(text.split())

    text = "Um dois três. Quatro cinco! Seis sete oito nove dez onze? Doze."
    assert split_text(text, words, 5) == ["Um dois três. Quatro cinco!", "Doze."]
    assert split_text(text, words, 100) == [text]


def test_the_same_texts_are_held_out_in_every_run() -> None:
    texts = [f"Parágrafo número {n} do corpus." for n in range(5000)]
    held_out = [text for text in texts if is_held_out(text)]
    assert 20 <= len(held_out) <= 60
    assert held_out == [text for text in texts if is_held_out(text)]


def test_a_source_without_a_weight_of_its_own_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Uma linha.\n\nOutra linha.\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Mais uma.\n", encoding="utf-8")
    assert list(read_paragraphs(find_texts(tmp_path), {"b": 0.5})) == [
        ("Uma linha.", 1.0),
        ("Outra linha.", 1.0),
        ("Mais uma.", 0.5),
    ]


@pytest.fixture
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_base)


def paragraphs(folder: Path, count: int) -> list[Path]:
    names = map("".join, itertools.islice(itertools.product("aeiou", repeat=4), count))
    lines = [f"Na casa de {name} alguém abriu a janela e contou as horas." for name in names]
    (folder / "casas.txt").write_text("\n".join(lines), encoding="utf-8")
    return find_texts(folder)


def test_what_is_held_out_is_not_learnt_from(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    files = paragraphs(tmp_path, 400)
    corpus = load_corpus(files, tokenizer, 96, {"casas": 0.5}, [])
    texts = [text for text, _ in read_paragraphs(files, {})]
    kept_out = {text for text in texts if is_held_out(text)}
    assert 0 < len(kept_out) < 20
    assert {tokenizer.decode(document.tokens) for document in corpus.general_held_out} == kept_out
    assert {tokenizer.decode(document.tokens) for document in corpus.general} == set(texts) - kept_out
    assert corpus.weights.tolist() == [0.5] * len(corpus.general)


def test_a_reading_too_long_for_a_row_is_left_out(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    readings = [DomainText("Abra a janela e conte as horas. " * times, "O Sol:") for times in (1, 40)]
    corpus = load_corpus(paragraphs(tmp_path, 400), tokenizer, 96, {}, readings)
    answers = corpus.domain + corpus.domain_held_out
    assert [tokenizer.decode(answer.prompt) for answer in answers] == ["O Sol:"]
    assert np.all([len(answer.tokens) <= 96 for answer in answers])


def test_a_corpus_with_nothing_to_validate_on_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError) as error:
        load_corpus(paragraphs(tmp_path, 3), tokenizer, 96, {}, [])
    assert str(error.value) == (
        f"O corpus em {tmp_path} é pequeno demais (trechos para aprender: 3, para validar: 0); junte mais texto: "
        "alguns milhares de parágrafos, um por linha."
    )


def test_a_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Coração".encode("latin-1"))
    with pytest.raises(DataError) as error:
        list(read_paragraphs(find_texts(tmp_path), {}))
    assert str(error.value) == f"{tmp_path / 'a.txt'} não é um texto UTF-8 (byte 5); salve-o em UTF-8."
