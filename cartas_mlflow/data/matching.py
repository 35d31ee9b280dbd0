"""Names as people type them: found without regard to case, accents, spaces, punctuation and invisible characters."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from cartas_mlflow.data.cleaning import clean_text

_ARTICLES = ("os ", "as ", "o ", "a ")


def clean_name(name: str) -> str:
    """What two spellings of one name have in common: ``" Seção_ "`` and ``"SECAO"`` both give ``"secao"``.

    A name without letters and digits keeps its signs, so that two of them do not become one.
    """
    plain = _without_accents(name)
    return "".join(character for character in plain if character.isalnum()) or plain


def match_name(name: str, known: Iterable[str]) -> str | None:
    """The one known name that is meant; None where there is none, or more than one.

    The exact name comes first, then the same cleaned name, then the same but for a leading article: ``"sol"`` -> O Sol.
    """
    names = list(dict.fromkeys(known))
    if name in names:
        return name
    for key in (clean_name, _without_article):
        wanted = key(name)
        found = [other for other in names if wanted and key(other) == wanted]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def nearest_names(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Known names, the most similar first, none below ``cutoff`` (0 to 1, difflib's ratio of the cleaned names)."""
    keys = {clean_name(other): other for other in known}
    return [keys[key] for key in difflib.get_close_matches(clean_name(name), keys, n=count, cutoff=cutoff)]


def _without_article(name: str) -> str:
    plain = _without_accents(name)
    article = next((article for article in _ARTICLES if plain.startswith(article)), "")
    return clean_name(plain[len(article) :])


def _without_accents(name: str) -> str:
    letters = unicodedata.normalize("NFKD", clean_text(name).casefold())
    return clean_text("".join(letter for letter in letters if not unicodedata.combining(letter)))
