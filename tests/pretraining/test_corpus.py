"""The texts of pre-training: what is read, split, weighed and held out, and that none of it is a prompt."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import DataError
from cartas_mlflow.pretraining.corpus import (
    find_texts,
    is_held_out,
    load_corpus,
    read_lines,
    read_paragraphs,
    split_text,
)
from cartas_mlflow.pretraining.essays import find_essays, read_essays
from cartas_mlflow.pretraining.objective import EOS, Objective, expand_keywords, make_example
from cartas_mlflow.pretraining.words import SMALL_WORDS, describe_words
from cartas_mlflow.settings import TEMPLATES

ESSAY = """# O Louco

Um parágrafo longo sobre a carta. Tem duas frases.

## Amor

**Luz · Ano Novo.** Você saiu sem mala.

**Conselho · Fim de Ciclo.** Feche a porta com cuidado.
"""


def test_an_essay_is_prose_and_does_not_tell_what_its_readings_answer(tmp_path: Path) -> None:
    (tmp_path / "00-o-louco.md").write_text(ESSAY, encoding="utf-8")
    assert read_essays(find_essays(tmp_path)) == [
        "Um parágrafo longo sobre a carta. Tem duas frases.",
        "Você saiu sem mala.",
        "Feche a porta com cuidado.",
    ]


@pytest.mark.parametrize("template", TEMPLATES.values())
def test_the_text_of_pre_training_has_nothing_of_a_prompt(template: str) -> None:
    fixed = [part for part in re.split(r"\{\w+\}", template) if part.strip()]
    assert fixed
    texts = read_essays(find_essays(PROJECT_ROOT / "data" / "arcanos"))
    for folder in ("cenas", "bilhetes", "cartilha"):
        for path in find_texts(PROJECT_ROOT / "data" / folder):
            texts += read_lines(path)
    assert sum(map(len, texts)) > 4_500_000
    assert [text for text in texts if any(part in text for part in fixed)] == []


def test_no_request_is_made_of_an_essay(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "O cachorro late na beira do barranco e a pessoa olha para baixo antes de dar um passo."
    tokens = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
    objective = Objective(
        prefix_share=0.25,
        span_share=0.25,
        reword_share=0.25,
        first_sentinel=tokenizer.convert_tokens_to_ids("<extra_id_0>"),
        lexicon=describe_words(tokenizer, len(tokenizer)),
    )
    known = {*tokens.tolist(), EOS, *range(objective.first_sentinel - 40, objective.first_sentinel + 1)}
    for seed in range(100):
        sides = make_example(tokens, objective, np.random.default_rng(seed))
        assert set(sides[1].tolist()) <= known, "what is asked for is pieces of the text itself"
        for side in sides:
            words = re.findall(r"\w+", re.sub(r"<extra_id_\d+>|</s>", " ", tokenizer.decode(side)).lower())
            strange = [word for word in words if word not in text.lower() and word not in SMALL_WORDS]
            assert strange == [], "both sides are words of the text itself, and small ones"


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("No seu aniversário, você fez um bolo com amor.", ["aniversário", "fez", "bolo", "amor"]),
        ("Mas a Lua entrou pela janela: era lua cheia!", ["Lua", "entrou", "janela", "lua", "cheia"]),
        ("Ele é só isso, e já foi.", []),
    ],
)
def test_the_keywords_of_a_text_are_its_words_without_the_small_ones(
    tokenizer: PreTrainedTokenizerBase, text: str, keywords: list[str]
) -> None:
    lexicon = describe_words(tokenizer, len(tokenizer))
    tokens = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert [tokenizer.decode(word) for word in lexicon.keywords(tokens)] == keywords


def test_keywords_come_in_either_case_and_among_small_words(tokenizer: PreTrainedTokenizerBase) -> None:
    lexicon = describe_words(tokenizer, len(tokenizer))
    for there, back in (("família", "Família"), ("Lua", "lua"), ("água", "Água")):
        tokens = np.asarray(tokenizer(there, add_special_tokens=False)["input_ids"])
        assert tokenizer.decode(lexicon.other_case(tokens)) == back
        assert lexicon.other_case(lexicon.other_case(tokens)).tolist() == tokens.tolist()
    objective = Objective(0, 0, 0, tokenizer.convert_tokens_to_ids("<extra_id_0>"), lexicon)
    text = "A família pôs o bolo na mesa da cozinha, acendeu uma vela e cantou bem alto para a avó de noventa anos."
    tokens = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"])
    made = [expand_keywords(tokens, objective, np.random.default_rng(seed))[0] for seed in range(400)]
    written = [re.findall(r"\w+", tokenizer.decode(source)) for source in made]
    with_family = [words for words in written if {"família", "Família"} & {*words}]
    assert 0.35 < sum("Família" in words for words in with_family) / len(with_family) < 0.65
    with_small = sum(any(word.lower() in SMALL_WORDS for word in words) for words in written) / len(written)
    assert 0.2 < with_small < 0.6, "every second input stays bare"


def test_words_of_another_text_stand_among_the_keywords(tokenizer: PreTrainedTokenizerBase) -> None:
    lexicon = describe_words(tokenizer, len(tokenizer))
    objective = Objective(0, 0, 0, tokenizer.convert_tokens_to_ids("<extra_id_0>"), lexicon)
    text, other = (
        np.asarray(tokenizer(line, add_special_tokens=False)["input_ids"])
        for line in (
            "A família pôs o bolo na mesa da cozinha, acendeu uma vela e cantou bem alto para a avó de noventa anos. "
            * 3,
            "O marinheiro subiu ao mastro: vento forte, chuva fina, nenhum porto.",
        )
    )
    theirs = {"marinheiro", "subiu", "mastro", "vento", "forte", "chuva", "fina", "nenhum", "porto"}
    counts = []
    for seed in range(400):
        source, target = expand_keywords(text, objective, np.random.default_rng(seed), other)
        words = [word.lower() for word in re.findall(r"\w+", tokenizer.decode(source))]
        counts.append(sum(word in theirs for word in words))
        assert np.array_equal(target, text), "what is asked for is the text alone"
        assert [word for word in words if word not in theirs and word not in SMALL_WORDS], "some of its own words"
    assert {*counts} == {0, 1, 2, 3, 4}
    assert 0.5 < counts.count(0) / len(counts) < 0.7, "every second input has none at all"


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
    assert {tokenizer.decode(document) for document in corpus.general_held_out} == kept_out
    assert {tokenizer.decode(document) for document in corpus.general} == set(texts) - kept_out
    assert corpus.weights.tolist() == [0.5] * len(corpus.general)


def test_an_essay_too_long_for_a_row_is_split(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    essays = ["Abra a janela e conte as horas. " * times for times in (1, 40)]
    corpus = load_corpus(paragraphs(tmp_path, 400), tokenizer, 96, {}, essays)
    documents = corpus.domain + corpus.domain_held_out
    assert len(documents) > 3
    assert np.all([len(document) <= 96 for document in documents])


def test_a_paragraph_may_bring_its_weight(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1.5\tUma linha.\n0\tOutra.\n20 tábuas\tna parede.\n", encoding="utf-8")
    assert list(read_paragraphs(find_texts(tmp_path), {"a": 2.0})) == [
        ("Uma linha.", 3.0),
        ("Outra.", 0.0),
        ("20 tábuas\tna parede.", 2.0),
    ]


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
