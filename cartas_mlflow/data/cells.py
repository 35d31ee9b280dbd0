"""A raw cell -> the text that a Brazilian would have written there."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

NOT_TEXT = (dict, list, tuple, set, bytes)
"""What parquet and json may hold and no reading can be made of."""
_ERRORS = re.compile(
    r"(?i)#(N/[AD]|(REF|NAME|NOME|DIV/0|VALUE|VALOR|N[UÚ]M|NULL|NULO|SPILL|DESPEJAR|CALC|ERROR|ERRO|FIELD|BUSY)[!?])|Err:\d{3}"
)
"""Error values of Excel, LibreOffice and Google Sheets, in English and Portuguese."""
_WRITTEN_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T]00:00(?::00(?:\.0+)?)?(?:Z|[+-]00:?00)?)?")
_WRITTEN_WHOLE = re.compile(r"(-?\d{1,15})\.0")


def cell_text(value: Any) -> str:
    """05/08/2026, 05/08/2026 14:30, 14:30, 5 (never 5.0), 2,5, verdadeiro; ``""`` for what is missing."""
    if value is None or value != value:  # NaN and NaT alone differ from themselves
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "verdadeiro" if value else "falso"
    if isinstance(value, int | float | Decimal):
        return _number(value)
    if isinstance(value, datetime):
        day = f"{value:%d/%m/}{value.year:04d}"
        return day if (value.hour, value.minute, value.second) == (0, 0, 0) else f"{day} {cell_text(value.time())}"
    if isinstance(value, date):
        return f"{value:%d/%m/}{value.year:04d}"
    if isinstance(value, time):
        return f"{value:%H:%M:%S}" if value.second else f"{value:%H:%M}"
    if isinstance(value, timedelta):
        minutes = round(value.total_seconds() / 60)
        return f"{minutes // 60}:{minutes % 60:02d}"
    return str(value)


def label_text(text: str) -> str:
    """The text of a name (never of a reading), mended where a program wrote its own form: 2026-08-05 00:00:00, 5.0."""
    if written := _WRITTEN_DATE.fullmatch(text):
        return f"{written[3]}/{written[2]}/{written[1]}"
    if written := _WRITTEN_WHOLE.fullmatch(text):
        return written[1]
    return text


def is_error(text: str) -> bool:
    return _ERRORS.fullmatch(text) is not None


def kind_of(value: Any) -> str | None:
    """``data``, ``hora`` or ``número`` for what a spreadsheet holds as such; None for a text and the rest."""
    if isinstance(value, date):
        return "data"
    if isinstance(value, time | timedelta):
        return "hora"
    return "número" if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else None


def _number(value: int | float | Decimal) -> str:
    if isinstance(value, int):
        return f"{value:d}" if abs(value) < 10**20 else f"{value:.6e}" if abs(value) < 10**300 else "∞"
    if value == int(value) if abs(value) < 10**16 else False:
        return str(int(value))
    return f"{value:.15g}".replace(".", ",")
