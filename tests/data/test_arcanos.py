"""The essays on the cards: long enough, complete, and nowhere a reading of the bundled table in other clothes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.pretraining.essays import find_essays, read_essays

ESSAYS = sorted((PROJECT_ROOT / "data" / "arcanos").glob("*.md"))
RUN = 6
"""Words in a row that no essay may share with a reading."""


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+(?:-\w+)*", text.lower())  # "sente-se" is one word
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}


def test_there_is_one_essay_for_each_card_of_the_table(bundled_rows: list[dict[str, str]]) -> None:
    titles = [path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in ESSAYS]
    assert len(ESSAYS) == 22
    assert sorted(titles) == sorted({row["carta"] for row in bundled_rows})


@pytest.mark.parametrize("path", ESSAYS, ids=lambda path: path.stem)
def test_an_essay_has_ten_thousand_characters_or_more(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8")) >= 10_000


@pytest.mark.parametrize("path", ESSAYS, ids=lambda path: path.stem)
def test_no_essay_shares_six_words_in_a_row_with_a_reading(path: Path, bundled_rows: list[dict[str, str]]) -> None:
    known = set().union(*(runs(row["texto"]) for row in bundled_rows))
    assert len(known) > 5_000
    paragraphs = (re.sub(r"^\*\*[^*]+\*\* ", "", line) for line in path.read_text(encoding="utf-8").splitlines())
    shared = set().union(*map(runs, paragraphs)) & known
    assert sorted(" ".join(run) for run in shared) == []


def test_every_short_paragraph_has_a_prompt_of_the_tables_own_fields(bundled_rows: list[dict[str, str]]) -> None:
    texts = read_essays(find_essays(ESSAYS[0].parent), "{carta}|{evento}|{secao}|{tema}")
    readings = [item.prompt.split("|") for item in texts if item.prompt]
    assert len(readings) > 2_000
    for place, field in enumerate(("carta", "evento", "secao")):
        known = {row[field] for row in bundled_rows}
        assert {prompt[place] for prompt in readings} - known == set(), field
    assert min(Counter(prompt[0] for prompt in readings).values()) > 80
