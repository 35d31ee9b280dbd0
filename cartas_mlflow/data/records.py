"""Table -> validated, cleaned records -> stratified split."""

from __future__ import annotations

import difflib
import hashlib
import math
import statistics
from collections import Counter
from dataclasses import dataclass

from cartas_mlflow.config import find_project_file
from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.data.tables import Table, read_table
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import RECORD_FIELDS, ColumnNames, DataSettings


@dataclass(frozen=True)
class Record:
    """One reading. ``id``: 12 hex digits of the SHA-256 of its fields, so it does not depend on the row's place.

    A field that the table does not have is ``""``.
    """

    id: str
    carta: str
    evento: str
    secao: str
    tema: str
    texto: str

    def fields(self) -> tuple[str, ...]:
        """(carta, evento, secao, tema)."""
        return tuple(getattr(self, name) for name in RECORD_FIELDS)


@dataclass(frozen=True)
class Records:
    """The usable rows in file order, and what became of the others (line numbers are those of the file)."""

    rows: tuple[Record, ...]
    source: str
    read: int
    empty: tuple[tuple[int, str], ...]
    """(line, column that is empty) of each dropped row."""
    repeated: tuple[int, ...]
    """Lines equal to an earlier one in every field, dropped: on both sides of the split they would leak."""
    shared_texts: int
    """Rows whose text also stands under another prompt (kept)."""

    @property
    def cards(self) -> int:
        return len({row.carta for row in self.rows})

    @property
    def mean_length(self) -> float:
        """Mean length of the texts, in characters."""
        return statistics.fmean(len(row.texto) for row in self.rows)


@dataclass(frozen=True)
class Split:
    """The same rows whatever their order in the file; both sides are sorted by id."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]


def load_records(settings: DataSettings) -> Records:
    """Read, clean and validate the table that the settings name.

    White space is collapsed and Unicode normalised to NFC in every used cell. A row with an empty required cell, or
    equal to an earlier row, is dropped and reported.

    Raises:
        DataError: see :func:`~cartas_mlflow.data.tables.read_table`; a column that is missing or holds no text; no row
            left.
    """
    path = find_project_file(settings.path)
    table = read_table(path, settings.sheet)
    columns = _match_columns(str(path), table, settings.columns)
    rows: list[Record] = []
    empty: list[tuple[int, str]] = []
    repeated: list[int] = []
    seen: set[str] = set()
    for line, cells in table.rows:
        values = {field: clean_text(cells.get(column, "")) for field, column in columns.items()}
        missing = next((columns[field] for field, value in values.items() if not value), None)
        if missing is not None:
            empty.append((line, missing))
            continue
        record = make_record(**values)
        if record.id in seen:
            repeated.append(line)
            continue
        seen.add(record.id)
        rows.append(record)
    if not rows:
        why = "só há o cabeçalho"
        if empty:
            line, column = empty[0]
            why = f"todas têm alguma célula vazia (a primeira: linha {line}, coluna {column})"
        raise DataError(
            f"{path} não tem nenhuma leitura válida: {why}; preencha as colunas {', '.join(columns.values())}."
        )
    texts = Counter(row.texto for row in rows)
    shared = sum(count for count in texts.values() if count > 1)
    return Records(tuple(rows), str(path), len(table.rows), tuple(empty), tuple(repeated), shared)


def make_record(carta: str, texto: str, evento: str = "", secao: str = "", tema: str = "") -> Record:
    """A record with the id that its fields give."""
    content = "\x1f".join((carta, evento, secao, tema, texto))
    return Record(hashlib.sha256(content.encode()).hexdigest()[:12], carta, evento, secao, tema, texto)


def split_records(records: Records, fraction: float, seed: int) -> Split:
    """Stratified by ``carta``, independent of the order of the rows in the file.

    Args:
        fraction: share of the rows for validation, rounded up (0.15 of 462 -> 70).

    Raises:
        DataError: a card with too few readings to stand on both sides, or a side smaller than the number of cards.
    """
    from sklearn.model_selection import train_test_split

    total = len(records.rows)
    held_out = math.ceil(total * fraction)
    counts = Counter(row.carta for row in records.rows)
    few = sorted(card for card, count in counts.items() if count < 2)
    if few:
        raise DataError(
            f"{records.source}: a carta {few[0]} tem só 1 leitura"
            + (f" (e outras {len(few) - 1} também)" if len(few) > 1 else "")
            + "; a divisão por carta precisa de pelo menos 2 de cada: acrescente leituras ou retire a carta."
        )
    if min(held_out, total - held_out) < len(counts):
        raise DataError(
            f"{records.source}: {total} leituras com data.validation_fraction={fraction} dão {held_out} para "
            f"validação e {total - held_out} para treino, mas há {len(counts)} cartas e cada lado precisa de uma "
            "de cada; acrescente leituras ou mude a fração."
        )
    ordered = sorted(records.rows, key=_by_id)
    train, validation = train_test_split(
        ordered, test_size=held_out, random_state=seed, stratify=[row.carta for row in ordered]
    )
    for side, rows in (("treino", train), ("validação", validation)):
        absent = sorted(counts.keys() - {row.carta for row in rows})
        if absent:
            raise DataError(
                f"{records.source}: com data.validation_fraction={fraction} a carta {absent[0]}, que tem "
                f"{counts[absent[0]]} leituras, fica fora do lado de {side}; acrescente leituras dela, retire-a ou "
                "mude a fração."
            )
    return Split(tuple(sorted(train, key=_by_id)), tuple(sorted(validation, key=_by_id)))


def _by_id(record: Record) -> str:
    return record.id


def _match_columns(source: str, table: Table, names: ColumnNames) -> dict[str, str]:
    wanted = {field: clean_text(column) for field, column in names.model_dump().items() if column is not None}
    for field, column in wanted.items():
        if column in table.not_text:
            raise DataError(
                f"{source}, linha {table.not_text[column]}: o campo {column} deve ser um texto, não uma lista, um "
                "objeto nem bytes."
            )
        if column not in table.columns:
            raise DataError(_missing_column_message(source, table, field, column))
    return wanted


def _missing_column_message(source: str, table: Table, field: str, column: str) -> str:
    lower = {name.casefold(): name for name in table.columns if name}
    near = difflib.get_close_matches(column.casefold(), lower, n=1, cutoff=0.6)
    return (
        f"{source} não tem a coluna {column}; as colunas são: {', '.join(lower.values())}. Indique a certa com "
        f"data.columns.{field}={lower[near[0]] if near else 'NOME'}"
        + (", ou none se a tabela não tem esse campo." if field not in {"carta", "texto"} else ".")
    )
