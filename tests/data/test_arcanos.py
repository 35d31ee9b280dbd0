"""Essays on the cards, scenes, notes, primer: long, varied, nowhere a reading of the table in disguise."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT

ESSAYS = sorted((PROJECT_ROOT / "data" / "arcanos").glob("*.md"))
SCENES = sorted((PROJECT_ROOT / "data" / "cenas").glob("*.txt"))
NOTES = sorted((PROJECT_ROOT / "data" / "bilhetes").glob("*.txt"))
PRIMER = sorted((PROJECT_ROOT / "data" / "cartilha").glob("*.txt"))
RUN = 6
"""Words in a row that no essay may share with a reading."""


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+(?:-\w+)*", text.lower())  # "sente-se" is one word


def runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}


def test_there_is_one_essay_for_each_card_of_the_table(bundled_rows: list[dict[str, str]]) -> None:
    titles = [path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in ESSAYS]
    assert len(ESSAYS) == 22
    assert sorted(titles) == sorted({row["carta"] for row in bundled_rows})


@pytest.mark.parametrize("path", ESSAYS, ids=lambda path: path.stem)
def test_an_essay_has_ten_thousand_characters_or_more(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8")) >= 10_000


@pytest.mark.parametrize("path", [*ESSAYS, *SCENES, *NOTES, *PRIMER], ids=lambda path: path.stem)
def test_nothing_written_for_pre_training_shares_six_words_in_a_row_with_a_reading(
    path: Path, bundled_rows: list[dict[str, str]]
) -> None:
    known = set().union(*(runs(row["texto"]) for row in bundled_rows))
    assert len(known) > 5_000
    paragraphs = (re.sub(r"^\*\*[^*]+\*\* ", "", line) for line in path.read_text(encoding="utf-8").splitlines())
    shared = set().union(*map(runs, paragraphs)) & known
    assert sorted(" ".join(run) for run in shared) == []


def test_every_short_paragraph_names_a_section_and_an_occasion_of_the_table(bundled_rows: list[dict[str, str]]) -> None:
    headings = [re.findall(r"^\*\*([^·*]+) · ([^*]+)\.\*\* ", path.read_text("utf-8"), re.MULTILINE) for path in ESSAYS]
    assert min(map(len, headings)) > 80
    sections, occasions = map(set, zip(*(pair for found in headings for pair in found), strict=True))
    assert sections <= {row["secao"] for row in bundled_rows}
    assert occasions <= {row["evento"] for row in bundled_rows}


def lines_of(files: list[Path]) -> list[str]:
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def most_frequent_opening(texts: list[str]) -> int:
    return max(Counter(" ".join(text.split()[:4]) for text in texts).values())


def test_the_scenes_and_the_notes_are_many_and_begin_each_in_its_own_way() -> None:
    texts = lines_of([*SCENES, *NOTES])
    assert sum(map(len, texts)) > 3_000_000
    assert len(set(texts)) == len(texts)
    assert most_frequent_opening(texts) <= 2


def test_the_scenes_speak_to_nobody_and_the_notes_to_somebody() -> None:
    assert [scene for scene in lines_of(SCENES) if re.search(r"\b[Vv]ocê\b", scene)] == []
    notes = lines_of(NOTES)
    assert sum(bool(re.search(r"\b[Vv]ocês?\b", note)) for note in notes) > len(notes) / 2


def test_the_primer_has_short_sentences_and_few_words_and_says_nothing_twice() -> None:
    pieces = lines_of(PRIMER)
    assert sum(map(len, pieces)) > 1_500_000
    assert len(set(pieces)) == len(pieces)
    assert most_frequent_opening(pieces) <= 8
    lengths = sorted(len(words_of(part)) for piece in pieces for part in re.split(r"(?<=[.!?…])\s+", piece))
    assert lengths[len(lengths) * 95 // 100] <= 14
    words = Counter(word for piece in pieces for word in words_of(piece))
    assert sum(count for _, count in words.most_common(1_500)) > 0.92 * words.total()
