"""Bytes of a text file -> its text, whatever program wrote it."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from cartas_mlflow.errors import DataError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_EIGHT_BITS = {"cp1252": "Windows-1252", "mac_roman": "Mac Roman", "cp850": "DOS (CP850)"}
"""Of Brazilian tables. Latin-1 differs from Windows-1252 only where it has no printable character."""
_PORTUGUESE = frozenset("áàâãéêíóôõúüçñÁÀÂÃÉÊÍÓÔÕÚÜÇÑ“”‘’«»–—…ºª°•€§\u00a0")
_CONTROLS = re.compile(r"[\x01-\x08\x0e-\x19\x1c-\x1f]")


def decode(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """The text without byte order marks, and what the user should know of how it was read, a line each.

    UTF-8, UTF-16 and UTF-32, with or without mark, are certain. Else charset-normalizer proposes, and of its proposals
    the one counts in which most of the letters beyond ASCII are those that Portuguese has.

    Raises:
        DataError: binary content, a cut text, or UTF-8 but for a few lines.
    """
    kind = path.suffix.lower()[1:] or "csv"
    text, notes = _decode(path, content, kind)
    if len(_CONTROLS.findall(text)) > len(text) / 100:
        raise DataError(f"O conteúdo de {path} é binário, não texto; exporte a tabela como {kind} em UTF-8 de novo.")
    return text.lstrip("\ufeff"), notes


def _decode(path: Path, content: bytes, kind: str) -> tuple[str, tuple[str, ...]]:
    unicode = next((name for mark, name in _MARKS if content.startswith(mark)), None) or _unmarked_utf16(content)
    if unicode is not None:
        try:
            return content.decode(unicode), ()
        except UnicodeDecodeError:
            name = unicode.upper()[:6]
            raise DataError(f"{path} é um texto {name} cortado; exporte a tabela como {kind} de novo.") from None
    nulls = content.count(b"\x00")
    if nulls > len(content) / 100:
        raise DataError(f"O conteúdo de {path} é binário, não texto; exporte a tabela como {kind} em UTF-8 de novo.")
    if nulls:
        content = content.replace(b"\x00", b"")
    try:
        return content.decode("utf-8"), ()
    except UnicodeDecodeError as error:
        stray = content[: error.start].count(b"\n") + 1
    tolerant = content.decode("utf-8", errors="replace")
    if sum(not character.isascii() for character in tolerant) > 2 * tolerant.count("\ufffd"):
        raise DataError(
            f"{path}, linha {stray}: o arquivo está em UTF-8, menos esta linha; salve o arquivo inteiro em UTF-8."
        )
    return _tell_apart(path, content, stray)


def _unmarked_utf16(content: bytes) -> str | None:
    """Of Latin letters in UTF-16 every other byte is 0; so are few bytes of any other text."""
    start = content[: 4096 & ~1]
    for name, zeros, letters in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if zeros.count(0) > 0.7 * len(zeros) and letters.count(0) < 0.1 * max(1, len(letters)):
            return name
    return None


def _tell_apart(path: Path, content: bytes, line: int) -> tuple[str, tuple[str, ...]]:
    from charset_normalizer import from_bytes

    proposed = [match.encoding for match in from_bytes(content, cp_isolation=list(_EIGHT_BITS), threshold=0.9)]
    read: dict[str, str] = {}
    for name in dict.fromkeys([*proposed, *_EIGHT_BITS]):
        try:
            read[name] = content.decode(name)
        except UnicodeDecodeError:  # a byte that this encoding does not have
            continue
    best = max(read, key=lambda name: _portuguese_share(read[name]))  # of equals the first: the library's order
    text = read[best]
    sample = next((row.strip() for row in re.split(r"[\r\n]+", text) if not row.isascii()), "")
    place = next((place for place, character in enumerate(sample) if not character.isascii()), 0)
    shown = sample[max(0, place - 20) : place + 40]
    note = (
        f"⚠️ {path.name} não está em UTF-8 e foi lido como {_EIGHT_BITS[best]}: “{shown}”. Se os acentos estão errados, "
        "salve o arquivo como CSV UTF-8"
    )
    return text, (note,)


def _portuguese_share(text: str) -> float:
    beyond = [character for character in text if not character.isascii()]
    return sum(character in _PORTUGUESE for character in beyond) / max(1, len(beyond))
