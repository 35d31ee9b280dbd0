"""Table -> validated, cleaned records."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cartas_mlflow.config import find_project_file
from cartas_mlflow.data.cleaning import clean_text
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
    lines: tuple[int, ...]
    """Where each of the rows stands."""
    source: str
    table: Table
    """How the file was read; without its rows."""
    read: int
    empty: tuple[tuple[int, str], ...]
    """(line, column that is empty) of each dropped row."""
    errors: tuple[tuple[int, str, str], ...]
    """(line, column, error) of each row dropped for a cell that holds an error."""
    formulas: tuple[tuple[int, str], ...]
    """(line, column) of each row dropped for a formula without a value."""
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

    @property
    def odd(self) -> bool:
        """There was something to tell of the file or of its rows."""
        return bool(self.table.notes or self.empty or self.errors or self.formulas or self.repeated)


def load_records(settings: DataSettings) -> Records:
    """Read, clean and validate the table that the settings name.

    Every used cell is cleaned (:func:`~cartas_mlflow.data.cleaning.clean_text`). A row with an empty required cell, or
    equal to an earlier row, is dropped and reported; one without any used cell does not count.

    Raises:
        DataError: see :func:`~cartas_mlflow.data.tables.read_table`; columns that are missing or hold no text; no row
            left.
    """
    path = find_project_file(settings.path)
    table = read_table(path, settings.sheet, settings.columns)
    if table.open is not None:
        raise DataError(table.open)
    for column in table.fields.values():
        if column in table.not_text:
            raise DataError(
                f"{path}, linha {table.not_text[column]}: o campo {column} deve ser um texto, não uma lista, um "
                "objeto nem bytes."
            )
    errors = {line: (line, column, error) for line, column, error in reversed(table.errors)}
    formulas = {line: (line, column) for line, column in reversed(table.formulas)}
    rows: list[Record] = []
    lines: list[int] = []
    empty: list[tuple[int, str]] = []
    repeated: list[int] = []
    seen: set[str] = set()
    read = 0
    for line, cells in table.rows:
        values = {field: clean_text(cells.get(column, "")) for field, column in table.fields.items()}
        left_out = line in errors or line in formulas
        if not any(values.values()) and not left_out:
            continue
        read += 1
        if left_out:
            continue
        missing = next((table.fields[field] for field, value in values.items() if not value), None)
        if missing is not None:
            empty.append((line, missing))
            continue
        record = make_record(**values)
        if record.id in seen:
            repeated.append(line)
            continue
        seen.add(record.id)
        rows.append(record)
        lines.append(line)
    if not rows:
        raise DataError(_why_nothing(str(path), table, errors, formulas, empty))
    texts = Counter(row.texto for row in rows)
    return Records(
        tuple(rows),
        tuple(lines),
        str(path),
        replace(table, rows=()),
        read,
        tuple(empty),
        tuple(errors[line] for line in sorted(errors)),
        tuple(formulas[line] for line in sorted(formulas) if line not in errors),
        tuple(repeated),
        sum(count for count in texts.values() if count > 1),
    )


def _why_nothing(
    path: str,
    table: Table,
    errors: Mapping[int, tuple[int, str, str]],
    formulas: Mapping[int, tuple[int, str]],
    empty: Sequence[tuple[int, str]],
) -> str:
    if formulas:
        line, column = min(formulas.values())
        return (
            f"{path}: a coluna {column} tem fórmulas que nenhum programa calculou ainda, sem valor no arquivo "
            f"({len(formulas)}, a primeira na linha {line}); abra-o no Excel ou no LibreOffice e salve de novo."
        )
    why = "só há o cabeçalho"
    if errors:
        line, column, error = min(errors.values())
        why = f"as células têm erros de planilha (o primeiro: linha {line}, coluna {column}, {error})"
    elif empty:
        line, column = empty[0]
        why = f"todas têm alguma célula vazia (a primeira: linha {line}, coluna {column})"
    return f"{path} não tem nenhuma leitura válida: {why}; preencha as colunas {', '.join(table.fields.values())}."


def make_record(carta: str, texto: str, evento: str = "", secao: str = "", tema: str = "") -> Record:
    """A record with the id that its fields give."""
    content = "\x1f".join((carta, evento, secao, tema, texto))
    return Record(hashlib.sha256(content.encode()).hexdigest()[:12], carta, evento, secao, tema, texto)
