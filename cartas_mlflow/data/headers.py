"""Where in a file the table stands: its sheet, the line of its header, the columns of its fields."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.data.cells import cell_text, clean_text
from cartas_mlflow.data.grids import HEADER_LINES, Grid
from cartas_mlflow.data.matching import clean_name, match_columns, repeated_names
from cartas_mlflow.errors import DataError


@dataclass(frozen=True)
class Header:
    """A line of a grid taken for its header. ``place``: in ``grid.head``; ``fields``: field -> place of its column."""

    grid: Grid
    place: int
    fields: Mapping[str, int]

    @property
    def titles(self) -> list[str]:
        return [clean_text(cell_text(cell)) for cell in self.grid.head[self.place][1]]

    @property
    def line(self) -> int:
        """In the file, from 1."""
        return self.grid.head[self.place][0]


def find_table(
    path: Path, grids: Sequence[Grid], names: Mapping[str, str], *, sheet: str | None, optional: Sequence[str]
) -> tuple[Header, tuple[str, ...]]:
    """The header, and Portuguese sentences on what was not plain.

    Args:
        names: field -> name of its column.
        sheet: name of the sheet; None: the first that has the columns, visible ones before hidden ones.
        optional: fields that the table need not have.

    Raises:
        DataError: no such sheet, nothing in it, or columns that are not there: all of them, with the line to paste.
    """
    chosen = sorted(_sheets(path, grids, sheet), key=lambda grid: grid.hidden)
    headers = [_find_header(grid, names) for grid in chosen if grid.head]
    if not headers:
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    needed = [name for name in names if name not in optional]
    complete = [header for header in headers if set(needed) <= header.fields.keys()]
    header = max(complete or headers, key=lambda header: len(header.fields))
    if not complete:
        raise DataError(_missing_columns(path, header, names, needed))
    others = [other.grid for other in complete if other is not header and len(other.fields) == len(header.fields)]
    return header, _remarks(header, names, others, several=len(headers) > 1)


def _sheets(path: Path, grids: Sequence[Grid], sheet: str | None) -> Sequence[Grid]:
    if sheet is None:
        return grids
    named = [grid for grid in grids if grid.sheet is not None and clean_name(grid.sheet) == clean_name(sheet)]
    if not named:
        known = ", ".join(f"{grid.sheet}{_mark(grid)}" for grid in grids if grid.sheet)
        mend = f"escolha data.sheet entre: {known}." if known else "retire data.sheet."
        raise DataError(f"{path} não tem a planilha {sheet}; {mend}")
    return [grid for grid in named if grid.sheet == sheet] or named


def _find_header(grid: Grid, names: Mapping[str, str]) -> Header:
    """The first line that has every column; or else the first that has the most of them."""
    best = Header(grid, 0, {})
    for place, (line, cells) in enumerate(grid.head):
        if line > HEADER_LINES and place:
            break
        titles = _without_empty_twins(grid, place, [clean_text(cell_text(cell)) for cell in cells])
        header = Header(grid, place, match_columns(names, titles))
        if len(header.fields) > len(best.fields):
            best = header
        if len(header.fields) == len(names) or grid.named:
            break
    return best


def _without_empty_twins(grid: Grid, place: int, titles: Sequence[str]) -> list[str]:
    """Of columns with one name those without a single value do not count, if another has one."""
    keys = [clean_name(title) for title in titles]
    empty = {column for column, key in enumerate(keys) if key and keys.count(key) > 1}
    if not empty:
        return list(titles)
    for _, cells in itertools.islice(grid.rows, place + 1, None):
        empty -= {column for column in empty if column < len(cells) and cell_text(cells[column]).strip()}
        if not empty:
            break
    filled = {key for column, key in enumerate(keys) if column not in empty}
    return ["" if column in empty and keys[column] in filled else title for column, title in enumerate(titles)]


def _remarks(header: Header, names: Mapping[str, str], others: Sequence[Grid], *, several: bool) -> tuple[str, ...]:
    grid, titles = header.grid, header.titles
    said = [grid.remark] if grid.remark else []
    if grid.sheet is not None and (several or grid.hidden):
        beside = f"; para outra, data.sheet: {', '.join(str(other.sheet) for other in others)}" if others else ""
        said.append(f"Planilha lida: {clean_text(grid.sheet)}{_mark(grid)}{beside}")
    if header.line > 1 and not grid.named:
        said.append(f"Cabeçalho na linha {header.line}")
    taken = {name: titles[place] for name, place in header.fields.items()}
    other = {name: title for name, title in taken.items() if clean_name(title) != clean_name(names[name])}
    if other:
        understood = ", ".join(f"{name} = {title}" for name, title in other.items())
        said.append(f"Colunas entendidas: {understood}. Para fixá-las: {_paste(other)}")
    return tuple(said)


def _mark(grid: Grid) -> str:
    return " (oculta)" if grid.hidden else ""


def _paste(titles: Mapping[str, str]) -> str:
    """The settings as they are typed after a command."""
    return " ".join(f"-P data.columns.{name}={_quoted(title)}" for name, title in titles.items())


def _quoted(title: str) -> str:
    """As any shell takes it, and none changes it; plain words stay plain."""
    if all(character.isalnum() or character in "_-." for character in title):
        return title
    return '"' + "".join(f"\\{sign}" if sign in '"\\$`' else sign for sign in title) + '"'


def _missing_columns(path: Path, header: Header, names: Mapping[str, str], needed: Sequence[str]) -> str:
    """One sentence with everything that is open, and the line to paste."""
    titles = [title for title in header.titles if title]
    twice = repeated_names({name: names[name] for name in needed}, titles)
    if twice:
        return f"{path}: a coluna {twice[0]} aparece mais de uma vez no cabeçalho; dê nomes diferentes."
    missing = [name for name in needed if name not in header.fields]
    free = [title for title in titles if title not in {header.titles[place] for place in header.fields.values()}]
    words = []
    for name in missing:
        near = difflib.get_close_matches(clean_name(names[name]), list(map(clean_name, free)), n=1, cutoff=0.6)
        title = next((title for title in free if near and clean_name(title) == near[0]), None)
        if title is not None:
            free.remove(title)
        words.append(f"-P data.columns.{name}={_quoted(title) if title else 'NOME'}")
    where = f" (planilha {header.grid.sheet})" if header.grid.sheet else ""
    shown = ", ".join(title if len(title) <= 60 else f"{title[:60]}…" for title in titles[:20])
    absent = [name for name in missing if name not in {"carta", "texto"}]
    return (
        f"{path}{where} não tem a coluna {' nem '.join(names[name] for name in missing)}; as colunas são: {shown}"
        f"{', …' if len(titles) > 20 else ''}. Indique a certa com {' '.join(words)}"
        + (
            f", ou none se a tabela não tem {'esse campo' if len(absent) == 1 else 'esses campos'} (e então um "
            "-P data.template sem ele)."
            if absent
            else "."
        )
    )
