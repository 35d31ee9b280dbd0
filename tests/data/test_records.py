"""Records: what is cleaned, what is dropped and said so, what is drawn for validation."""

from __future__ import annotations

import csv
import hashlib
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cartas_mlflow.config import load_config
from cartas_mlflow.data import text_tables
from cartas_mlflow.data.records import Record, load_records, make_record
from cartas_mlflow.data.splitting import sample_records, split_records
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


UNEVEN = {
    "30 readings of 20 cards": ({f"Carta {n:02d}": 2 if n < 10 else 1 for n in range(20)}, 0.15, 5),
    "a dozen": ({"O Sol": 6, "A Lua": 6}, 0.15, 2),
    "a card too rare for its share": ({"O Sol": 100, "A Lua": 2}, 0.15, 16),
    "nearly all for validation": ({"O Sol": 9, "A Lua": 9, "A Torre": 9}, 0.95, 24),
    "less than one a card for validation": ({"O Sol": 9, "A Lua": 9, "A Torre": 9}, 0.05, 2),
    "three single cards": ({"O Sol": 20, "A Lua": 20, "a": 1, "b": 1, "c": 1}, 0.15, 7),
    "nothing but single cards": ({f"Carta {n}": 1 for n in range(20)}, 0.15, 3),
    "one card": ({"O Sol": 40}, 0.15, 6),
}


@pytest.mark.parametrize(("counts", "fraction", "held_out"), UNEVEN.values(), ids=UNEVEN.keys())
def test_small_and_uneven_tables_are_split_as_evenly_as_they_can_be(
    counts: dict[str, int], fraction: float, held_out: int, tmp_path: Path
) -> None:
    rows = [reading(card, f"{card} {number}") for card, count in counts.items() for number in range(count)]
    records = load_records(write(tmp_path / "t.csv", *rows))
    split = split_records(records, fraction, 42)
    train, validation = cards_of(split.train), cards_of(split.validation)
    assert train + validation == Counter(counts)
    assert sum(validation.values()) == held_out
    single = {card for card, count in counts.items() if count == 1}
    if single != counts.keys():
        assert train.keys() == counts.keys()
        assert set(split.single) == single
        shares = {card: held_out * (count - 1) / (len(rows) - len(counts)) for card, count in counts.items()}
        assert all(abs(validation[card] - share) <= 1 for card, share in shares.items())
    assert set(split.unseen) == counts.keys() - train.keys()
    assert split == split_records(records, fraction, 42)


def test_fewer_than_a_dozen_readings_are_no_table(tmp_path: Path) -> None:
    records = load_records(write(tmp_path / "t.csv", *(reading("O Sol", f"{number}") for number in range(11))))
    with pytest.raises(DataError, match=r"t\.csv tem só 11 leituras válidas, e são precisas pelo menos 12; "):
        split_records(records, 0.15, 42)


def test_one_word_in_several_spellings_is_one_word_and_told(tmp_path: Path) -> None:
    cards = ["O Sol", "O Sol", "o sol", "O  SOL.", "A Lua", "A Força", "A Forca"]
    records = load_records(write(tmp_path / "t.csv", *(reading(card, f"{n}") for n, card in enumerate(cards))))
    assert cards_of(records.rows) == {"O Sol": 4, "A Lua": 1, "A Força": 2}
    assert records.spellings == {"carta": {"o sol": "O Sol", "O SOL.": "O Sol", "A Forca": "A Força"}}


def test_a_sample_has_every_card_in_proportion_and_is_the_same_every_time() -> None:
    records = load_records(DataSettings()).rows
    sample = sample_records(records, 66, 42)
    assert set(Counter(record.carta for record in sample).values()) == {3}
    assert [record for record in records if record in sample] == list(sample)
    assert sample_records(records, 66, 42) == sample
    assert sample_records(records, 66, 43) != sample
    assert sample_records(records, 462, 42) == records


def test_a_csv_is_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [reading("O Sol", f"Leitura número {number}, à noite.") for number in range(30)]
    for encoding in ("utf-8-sig", "utf-16", "cp1252"):
        settings = write(tmp_path / "t.csv", *rows)
        text = (tmp_path / "t.csv").read_text(encoding="utf-8")
        (tmp_path / "t.csv").write_bytes(text.replace("\n", "\r\n").encode(encoding))
        whole = load_records(settings)
        with monkeypatch.context() as patch:
            patch.setattr(text_tables, "PIECE", 64)
            pieces = load_records(settings)
        assert (pieces.rows, pieces.lines) == (whole.rows, whole.lines)
        assert pieces.table.dialect == whole.table.dialect
        assert pieces.table.dialect.line_end == "\r\n"
