"""What a person would read in a cell: text without what cannot be seen."""

from __future__ import annotations

import re
import unicodedata

_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")
# Default_Ignorable_Code_Point outside category Cf (Unicode 15), and blanks that count as letters or signs.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}


def clean_text(text: str) -> str:
    """Unicode NFC, nothing invisible (zero-width, soft hyphens, controls, ``_x000D_``), runs of white space as one
    space, none at the ends."""
    if "_x" in text:
        text = _ESCAPE.sub(_unescape, text)
    if not text.isprintable() or not text.isascii():
        text = "".join(character for character in text if character.isspace() or not _is_invisible(character))
    return " ".join(unicodedata.normalize("NFC", text).split())


def _is_invisible(character: str) -> bool:
    return character in _BLANKS or unicodedata.category(character) in {"Cf", "Cc"}


def _unescape(escape: re.Match[str]) -> str:
    """``_x000D_`` is how spreadsheet programs write a character that XML cannot hold; other escapes may be meant."""
    character = chr(int(escape[1], 16))
    return character if character.isspace() or _is_invisible(character) else escape[0]
