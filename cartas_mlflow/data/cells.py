"""A cell as some program wrote it -> the text that a Brazilian would read in it."""

from __future__ import annotations

import datetime
import re
import unicodedata
from typing import Any

NOT_TEXT = (dict, list, bytes)
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180e\u2800\u3164\uffa0\ufffc"
"""Letters and marks that show nothing, though Unicode does not class them as invisible."""
_JOINER = "\u200d"
_PLAIN = re.compile("[\t\n\r -^`-~\u00a0-\u00ac\u00ae-\u00ff‘’“”–—…]*")
"""Letters and signs that cleaning leaves as they are, without ``_``, which may begin an escape: nearly every cell."""
_ISO_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?)?")
_WHOLE = re.compile(r"(-?\d+)\.0+")
_ERRORS = re.compile(
    r"#(?:N/[AD]|REF!|VALUE!|VALOR!|DIV/0!|NAME\?|NOME\?|NUM!|N[ÚU]M!|NULL!|NULO!|SPILL!|DESPEJAR!|CALC!|ERRO[R]?!|"
    r"FIELD!|BLOCKED!|UNKNOWN!|GETTING_DATA)|Err:\d{3}",
    re.IGNORECASE,
)


def clean_text(text: str) -> str:
    """Unicode NFC without invisible characters, runs of white space as one space, none at the ends.

    Line breaks that another program escaped (``_x000D_``) are white space too. A joiner stays inside an emoji.
    """
    if is_plain(text):
        return " ".join(text.split())
    text = _ESCAPED.sub(_unescaped, text)
    kept = (
        character
        for place, character in enumerate(text)
        if not _is_invisible(character) or (character == _JOINER and place and ord(text[place - 1]) > 0x2190)
    )
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def is_plain(text: str) -> bool:
    """Whether cleaning has nothing to do but at the white space: letters of Portuguese, usual signs, no ``_``."""
    return _PLAIN.fullmatch(text) is not None


def cell_text(value: Any) -> str:
    """A typed value as text: ``05/08/2026``, ``5`` (not ``5.0``), ``2,5``, ``VERDADEIRO``; empty for no value."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return "VERDADEIRO" if value else "FALSO"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value).replace(".", ",")
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.strftime("%d/%m/%Y" if midnight else "%d/%m/%Y %H:%M")
    if isinstance(value, datetime.date):
        return value.strftime("%d/%m/%Y")
    if isinstance(value, datetime.time):
        return value.strftime("%H:%M")
    if isinstance(value, datetime.timedelta):
        minutes = round(value.total_seconds() / 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}"
    return str(value)


def label_text(text: str) -> str:
    """A cleaned cell of a prompt's field: what a program exported as ``2026-08-05 00:00:00`` or ``5.0`` too."""
    if not (text[:1].isdigit() or text[:1] == "-"):
        return text
    date, whole = _ISO_DATE.fullmatch(text), _WHOLE.fullmatch(text)
    if date:
        year, month, day = date.groups()
        return f"{day}/{month}/{year}"
    return whole.group(1) if whole else text


def kind_of(value: Any) -> str | None:
    """``datas``, ``números`` or ``verdadeiro/falso``: what a cell holds besides text; None for text and for nothing."""
    if isinstance(value, bool):
        return "verdadeiro/falso"
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return "datas"
    if isinstance(value, (int, float)) and value == value:
        return "números"
    if isinstance(value, str):
        if not (value.lstrip()[:1].isdigit() or value.lstrip()[:1] == "-"):
            return None
        if _ISO_DATE.fullmatch(value.strip()) or re.fullmatch(r"\d{1,2}/\d{1,2}/\d{2,4}", value.strip()):
            return "datas"
        return "números" if re.fullmatch(r"-?\d+(?:[.,]\d+)?", value.strip()) else None
    return None


def is_error(text: str) -> bool:
    """Whether a cleaned cell is a spreadsheet's error (``#N/A``, ``#REF!``, ``#N/D``, ``Err:502``)."""
    return text[:1] in ("#", "e", "E") and _ERRORS.fullmatch(text) is not None


def _unescaped(match: re.Match[str]) -> str:
    code = int(match.group(1), 16)
    return " " if code < 0x20 else match.group(0)


def _is_invisible(character: str) -> bool:
    if character in _BLANK:
        return True
    category = unicodedata.category(character)
    return category == "Cf" or (category == "Cc" and not character.isspace()) or category in {"Co", "Cs"}
