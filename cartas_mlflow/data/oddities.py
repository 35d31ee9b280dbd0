"""What was odd in a table, in Portuguese: rows left out and why, other spellings, numbers and dates for words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cartas_mlflow.data.records import Records


def describe_oddities(records: Records) -> Iterator[str]:
    """A sentence for each kind of oddity, with lines of the file; nothing where the table is plain."""
    table = records.table
    faulty = [(line, column) for line, column in records.empty if (line, column) in table.defects]
    empty = [place for place in records.empty if place not in faulty]
    if faulty:
        dropped = count_words(len(faulty), "linha descartada", "linhas descartadas")
        why = [f"linha {line}, coluna {column}: {table.defects[line, column]}" for line, column in faulty]
        yield f"{dropped} por erro da planilha ({listed(why, 5, '; ')})"
    if empty:
        line, column = empty[0]
        dropped = count_words(len(empty), "linha descartada", "linhas descartadas")
        yield f"{dropped} por célula vazia (a primeira: linha {line}, coluna {column})"
    if records.repeated:
        dropped = count_words(len(records.repeated), "linha repetida descartada", "linhas repetidas descartadas")
        yield f"{dropped} (no arquivo: {listed(records.repeated)})"
    if table.repeated_headers:
        yield f"Cabeçalho repetido no meio da tabela, deixado de lado (linha {listed(table.repeated_headers)})"
    for name, other in records.spellings.items():
        taken = [f"{spelling} = {chosen}" for spelling, chosen in other.items()]
        yield f"{name}: grafias diferentes da mesma palavra, unidas ({listed(taken, 5, '; ')})"
    for name, kinds in table.kinds.items():
        example = table.examples.get(name)
        what = " e ".join(f"{kind} ({count_words(count, 'célula', 'células')})" for kind, count in kinds.items())
        yield f"{name}: há {what}, que o modelo lê como texto" + (f" (ex.: {example})" if example else "")
    if records.shared_texts:
        yield f"{records.shared_texts} leituras têm um texto que aparece em mais de um registro (mantidas)"


def count_words(number: int, one: str, many: str) -> str:
    """``1 linha``, ``3 linhas``."""
    return f"{number} {one if number == 1 else many}"


def listed(items: Sequence[object], most: int = 10, separator: str = ", ") -> str:
    """The first few, and an ellipsis for the rest."""
    return separator.join(map(str, items[:most])) + (f"{separator}…" if len(items) > most else "")
