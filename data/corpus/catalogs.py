"""Paragraphs out of message catalogues (gettext .mo and .po)."""

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path


def read_mo(folder: Path) -> Iterator[str]:
    """Yield every translated message of the pt_BR catalogues under ``folder``, long ones split at line ends."""
    for path in sorted(folder.rglob("pt_BR/LC_MESSAGES/*.mo")):
        for source, text in _load_mo(path).items():
            if source and text and text != source:
                yield from text.splitlines()


def read_mo_sources(folder: Path) -> Iterator[str]:
    """Yield the English messages that some catalogue under ``folder`` translates and the pt_BR ones do not.

    A catalogue carries the original of every message: where few of a game's texts have been put into Portuguese, the
    fullest catalogues of other languages hold the rest in English.
    """
    translated, sources = set(), {}
    for path in sorted(folder.rglob("LC_MESSAGES/*.mo")):
        try:
            known = _load_mo(path)
        except ValueError:  # neglected: no encoding or plural rule named; the other languages have its originals
            continue
        sources.update(dict.fromkeys(known))
        if path.parts[-3] == "pt_BR":
            translated.update(source for source, text in known.items() if text and text != source)
    for source in sources:
        if source not in translated:
            yield from source.splitlines()


def read_po(folder: Path) -> Iterator[str]:
    """Yield every translated message of the ``*.pt_BR.po`` files under ``folder``."""
    for path in sorted(folder.rglob("*.pt_BR.po")):
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r'^msgstr ((?:"(?:[^"\\]|\\.)*"\s*)+)', text, flags=re.MULTILINE):
            yield from "".join(ast.literal_eval(line) for line in block.split("\n") if line.strip()).splitlines()


def _load_mo(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        catalogue = gettext.GNUTranslations(file)
    messages = {}
    for key, text in catalogue._catalog.items():
        source = key[0] if isinstance(key, tuple) else key
        messages[source.split("\x04")[-1]] = text
    return messages
