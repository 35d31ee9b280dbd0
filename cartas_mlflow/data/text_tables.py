"""Tables that are text: csv in any dialect and encoding, jsonl, json."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cartas_mlflow.data.grids import HEADER_LINES, KINDS, Dialect, Grid, named_grid
from cartas_mlflow.data.matching import OTHER_NAMES, clean_name
from cartas_mlflow.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
LEGACY_ENCODINGS = ["cp1252", "mac_roman", "cp850", "iso8859_15"]
"""What Portuguese was written in before UTF-8: Windows, old Macs, DOS, old Unix."""
_NAMES = {"cp1252": "Windows-1252", "mac_roman": "Mac Roman", "cp850": "DOS (CP850)", "iso8859_15": "ISO 8859-15"}
_HINT = re.compile(r"^\W*sep\s*=\s*(.)\s*$", re.IGNORECASE)
_JSON_ARRAY = re.compile(r"\[\s*\{")
_RESAVE = "no Excel ou no LibreOffice e salve como xlsx"
_DISGUISES = (
    (
        r"(?:<[!?][^>]*>\s*)*<(?:html|table|head|body|meta|div|style)\b|<!doctype html",
        "uma página HTML",
        f"abra-a {_RESAVE}",
    ),
    (r"<\?xml|<(?:\w+:)?workbook\b", "um XML", f"abra-o {_RESAVE}"),
    (r"version https://git-lfs", "só o ponteiro de um arquivo do Git LFS", "baixe o arquivo com git lfs pull"),
    (r"\{[^{}]*docs\.google\.com", "só o atalho de uma planilha do Google", "baixe-a de lá como xlsx ou csv"),
)
"""Beginning of a text -> what it is instead of a table, and the mend."""
_KNOWN = {*OTHER_NAMES, *(other for others in OTHER_NAMES.values() for other in others)}


def read_text_table(path: Path, content: bytes) -> Grid:
    """The one grid of a text file.

    Raises:
        DataError: bytes that are no text, quotes that do not close, a line with too many fields, broken JSON.
    """
    text, dialect, remark = _decode(path, content)
    if not text.strip():
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    start = text.lstrip()[:500].lower()
    for pattern, what, mend in _DISGUISES:
        if re.match(pattern, start, re.DOTALL):
            raise DataError(f"{path} é {what}, não uma tabela; {mend}.")
    if path.suffix.lower() in {".jsonl", ".ndjson", ".json"} or start.startswith('{"') or _JSON_ARRAY.match(start):
        return _read_json(path, text)
    return _read_csv(path, text, dialect, remark)


def _decode(path: Path, content: bytes) -> tuple[str, Dialect, str | None]:
    """The text without byte order marks; how it was written; a remark where the encoding was guessed."""
    encoding, mark = _unicode_encoding(content)
    remark = None
    if encoding is None:
        encoding, remark = _legacy_encoding(path, content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{path} é um texto {encoding.upper()} cortado; exporte a tabela de novo.") from None
    line_end = "\r\n" if "\r\n" in text else "\r" if "\r" in text and "\n" not in text else "\n"
    text = text.lstrip("\ufeff")
    if remark is not None:
        shown = next((line.strip() for line in text.splitlines() if not line.isascii()), "")
        remark = f"{remark} (lê-se assim: {shown[:60]}{'…' if len(shown) > 60 else ''})"
    return text, Dialect(encoding=encoding, byte_order_mark=mark, line_end=line_end), remark


def _unicode_encoding(content: bytes) -> tuple[str | None, bool]:
    """(encoding, whether it begins with a byte order mark); None where the bytes are no Unicode."""
    if content.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32", True
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", True
    sample = content[:4000]
    for name, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        # Half of the bytes are zero: Latin letters in two bytes each, without a mark that says so.
        if len(zeros) > 3 and zeros.count(0) > 0.8 * len(zeros):
            return name, False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return None, False
    return "utf-8", content.startswith(b"\xef\xbb\xbf")


def _legacy_encoding(path: Path, content: bytes) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    if b"\x00" in content:
        raise DataError(f"O conteúdo de {path} é binário, não texto; exporte a tabela como csv em UTF-8 de novo.")
    tolerant = content.decode("utf-8", errors="replace")
    if sum(not character.isascii() for character in tolerant) > 2 * tolerant.count("\ufffd"):
        line = tolerant[: tolerant.index("\ufffd")].count("\n") + 1
        raise DataError(
            f"{path}, linha {line}: o arquivo está em UTF-8, menos esta linha; salve o arquivo inteiro em UTF-8."
        )
    # The bytes of the accents alone decide; a long ASCII text around them only hides what they say.
    lines = b"\n".join(line for line in content.splitlines() if not line.isascii())
    best = from_bytes(lines, cp_isolation=LEGACY_ENCODINGS, enable_fallback=False).best()
    candidates = [name for name in LEGACY_ENCODINGS if _can_decode(lines, name)]
    if best is None and not candidates:
        raise DataError(f"{path} não está em UTF-8 nem em outra codificação conhecida; salve o arquivo em UTF-8.")
    encoding = max(candidates, key=lambda name: _portuguese(lines.decode(name)))
    if best is not None and _portuguese(str(best)) >= _portuguese(lines.decode(encoding)):
        encoding = best.encoding
    return encoding, f"O arquivo não está em UTF-8; foi lido como {_NAMES.get(encoding, encoding)}"


def _can_decode(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _portuguese(text: str) -> float:
    """Share of the letters and signs beyond ASCII that Portuguese has."""
    beyond = [character for character in text if not character.isascii()]
    usual = sum(character in "áàâãéêíóôõúüçÁÀÂÃÉÊÍÓÔÕÚÜÇ“”‘’–—…ºª€°\u00a0" for character in beyond)
    small = sum(character in "áàâãéêíóôõúç" for character in beyond)
    return (usual + 0.1 * small) / max(1, len(beyond))


def _read_csv(path: Path, text: str, dialect: Dialect, remark: str | None) -> Grid:
    first, _, rest = text.partition("\n")
    hint = _HINT.match(first.strip().strip('"'))
    skipped = 1 if hint else 0
    body = rest if hint else text
    delimiter = hint.group(1) if hint and hint.group(1) in DELIMITERS else _sniff(body)
    rows = [(line + skipped, cells) for line, cells in _parse(path, body, delimiter, skipped)]
    kept = [(line, cells) for line, cells in rows if any(cell.strip() for cell in cells)]
    written = Dialect(delimiter, dialect.encoding, dialect.byte_order_mark, dialect.line_end)
    return Grid(kept, dialect=written, remark=remark)


def _sniff(text: str) -> str:
    """The delimiter with which the first lines show the most known titles; then the one that cuts them most alike."""
    lines = text.splitlines()[:HEADER_LINES]

    def fit(delimiter: str) -> tuple[int, int]:
        cut = [next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [""]) for line in lines]
        known = max((len(_KNOWN.intersection(map(clean_name, cells))) for cells in cut), default=0)
        return known, max(map(len, cut), default=0)

    return max(DELIMITERS, key=fit)


def _parse(path: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    before = 0
    csv.field_size_limit(2**31 - 1)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            raise DataError(
                f"{path}, linha {before + skipped + 1}: as aspas do csv não fecham ou estão fora do lugar; corrija a "
                "linha."
            ) from None
        if cells is None:
            return
        yield before + 1, cells
        before = reader.line_num


def _read_json(path: Path, text: str) -> Grid:
    rows = list(_json_array(path, text) if _JSON_ARRAY.match(text.lstrip()[:200]) else _json_lines(path, text))
    columns: dict[str, None] = {}
    for _, row in rows:
        columns |= dict.fromkeys(row)
    return named_grid(list(columns), [(line, [row.get(column) for column in columns]) for line, row in rows])


def _json_array(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows: Sequence[Any] = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{path} não é JSON válido; exporte a tabela de novo, ou use um arquivo {KINDS}.") from None
    for number, row in enumerate(rows, start=1):
        yield number, _json_object(path, number, row)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):  # U+2028 may stand inside a JSON text
        if not content.strip():
            continue
        try:
            row = json.loads(content)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is good JSON but no text
        except (ValueError, RecursionError):
            raise DataError(f"{path}, linha {line}: não é JSON válido; cada linha deve ser um objeto JSON.") from None
        yield line, _json_object(path, line, row)


def _json_object(path: Path, line: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f'{path}, linha {line}: deve ser um objeto JSON (ex.: {{"carta": "O Sol", …}}).')
    return row
