"""Records: what is cleaned, what is dropped and said so, what is drawn for validation."""

from __future__ import annotations

import csv
import hashlib
import math
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cartas_mlflow.config import load_config
from cartas_mlflow.data.records import Record, load_records, make_record
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import DataSettings

HEADER = ("evento", "carta", "tema", "secao", "texto")


def write(path: Path, *rows: Sequence[str], header: Sequence[str] = HEADER) -> DataSettings:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return DataSettings(path=str(path))


def reading(card: str = "O Sol", text: str = "Abra a janela.") -> tuple[str, ...]:
    return "Ano Novo", card, "Amor", "Luz", text


@pytest.mark.parametrize(
    ("cell", "cleaned"),
    [
        ("  Abra   a\tjanela. ", "Abra a janela."),
        ("Abra\r\na\n\njanela.", "Abra a janela."),
        ("Abra\u00a0a\u2003janela.", "Abra a janela."),
        (unicodedata.normalize("NFD", "Ação e coração"), "Ação e coração"),
    ],
)
def test_white_space_is_collapsed_and_accents_are_composed_in_every_cell(
    cell: str, cleaned: str, tmp_path: Path
) -> None:
    records = load_records(write(tmp_path / "t.csv", (cell,) * 5))
    assert records.rows == (make_record(carta=cleaned, texto=cleaned, evento=cleaned, secao=cleaned, tema=cleaned),)


def test_a_row_with_an_empty_cell_is_dropped_and_told_by_line_and_column(tmp_path: Path) -> None:
    records = load_records(
        write(
            tmp_path / "t.csv",
            reading(text="um\ndois"),
            ("Ano Novo", "O Sol", "Amor", "Luz", " \n "),
            ("Ano Novo", "", "Amor", "Luz", "três"),
            ("", "", "", "", ""),
            ("Ano Novo",),
            reading(text="quatro"),
        )
    )
    assert [row.texto for row in records.rows] == ["um dois", "quatro"]
    assert records.empty == ((4, "texto"), (6, "carta"), (8, "carta"))
    assert records.read == 5


def test_a_row_that_repeats_another_is_dropped_and_told_by_line(tmp_path: Path) -> None:
    rows = [reading(), reading("A Lua"), reading(), reading(text="Abra  a janela. ")]
    records = load_records(write(tmp_path / "t.csv", *rows))
    assert (len(records.rows), records.repeated) == (2, (4, 5))


def test_a_text_that_stands_under_two_prompts_is_kept_and_counted(tmp_path: Path) -> None:
    rows = [reading(), reading("A Lua"), reading(text="Feche a janela.")]
    records = load_records(write(tmp_path / "t.csv", *rows))
    assert (len(records.rows), records.shared_texts, records.repeated) == (3, 2, ())


def test_the_tables_figures_are_those_of_the_rows_that_are_left(tmp_path: Path) -> None:
    rows = [reading(text="12345"), reading("A Lua", "123"), reading("A Torre", "")]
    records = load_records(write(tmp_path / "t.csv", *rows))
    assert (records.cards, records.mean_length, records.source) == (2, 4.0, str(tmp_path / "t.csv"))


def test_an_id_is_the_readings_own_content_wherever_its_row_stands(tmp_path: Path) -> None:
    first = load_records(write(tmp_path / "a.csv", reading(), reading("A Lua")))
    second = load_records(write(tmp_path / "b.csv", reading("A Torre"), reading("A Lua"), reading()))
    content = "\x1f".join(("O Sol", "Ano Novo", "Luz", "Amor", "Abra a janela."))
    assert first.rows[0].id == hashlib.sha256(content.encode()).hexdigest()[:12] == "06dd7051adb8"
    assert {row.id for row in first.rows} < {row.id for row in second.rows}


def test_ids_tell_apart_what_only_the_borders_of_the_fields_tell_apart() -> None:
    assert make_record(carta="ab", texto="x", evento="c").id != make_record(carta="a", texto="x", evento="bc").id
    assert make_record(carta="a", texto="x", evento="b").id != make_record(carta="a", texto="x", tema="b").id


def test_a_table_with_other_names_and_fewer_columns_is_read_through_the_settings(tmp_path: Path) -> None:
    header = ("Arcano", "Leitura", "Área", "Observações")
    settings = write(tmp_path / "t.csv", ("O Sol", "Abra a janela.", "Saúde", ""), header=header)
    columns = {"carta": "Arcano", "texto": "Leitura", "tema": "Área", "evento": "none", "secao": "none"}
    overrides = {f"data.columns.{field}": column for field, column in columns.items()}
    config = load_config(
        overrides={**overrides, "data.path": settings.path, "data.template": "Leia {carta} para {tema}:"}
    )
    records = load_records(config.data)
    assert records.rows == (make_record(carta="O Sol", texto="Abra a janela.", tema="Saúde"),)
    assert records.rows[0].fields() == ("O Sol", "", "", "Saúde")


def test_a_column_name_typed_with_loose_accents_or_spaces_is_found(tmp_path: Path) -> None:
    settings = write(tmp_path / "t.csv", reading(), header=("evento", "carta", "tema", " Seção  da carta", "texto"))
    typed = unicodedata.normalize("NFD", "Seção da carta")
    config = load_config(overrides={"data.path": settings.path, "data.columns.secao": typed})
    assert load_records(config.data).rows[0].secao == "Luz"


