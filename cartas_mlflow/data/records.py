"""Table -> validated, cleaned records."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.config import find_project_file
from cartas_mlflow.data.grids import FORMULA
from cartas_mlflow.data.matching import clean_name
from cartas_mlflow.data.tables import Table, read_table
from cartas_mlflow.errors import DataError
from cartas_mlflow.settings import RECORD_FIELDS, DataSettings


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
    table: Table
    empty: tuple[tuple[int, str], ...]
    """(line, column that is empty) of each dropped row."""
    repeated: tuple[int, ...]
    """Lines equal to an earlier one in every field, dropped: on both sides of the split they would leak."""
    shared_texts: int
    """Rows whose text also stands under another prompt (kept)."""
    spellings: Mapping[str, Mapping[str, str]]
    """Field -> other spelling -> the one that was taken for it, the most frequent of them."""
    lines: tuple[int, ...]
    """Line of each row."""

    @property
    def read(self) -> int:
        """Rows of the table, the dropped ones too."""
        return len(self.table.rows)

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
    table = read_table(path, names, sheet=settings.sheet)
    spellings = _spellings(table)
    rows: list[Record] = []
    lines: list[int] = []
    empty: list[tuple[int, str]] = []
    repeated: list[int] = []
    seen: set[str] = set()
    for line, cells in table.rows:
        values = {name: cells.get(column, "") for name, column in table.fields.items()}
        missing = next((table.fields[name] for name, value in values.items() if not value), None)
        if missing is not None:
            empty.append((line, missing))
            continue
        record = make_record(**{name: spellings.get(name, {}).get(value, value) for name, value in values.items()})
        if record.id in seen:
            repeated.append(line)
            continue
        seen.add(record.id)
        rows.append(record)
        lines.append(line)
    if not rows:
        raise DataError(_nothing_left(path, table, empty))
    texts = Counter(row.texto for row in rows)
    shared = sum(count for count in texts.values() if count > 1)
    return Records(tuple(rows), str(path), table, tuple(empty), tuple(repeated), shared, spellings, tuple(lines))


def _spellings(table: Table) -> dict[str, dict[str, str]]:
    spellings: dict[str, dict[str, str]] = {}
    for name in RECORD_FIELDS:
        if name not in table.fields:
            continue
        counts = Counter(cells.get(table.fields[name], "") for _, cells in table.rows)
        groups: dict[str, list[str]] = {}
        for value in counts:
            if clean_name(value):
                groups.setdefault(clean_name(value), []).append(value)
        chosen = {
            value: max(group, key=lambda value: counts[value])
            for group in groups.values()
            for value in group
            if len(group) > 1
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
