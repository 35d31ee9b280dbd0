"""Names as people type them, and the text of a cell as people see it."""

from __future__ import annotations

import pytest

from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.data.matching import clean_name, match_name, nearest_names

CARDS = ("O Sol", "A Lua", "A Força", "O Louco", "A Roda da Fortuna", "Os Enamorados", "O Mago")


@pytest.mark.parametrize(
    ("cell", "seen"),
    [
        ("vo\u00adcê", "você"),
        ("\ufeffcarta", "carta"),
        ("O Sol\u200b", "O Sol"),
        ("O\u00a0Sol", "O Sol"),
        ("O\u2003Sol\u2028brilha", "O Sol brilha"),
        ("Abra._x000D_\nFeche.", "Abra. Feche."),
        ("Abra._x000d__x000a_Feche.", "Abra. Feche."),
        ("a_x0041_b", "a_x0041_b"),
        ("a\x00b\x07c", "abc"),
        ("a\u202eb\u202c", "ab"),
        ("c\u0327", "ç"),
        ("☀\ufe0f sol", "☀ sol"),
        ("\u3164", ""),
    ],
)
def test_a_text_holds_what_can_be_seen(cell: str, seen: str) -> None:
    assert clean_text(cell) == seen
    assert clean_text(seen) == seen


@pytest.mark.parametrize("name", ["Seção", "SECAO", " seção: ", "se\u00adção", "s\u200beção", "SE\u00a0ÇÃO", "[secao]"])
def test_spellings_of_one_name_have_one_clean_name(name: str) -> None:
    assert clean_name(name) == "secao"


def test_names_of_signs_alone_stay_apart() -> None:
    assert clean_name("🌙") != clean_name("🌞")
    assert clean_name("***") != ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("O Sol", "O Sol"),
        ("o sol", "O Sol"),
        ("Sol", "O Sol"),
        ("SOL ", "O Sol"),
        ("força", "A Força"),
        ("A FORCA", "A Força"),
        ("a-roda-da-fortuna", "A Roda da Fortuna"),
        ("enamorados", "Os Enamorados"),
        ("O\u200b Mago.", "O Mago"),
        ("O Sou", None),
        ("", None),
        ("O", None),
    ],
)
def test_a_name_is_found_however_it_is_typed(typed: str, meant: str | None) -> None:
    assert match_name(typed, CARDS) == meant


def test_a_name_that_could_be_two_is_neither() -> None:
    assert match_name("sol", ["O Sol", "A Sol"]) is None
    assert match_name("o sol", ["O Sol", "Sol"]) == "O Sol"


def test_the_nearest_names_come_first() -> None:
    assert nearest_names("O Sou", CARDS)[0] == "O Sol"
    assert nearest_names("xyz", CARDS) == []