def test_a_column_that_no_field_uses_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"carta": "O Sol", "texto": "um", "marcas": ["a", "b"]}\n', encoding="utf-8")
    none = {f"data.columns.{field}": "none" for field in ("evento", "secao", "tema")}
    config = load_config(overrides={**none, "data.path": str(path), "data.template": "{carta}:"})
    assert load_records(config.data).rows == (make_record(carta="O Sol", texto="um"),)


def split_ids(path: Path, rows: Sequence[Mapping[str, str]], seed: int = 42) -> tuple[list[str], list[str]]:
    settings = write(path, *([row[name] for name in HEADER] for row in rows))
    split = split_records(load_records(settings), 0.15, seed)
    return [row.id for row in split.train], [row.id for row in split.validation]


def test_the_split_is_the_same_whatever_the_order_of_the_rows(
    bundled_rows: list[dict[str, str]], tmp_path: Path
) -> None:
    expected = split_ids(tmp_path / "t.csv", bundled_rows)
    for seed in range(3):
        shuffled = random.Random(seed).sample(bundled_rows, len(bundled_rows))
        assert shuffled != bundled_rows
        assert split_ids(tmp_path / "t.csv", shuffled) == expected


def test_the_split_changes_with_its_seed_and_only_with_it(bundled_rows: list[dict[str, str]], tmp_path: Path) -> None:
    assert split_ids(tmp_path / "t.csv", bundled_rows) == split_ids(tmp_path / "t.csv", bundled_rows)
    assert split_ids(tmp_path / "t.csv", bundled_rows) != split_ids(tmp_path / "t.csv", bundled_rows, seed=43)


def test_the_split_loses_nothing_and_shares_nothing(bundled_rows: list[dict[str, str]], tmp_path: Path) -> None:
    train, validation = split_ids(tmp_path / "t.csv", bundled_rows)
    assert len({*train, *validation}) == len(train) + len(validation) == len(bundled_rows)
    assert train == sorted(train)
    assert validation == sorted(validation)


def cards_of(rows: Sequence[Record]) -> Counter[str]:
    return Counter(row.carta for row in rows)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("fraction", "held_out"), [(0.15, 70), (0.05, 24), (0.5, 231), (0.94, 435)])
def test_every_card_stands_on_both_sides_in_its_share(fraction: float, held_out: int, seed: int) -> None:
    split = split_records(load_records(DataSettings()), fraction, seed)
    train, validation = cards_of(split.train), cards_of(split.validation)
    assert sum(validation.values()) == held_out
    assert len(train) == len(validation) == 22
    assert max(validation.values()) - min(validation.values()) <= 1


def test_the_smallest_table_that_can_be_split_is_split(tmp_path: Path) -> None:
    rows = [reading(card, text) for card in ("O Sol", "A Lua") for text in ("um", "dois")]
    split = split_records(load_records(write(tmp_path / "t.csv", *rows)), 0.15 * 3, 42)
    assert cards_of(split.train) == cards_of(split.validation) == {"O Sol": 1, "A Lua": 1}


def table_of(path: Path, counts: Sequence[int]) -> DataSettings:
    rows = [
        reading(f"Carta {card:02d}", f"{card} {number}") for card, count in enumerate(counts) for number in range(count)
    ]
    return write(path, *rows)


@pytest.mark.parametrize(
    ("counts", "fraction", "held_out"),
    [
        ([100, 2], 0.9, 92),
        ([1] * 10 + [2] * 10, 0.15, 5),
        ([1] * 3 + [3] * 19, 0.15, 9),
        ([1] * 19 + [11], 0.15, 5),
        ([1] * 19 + [11], 0.5, 10),
        ([13], 0.15, 2),
        ([3] * 4, 0.01, 1),
        ([2, 1], 0.5, 1),
        ([1, 2, 40, 2, 1], 0.5, 23),
    ],
)
def test_a_small_or_uneven_table_is_split_as_evenly_as_it_can_be(
    counts: list[int], fraction: float, held_out: int, tmp_path: Path
) -> None:
    split = split_records(load_records(table_of(tmp_path / "t.csv", counts)), fraction, 42)
    train, validation = cards_of(split.train), cards_of(split.validation)
    assert sum(validation.values()) == held_out
    assert len(train) == len(counts)  # every card can be learned
    assert len(split.single) == counts.count(1)
    assert split.unseen == ()
    assert not set(split.single) & set(validation)


def test_where_every_card_has_one_reading_some_can_only_be_validated(tmp_path: Path) -> None:
    split = split_records(load_records(table_of(tmp_path / "t.csv", [1] * 13)), 0.15, 42)
    assert (len(split.train), len(split.validation), len(split.unseen)) == (11, 2, 2)


@pytest.mark.parametrize("seed", range(8))
def test_a_table_that_scikit_learn_can_split_is_split_as_scikit_learn_splits_it(seed: int) -> None:
    from sklearn.model_selection import train_test_split

    records = load_records(DataSettings())
    drawn = random.Random(seed)
    rows = tuple(drawn.sample(records.rows, drawn.randint(200, 460)))
    fraction = drawn.choice([0.15, 0.2, 0.35])
    ordered = sorted(rows, key=lambda row: row.id)
    _, expected = train_test_split(
        ordered,
        test_size=math.ceil(len(rows) * fraction),
        random_state=seed,
        stratify=[row.carta for row in ordered],
    )
    assert set(split_records(replace(records, rows=rows), fraction, seed).validation) == set(expected)


def test_a_single_reading_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tem só 1 leitura"):
        split_records(load_records(table_of(tmp_path / "t.csv", [1])), 0.15, 42)
