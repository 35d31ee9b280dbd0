"""The folder of a base made here loads and generates as any T5 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cartas_mlflow.errors import DataError, SettingError
from cartas_mlflow.pretrain_settings import PretrainShape
from cartas_mlflow.pretraining.base_card import CardFacts, Source, read_sources, write_base_card
from cartas_mlflow.pretraining.base_folder import write_base_folder
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.vocabulary import padded_vocabulary_size, train_vocabulary

TEXTS = [
    f"A casa número {n} fica no alto do morro, e a avó abre a janela às {n} horas. Ninguém dorme." for n in range(80)
]


def test_a_written_base_loads_offline_and_generates(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    train_vocabulary(TEXTS, tmp_path / "tokenizer", 76)
    model = build_model(
        PretrainShape(d_model=64, d_ff=64, heads=1, encoder_layers=1, decoder_layers=3),
        padded_vocabulary_size(76),
        seed=0,
    )
    for _ in range(2):  # the second time it replaces the first
        write_base_folder(model, tmp_path / "tokenizer", tmp_path / "base", "# base\n")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.dropout_rate == 0.0  # as it was pre-trained
    texts = loaded.generate(**tokenizer(["A casa"], return_tensors="pt"), max_new_tokens=8, num_beams=2)
    assert texts.shape[0] == 1
    assert tokenizer.decode(tokenizer("Ninguém dorme às 3 horas.")["input_ids"], skip_special_tokens=True).startswith(
        "Ninguém"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tokenizer"]


def test_the_vocabulary_has_every_accented_letter(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    train_vocabulary(TEXTS, tmp_path, 76)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    letters = "ÁÀÂÃÉÊÍÓÔÕÚÇáàâãéêíóôõúç"
    assert tokenizer.decode(tokenizer(letters)["input_ids"], skip_special_tokens=True).replace(" ", "") == letters
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1


def test_a_vocabulary_that_the_texts_do_not_give_names_the_size_that_they_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as error:
        train_vocabulary(TEXTS, tmp_path, 8000)
    assert str(error.value) == (
        "pretrain.vocabulary=8000 é mais do que este corpus permite; use pretrain.vocabulary=76 ou menos, ou junte "
        "mais texto."
    )


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(tmp_path: Path) -> None:
    alphabet = "".join(map(chr, range(0x391, 0x3FF)))
    with pytest.raises(SettingError, match=r"^pretrain.vocabulary=64 é pouco até para os caracteres deste corpus;"):
        train_vocabulary([f"{letter} e {letter}." for letter in alphabet], tmp_path, 64)


GAME = Source(name="jogo", packages={"jogo-data": "1.2"}, licence="GPL-2+", translated=True, characters=1234)


def test_the_card_names_every_source_with_its_licence() -> None:
    essays = Source(name="essays", licence="CC BY 4.0", characters=500)
    card = write_base_card(CardFacts("base", {"parameters": "10"}, 76, 0.5, 0.2, 0.1, [GAME], essays))
    assert "| jogo | jogo-data 1.2 | GPL-2+ | 1,234 | translated |" in card
    assert "| essays |  | CC BY 4.0 | 500 |  |" in card
    assert "license: mit" in card
    assert "| parameters | 10 |" in card


def test_the_card_of_texts_of_unknown_origin_claims_no_licence() -> None:
    card = write_base_card(CardFacts("base", {}, 76, 0.5, 0.2, 0.1))
    assert "license:" not in card
    assert "Texts whose origin was not stated" in card


def test_the_origins_are_read_from_the_corpus_folder(tmp_path: Path) -> None:
    assert read_sources(tmp_path) == ()
    (tmp_path / "sources.json").write_text(f"[{GAME.model_dump_json()}]", encoding="utf-8")
    assert read_sources(tmp_path) == (GAME,)


@pytest.mark.parametrize("text", ["[", "5", '[{"name": "jogo"}]', "[1]", "\xff"])
def test_origins_that_are_not_as_they_should_be_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"sources\.json não serve como lista de origens; escreva uma lista de objetos"):
        read_sources(tmp_path)
