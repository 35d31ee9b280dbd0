"""The build of the pre-training corpus: what counts as prose, what is dropped, and a source from package to text."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.pretraining.base_card import read_sources

STORY = "O velho ferreiro abriu a porta da oficina e perguntou ao menino o que ele queria."
CATALOGUE = f"""
msgid "The old smith opened the door."
msgstr "{STORY}"

msgid "again"
msgstr "{STORY}"

msgid "File menu"
msgstr "Menu Arquivo"
"""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT))
    return importlib.import_module("data.corpus.clean")


@pytest.mark.parametrize(
    ("text", "language", "prose"),
    [
        (STORY, "pt", True),
        ("The old smith opened the door of his shop and asked the boy what he wanted.", "pt", False),
        ("The old smith opened the door of his shop and asked the boy what he wanted.", "en", True),
        ("Menu Arquivo", "pt", False),
        ("Para abrir a janela de opções que fica no alto, clique em Arquivo ▸ Abrir e depois em Sim.", "pt", False),
        ("Escreva o comando apt-get install em /etc/apt e veja o que ele diz sobre a sua máquina.", "pt", False),
        ("A LOJA DO FERREIRO ESTÁ FECHADA até que o menino volte com a chave da porta da rua.", "pt", False),
        (STORY.removesuffix("."), "pt", False),
    ],
)
def test_prose_is_told_from_menus_code_and_other_languages(
    clean: ModuleType, text: str, language: str, prose: bool
) -> None:
    assert clean.is_prose(text, language) is prose


def test_markup_entities_and_spaces_are_cleaned_away(clean: ModuleType) -> None:
    assert (
        clean.clean_paragraph("  A&nbsp;casa <b>velha</b> , diz “ela”  --  e sai .")
        == 'A casa velha, diz "ela" — e sai.'
    )


def test_a_paragraph_that_is_mostly_known_is_not_taken_twice(clean: ModuleType) -> None:
    seen = clean.Deduplicator()
    assert seen.admit(STORY)
    assert not seen.admit(STORY.upper())
    assert not seen.admit(f"{STORY} Ninguém respondeu.")
    assert seen.admit("A lua subiu devagar por cima dos telhados e ninguém na rua reparou nela.")


@pytest.mark.parametrize(
    ("original", "translation", "kept"),
    [
        ("Toss the cabbage with oil.", "Toss o repolho com óleo.", False),
        ("Then toss it and stir.", "Depois mexa e misture.", True),
        ("Tom eats curry at the hotel.", "Tom come curry no hotel.", True),
    ],
)
def test_a_translation_in_which_english_is_left_is_dropped(
    monkeypatch: pytest.MonkeyPatch, original: str, translation: str, kept: bool
) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT))
    translate = importlib.import_module("data.corpus.translate")
    others = [
        ("They toss the ball at the hotel.", "Eles jogam a bola no hotel."),
        ("We toss a coin and eat curry.", "Jogamos uma moeda e comemos curry."),
    ]
    found = list(translate.drop_untranslated([(original, translation), *others], {"hotel", "bola"}))
    assert (translation in found) is kept


def test_what_is_near_the_wanted_texts_weighs_more_and_the_worst_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT))
    score = importlib.import_module("data.corpus.score")
    callers = ("o pai", "o avô", "o gato") * 5
    near = [f"A menina abriu a janela da cozinha e chamou {who} para o café." for who in callers]
    plain = [f"O navio saiu do porto com {cargo} e voltou sem nada." for cargo in ("vinho", "lenha", "sal", "trigo")]
    slips = ["Zorbil quantesco mirandou brelho dasfoz cintarela pentrou vilosco granel turpo."]
    weighed = score.weigh_paragraphs(
        {"casa": near, "mar": plain * 5, "erros": slips}, ["A menina abriu a janela.", "O pai fez o café na cozinha."]
    )
    assert weighed["erros"] == []
    assert [text for _, text in weighed["casa"]] == near
    assert min(weight for weight, _ in weighed["casa"]) > max((weight for weight, _ in weighed["mar"]), default=0)
    assert all(0.4 <= weight <= 2.0 for pairs in weighed.values() for weight, _ in pairs)


def test_a_source_goes_from_its_package_to_a_text_with_its_licence(tmp_path: Path) -> None:
    package = tmp_path / "work" / "unpacked" / "flare-game" / "mods"
    package.mkdir(parents=True)
    (package / "story.pt_BR.po").write_text(CATALOGUE, encoding="utf-8")
    words = ["--saida", str(tmp_path / "corpus"), "--trabalho", str(tmp_path / "work"), "--fontes", "flare"]
    subprocess.run(
        [sys.executable, "-m", "data.corpus.build_corpus", *words],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYTHONIOENCODING": "utf-8"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert (tmp_path / "corpus" / "flare.txt").read_text(encoding="utf-8") == f"2.0\t{STORY}\n"
    (source,) = read_sources(tmp_path / "corpus")
    assert (source.name, source.licence, source.characters) == ("flare", "CC-BY-SA-3.0+", len(STORY))
