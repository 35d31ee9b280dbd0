"""Table -> validated, cleaned records."""

from __future__ import annotations

import hashlib
import statistics
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.config import find_project_file
from cartas_mlflow.data.grids import FORMULA
from cartas_mlflow.data.matching import clean_name
from cartas_mlflow.data.tables import Table, TableReader
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import RECORD_FIELDS, DataSettings


@dataclass(frozen=True, slots=True)
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
        return self.carta, self.evento, self.secao, self.tema


@dataclass(frozen=True)
class Records:
    """The usable rows in file order, and what became of the others (line numbers are those of the file)."""

    rows: tuple[Record, ...]
    source: str
    table: Table
    empty: tuple[tuple[int, str], ...]
    """(line, column that is empty) of each dropped row."""
    repeated: tuple[int, ...]
    """Lines equal to an earlier one in every field, dropped: on both sides of the split they would leak."""
    shared_texts: int
    """Rows whose text also stands under another prompt (kept)."""
    spellings: Mapping[str, Mapping[str, str]]
    """Field -> other spelling -> the one that was taken for it, the most frequent of them."""
    lines: Sequence[int]
    """Line of each row."""

    @property
    def read(self) -> int:
        """Rows of the table, the dropped ones too."""
        return self.table.read

    @property
    def cards(self) -> int:
        return len({row.carta for row in self.rows})

    @property
    def mean_length(self) -> float:
        """Mean length of the texts, in characters."""
        return statistics.fmean(len(row.texto) for row in self.rows)


def load_records(settings: DataSettings) -> Records:
    """Read, clean and validate the table that the settings name.

    A row with an empty required cell, or equal to an earlier row, is dropped and reported. Cards, occasions, sections
    and themes that differ only in case, accents or punctuation get one spelling, the most frequent.

    Raises:
        DataError: see :func:`~cartas_mlflow.data.tables.read_table`; no row left.
    """
    path = find_project_file(settings.path)
    names = {name: column for name, column in settings.columns.model_dump().items() if column is not None}
    reader = TableReader(path, names, sheet=settings.sheet)
    counts = {name: Counter[str]() for name in RECORD_FIELDS if name in reader.fields}
    complete: list[tuple[str, ...]] = []
    places = array("q")
    empty: list[tuple[int, str]] = []
    for line, cells in reader:
        values = {name: cells.get(column, "") for name, column in reader.fields.items()}
        for name, counter in counts.items():
            counter[values[name]] += 1
        missing = next((reader.fields[name] for name, value in values.items() if not value), None)
        if missing is None:
            complete.append(tuple(values.values()))
            places.append(line)
        else:
            empty.append((line, missing))
    table, spellings = reader.table(), _spellings(counts)
    rows: list[Record] = []
    lines = array("q")
    repeated: list[int] = []
    seen: set[str] = set()
    for line, values in zip(places, complete, strict=True):
        named = zip(table.fields, values, strict=True)
        record = make_record(**{name: spellings.get(name, {}).get(value, value) for name, value in named})
        if record.id in seen:
            repeated.append(line)
            continue
        seen.add(record.id)
        rows.append(record)
        lines.append(line)
    if not rows:
        raise DataError(_nothing_left(path, table, empty))
    shared = _count_shared(rows)
    return Records(tuple(rows), str(path), table, tuple(empty), tuple(repeated), shared, spellings, lines)


def _count_shared(rows: Sequence[Record]) -> int:
    """Rows whose text another row has too; a text is known by its 64-bit hash."""
    import numpy as np

    _, counts = np.unique(np.fromiter((hash(row.texto) for row in rows), np.int64, len(rows)), return_counts=True)
    return int(counts[counts > 1].sum())


def _spellings(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, str]]:
    """Field -> other spelling -> the one that is taken for it.

    Args:
        counts: field -> value -> how often, in the order of the rows.
    """
    spellings: dict[str, dict[str, str]] = {}
    for name, counter in counts.items():
        groups: dict[str, list[str]] = {}
        for value in counter:
            if key := clean_name(value):
                groups.setdefault(key, []).append(value)
        chosen = {
            value: max(group, key=counter.__getitem__) for group in groups.values() for value in group if len(group) > 1
        }
        other = {value: taken for value, taken in chosen.items() if value != taken}
        if other:
            spellings[name] = other
    return spellings


def _nothing_left(path: Path, table: Table, empty: Sequence[tuple[int, str]]) -> str:
    columns = ", ".join(table.fields.values())
    formulas = [(line, column) for (line, column), why in table.defects.items() if why == FORMULA]
    if formulas:
        line, column = min(formulas)
        return (
            f"{path}: a coluna {column} tem fórmulas que ainda não foram calculadas ({len(formulas)} células, a partir "
            f"da linha {line}); abra o arquivo no Excel ou no LibreOffice, salve-o e tente de novo."
        )
    why = "só há o cabeçalho"
    if empty:
        line, column = empty[0]
        defect = table.defects.get((line, column))
        what = f": {defect}" if defect else ""
        why = f"todas têm alguma célula vazia (a primeira: linha {line}, coluna {column}{what})"
    return f"{path} não tem nenhuma leitura válida: {why}; preencha as colunas {columns}."


def make_record(carta: str, texto: str, evento: str = "", secao: str = "", tema: str = "") -> Record:
    """A record with the id that its fields give."""
    content = "\x1f".join((carta, evento, secao, tema, texto))
    return Record(hashlib.sha256(content.encode()).hexdigest()[:12], carta, evento, secao, tema, texto)
