"""Texts that are the same, or nearly so."""

from __future__ import annotations

import random

import pytest

from cartas_mlflow.data import duplicates
from cartas_mlflow.data.duplicates import find_alike

TEXT = "Abra a janela, respire fundo e conte até dez antes de responder à sua mãe."


@pytest.mark.parametrize(
    ("other", "similarity"),
    [
        (TEXT, 100),
        (TEXT.upper().replace(",", ""), 100),
        (TEXT.replace("mãe", "avó"), 95),
        (TEXT + " Sempre.", 90),
        ("Feche a porta e vá dormir; amanhã é outro dia, e a chuva já terá passado.", None),
    ],
)
def test_alike_texts_are_paired(other: str, similarity: int | None) -> None:
    pairs = find_alike(["Outra coisa, bem diferente.", TEXT, other])
    assert [(pair.first, pair.second) for pair in pairs] == ([] if similarity is None else [(1, 2)])
    assert all(pair.similarity >= (similarity or 0) for pair in pairs)


def test_a_large_table_is_compared_with_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sol", "lua", "torre", "mago", "carro", "força", "estrela", "mundo", "roda", "justiça"]
    chance = random.Random(1)
    texts = [" ".join(chance.choices(words, k=20)) for _ in range(300)]
    texts[250] = texts[10] + " fim"
    texts[260] = "início " + texts[20]
    whole = find_alike(texts)
    monkeypatch.setattr(duplicates, "_ALL_PAIRS", 100)
    assert {(10, 250), (20, 260)} <= {(pair.first, pair.second) for pair in find_alike(texts)}
    assert {(pair.first, pair.second) for pair in find_alike(texts)} <= {(pair.first, pair.second) for pair in whole}


def test_equal_texts_of_a_large_table_make_a_pair_with_the_first_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_ALL_PAIRS", 3)
    texts = [TEXT, "Outra coisa.", TEXT.upper(), TEXT, TEXT.replace("mãe", "avó")]
    assert [(pair.first, pair.second, pair.similarity >= 100) for pair in find_alike(texts)] == [
        (0, 2, True),
        (0, 3, True),
        (0, 4, False),
    ]


def test_the_search_ends_with_so_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_ALL_PAIRS", 3)
    monkeypatch.setattr(duplicates, "MOST", 5)
    assert len(find_alike([TEXT] * 50)) == 5
