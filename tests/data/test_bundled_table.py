"""The table that comes with the project has the figures that its data card and the guide give."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter

import pytest

from cartas_mlflow.data.cells import clean_text
from cartas_mlflow.data.records import Records, load_records
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.settings import DataSettings


@pytest.fixture(scope="module")
def records() -> Records:
    return load_records(DataSettings())


def test_it_has_462_readings_all_of_them_usable(records: Records) -> None:
    assert (records.read, len(records.rows)) == (462, 462)
    assert (records.empty, records.repeated, records.shared_texts) == ((), (), 0)


def test_each_of_the_22_cards_has_its_21_readings_one_for_each_occasion_and_section(records: Records) -> None:
    assert records.cards == 22
    assert set(Counter(row.carta for row in records.rows).values()) == {21}
    occasions, sections = {row.evento for row in records.rows}, {row.secao for row in records.rows}
    assert (len(occasions), len(sections)) == (7, 3)
    assert len({(row.carta, row.evento, row.secao) for row in records.rows}) == 22 * 7 * 3


def test_its_14_themes_are_spread_evenly(records: Records) -> None:
    themes = Counter(row.tema for row in records.rows)
    assert len(themes) == 14
    assert set(themes.values()) == {33}


def test_its_texts_have_160_6_characters_on_average(records: Records) -> None:
    assert round(records.mean_length, 1) == 160.6
    assert records.mean_length == statistics.fmean(len(row.texto) for row in records.rows)


def test_its_cells_are_clean_as_they_stand_in_the_file(bundled_rows: list[dict[str, str]]) -> None:
    assert all(cell == clean_text(cell) for row in bundled_rows for cell in row.values())


def test_the_default_settings_split_it_392_to_70(records: Records) -> None:
    settings = DataSettings()
    split = split_records(records, settings.validation_fraction, settings.split_seed)
    assert (len(split.train), len(split.validation)) == (392, 70)
    assert set(Counter(row.carta for row in split.validation).values()) == {3, 4}


def test_its_validation_readings_are_always_the_same_ones(records: Records) -> None:
    """What the embedded base has learned from excludes exactly these."""
    ids = " ".join(row.id for row in split_records(records, 0.15, 42).validation)
    assert hashlib.sha256(ids.encode()).hexdigest()[:12] == "e87af709f0d1"
