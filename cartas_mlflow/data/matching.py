"""Names as people write them: the same whatever the case, the accents, the spaces, the punctuation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from cartas_mlflow.data.cells import clean_text, is_plain

OTHER_NAMES = {
    "carta": ("arcano", "arcano maior", "arcanos", "cartas", "lamina", "card", "taro", "tarot"),
    "evento": ("ocasiao", "ocasioes", "quando", "momento", "eventos", "acontecimento", "situacao", "contexto", "event"),
    "secao": ("parte", "partes", "secoes", "sessao", "bloco", "aspecto", "polaridade", "posicao", "section"),
    "tema": ("assunto", "assuntos", "temas", "topico", "topicos", "area", "area da vida", "campo da vida", "theme"),
    "texto": (
        "leitura", "interpretacao", "mensagem", "textos", "leituras", "interpretacoes", "significado", "descricao",
        "conteudo", "resposta", "text",
    ),
}  # fmt: skip
"""Field -> common other names of its column, cleaned."""
_ARTICLES = {"a", "o", "as", "os"}
_ROMAN = re.compile(r"(?:[ivxl]+|\d{1,2})")


def clean_name(name: str) -> str:
    """``" SEÇÃO: "`` -> ``secao``: lower case, no accents, words of letters and digits, one space between them."""
    if is_plain(name):
        return " ".join(name.translate(_words_of_signs()).split())
    return " ".join(_words(clean_text(name)).split())


def match_columns(names: Mapping[str, str], columns: Sequence[str]) -> dict[str, int]:
    """Which column holds which field, as far as that is plain.

    First the name that was asked for, then a common other name, then a title that speaks of one (``Texto da leitura``:
    its first known word counts). Two columns that are equally good are left open; the name itself, alone, is not.

    Args:
        names: field -> the column's name according to the settings.
        columns: the header's cells.

    Returns:
        field -> place of its column.
    """
    cleaned = [clean_name(column) for column in columns]
    found: dict[str, int] = {}
    for field, name in names.items():
        places = [place for place, column in enumerate(cleaned) if column and column == clean_name(name)]
        if len(places) == 1:
            found[field] = places[0]
    for known in (_is_other_name, _speaks_of):
        for field, name in names.items():
            if field in found or clean_name(name) != field or field in cleaned:
                continue  # who names a column means that one
            free = [place for place in range(len(cleaned)) if place not in found.values()]
            places = [place for place in free if known(cleaned[place], field)]
            if len(places) == 1:
                found[field] = places[0]
    return found


def repeated_names(names: Mapping[str, str], columns: Sequence[str]) -> list[str]:
    """The asked-for names that more than one column has."""
    cleaned = [clean_name(column) for column in columns]
    return [name for name in names.values() if cleaned.count(clean_name(name)) > 1]


def find_value(text: str, known: Iterable[str]) -> str | None:
    """The known value that is meant: ``o sol``, ``Sol`` and ``XIX - O Sol`` are ``O Sol``; None for none, or two."""
    values = list(dict.fromkeys(known))
    if text in values:
        return text
    for form in (clean_name, _without_article, _without_number):
        wanted = form(text)
        same = [value for value in values if wanted and form(value) == wanted]
        if len(same) == 1:
            return same[0]
        if same:
            return None
    return None


def _words(text: str) -> str:
    """Lower case, no accents, white space for what is no part of a word."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return re.sub(r"[\W_]", " ", "".join(c for c in plain if not unicodedata.combining(c)))


@cache
def _words_of_signs() -> dict[int, str]:
    """The words of each sign that a plain text may have: they do not hang on its neighbours."""
    return {code: _words(chr(code)) for code in range(0x2100) if is_plain(chr(code))}


def _is_other_name(column: str, field: str) -> bool:
    return column in OTHER_NAMES[field]


def _speaks_of(column: str, field: str) -> bool:
    first = next((known for word in column.split() if (known := _field_of(word)) is not None), None)
    return first == field


def _field_of(word: str) -> str | None:
    return next((field for field, others in OTHER_NAMES.items() if word == field or word in others), None)


def _without_article(text: str) -> str:
    first, _, rest = clean_name(text).partition(" ")
    return rest if rest and first in _ARTICLES else clean_name(text)


def _without_number(text: str) -> str:
    words = clean_name(text).split()
    while len(words) > 1 and _ROMAN.fullmatch(words[0]):
        words = words[1:]
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    return " ".join(words)
