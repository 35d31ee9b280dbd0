"""Tables that are text: csv in any dialect and encoding, jsonl, json."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cartas_mlflow.data.grids import HEADER_LINES, KINDS, PIECE, Dialect, Grid, Row, Rows, named_grid
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


@dataclass(frozen=True)
class _Text:
    """A text file that was read once to its end. ``marks``: byte order marks that it begins with."""

    path: Path
    dialect: Dialect
    marks: int
    head: str
    """Its first characters, without the marks."""
    sample: str
    """The first line that is not ASCII."""

    @contextmanager
    def open(self, *, skipped: int = 0, newline: str = "") -> Iterator[TextIO]:
        """The file after its marks and so many characters more; line ends stay as they are."""
        with self.path.open(encoding=self.dialect.encoding, newline=newline) as file:
            file.read(self.marks + skipped)
            yield file


def read_text_table(path: Path) -> Grid:
    """The one grid of a text file; its rows are read when someone goes through them.

    Raises:
        DataError: bytes that are no text, quotes that do not close, a line with too many fields, broken JSON.
    """
    text, remark = _decode(path)
    if not text.head.strip():
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    start = text.head.lstrip()[:500].lower()
    for pattern, what, mend in _DISGUISES:
        if re.match(pattern, start, re.DOTALL):
            raise DataError(f"{path} é {what}, não uma tabela; {mend}.")
    if path.suffix.lower() in {".jsonl", ".ndjson", ".json"} or start.startswith('{"') or _JSON_ARRAY.match(start):
        return _read_json(text)
    return _read_csv(text, remark)


def _decode(path: Path) -> tuple[_Text, str | None]:
    """The text, and a remark where its encoding was guessed."""
    with path.open("rb") as file:
        encoding, mark = _unicode_encoding(file.read(4000))
    try:
        return _read_through(path, encoding, mark), None
    except UnicodeDecodeError:
        if encoding != "utf-8":
            raise DataError(f"{path} é um texto {encoding.upper()} cortado; exporte a tabela de novo.") from None
    encoding, remark = _legacy_encoding(path)
    try:
        text = _read_through(path, encoding, False)
    except UnicodeDecodeError:
        raise _no_known_encoding(path) from None
    return text, f"{remark} (lê-se assim: {text.sample[:60]}{'…' if len(text.sample) > 60 else ''})"


def _read_through(path: Path, encoding: str, mark: bool) -> _Text:
    """Decode all of it, a piece at a time; bytes that do not fit are a UnicodeDecodeError."""
    head, marks, sample, last = None, 0, "", ""
    ends: set[str] = set()
    with path.open(encoding=encoding, newline="") as file:
        for piece in iter(lambda: file.read(PIECE), ""):
            if head is None:
                head = piece.lstrip("\ufeff")
                marks = len(piece) - len(head)
            if not sample and not piece.isascii():
                lines = piece.lstrip("\ufeff").splitlines()
                sample = next((line.strip() for line in lines if not line.isascii()), "")
            ends |= {end for end in ("\r\n", "\r", "\n") if end in last + piece}
            last = piece[-1]
    line_end = "\r\n" if "\r\n" in ends else "\r" if ends == {"\r"} else "\n"
    dialect = Dialect(encoding=encoding, byte_order_mark=mark, line_end=line_end)
    return _Text(path, dialect, marks, head or "", sample)


def _unicode_encoding(start: bytes) -> tuple[str, bool]:
    """(encoding, whether it begins with a byte order mark), as the first bytes tell; UTF-8 where they do not."""
    if start.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32", True
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", True
    for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        # Half of the bytes are zero: Latin letters in two bytes each, without a mark that says so.
        if len(zeros) > 3 and zeros.count(0) > 0.8 * len(zeros):
            return name, False
    return "utf-8", start.startswith(codecs.BOM_UTF8)


def _legacy_encoding(path: Path) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    # The bytes of the accents alone decide; a long ASCII text around them only hides what they say.
    lines = b""
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            if b"\x00" in piece:
                raise DataError(
                    f"O conteúdo de {path} é binário, não texto; exporte a tabela como csv em UTF-8 de novo."
                )
            if len(lines) < PIECE:
                lines += b"\n".join(line for line in piece.splitlines() if not line.isascii())
    _refuse_mixed_encodings(path)
    best = from_bytes(lines, cp_isolation=LEGACY_ENCODINGS, enable_fallback=False).best()
    candidates = [name for name in LEGACY_ENCODINGS if _can_decode(lines, name)]
    if best is None and not candidates:
        raise _no_known_encoding(path)
    encoding = max(candidates, key=lambda name: _portuguese(lines.decode(name)))
    if best is not None and _portuguese(str(best)) >= _portuguese(lines.decode(encoding)):
        encoding = best.encoding
    return encoding, f"O arquivo não está em UTF-8; foi lido como {_NAMES.get(encoding, encoding)}"


def _refuse_mixed_encodings(path: Path) -> None:
    """See that not just a few lines of a text in UTF-8 are in something else."""
    beyond = lost = breaks = line = 0
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for piece in iter(lambda: file.read(PIECE), ""):
            beyond += len(piece) - len(piece.encode("ascii", errors="ignore"))
            lost += piece.count("\ufffd")
            if lost and not line:
                line = breaks + piece[: piece.index("\ufffd")].count("\n") + 1
            breaks += piece.count("\n")
    if beyond > 2 * lost:
        raise DataError(
            f"{path}, linha {line}: o arquivo está em UTF-8, menos esta linha; salve o arquivo inteiro em UTF-8."
        )


def _no_known_encoding(path: Path) -> DataError:
    return DataError(f"{path} não está em UTF-8 nem em outra codificação conhecida; salve o arquivo em UTF-8.")


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


def _read_csv(text: _Text, remark: str | None) -> Grid:
    first, _, rest = text.head.partition("\n")
    hint = _HINT.match(first.strip().strip('"'))
    skipped = len(first) + 1 if hint else 0
    delimiter = hint.group(1) if hint and hint.group(1) in DELIMITERS else _sniff(rest if hint else text.head)

    def read() -> Iterator[Row]:
        with text.open(skipped=skipped) as file:
            yield from _parse(text.path, file, delimiter, 1 if hint else 0)

    deque(read(), maxlen=0)  # a line that cannot be read is told before anything else
    how = text.dialect
    dialect = Dialect(delimiter, how.encoding, how.byte_order_mark, how.line_end)
    return Grid(Rows(read), dialect=dialect, remark=remark)


def _sniff(text: str) -> str:
    """The delimiter with which the first lines show the most known titles; then the one that cuts them most alike."""
    lines = text.splitlines()[:HEADER_LINES]

    def fit(delimiter: str) -> tuple[int, int]:
        cut = [next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [""]) for line in lines]
        known = max((len(_KNOWN.intersection(map(clean_name, cells))) for cells in cut), default=0)
        return known, max(map(len, cut), default=0)

    return max(DELIMITERS, key=fit)


def _parse(path: Path, file: TextIO, delimiter: str, skipped: int) -> Iterator[Row]:
    reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
    csv.field_size_limit(2**31 - 1)
    before = skipped
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:
            raise DataError(
                f"{path}, linha {before + 1}: as aspas do csv não fecham ou estão fora do lugar; corrija a linha."
            ) from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield before + 1, cells
        before = reader.line_num + skipped


def _read_json(text: _Text) -> Grid:
    objects = _json_array if _JSON_ARRAY.match(text.head.lstrip()[:200]) else _json_lines
    columns: dict[str, None] = {}
    for _, row in objects(text):
        columns |= dict.fromkeys(row)

    def read() -> Iterator[Row]:
        for line, row in objects(text):
            yield line, [row.get(column) for column in columns]

    return named_grid(list(columns), Rows(read))


def _json_array(text: _Text) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with text.open() as file:
            rows: Sequence[Any] = json.load(file)
    except (ValueError, RecursionError):
        raise DataError(
            f"{text.path} não é JSON válido; exporte a tabela de novo, ou use um arquivo {KINDS}."
        ) from None
    for number, row in enumerate(rows, start=1):
        yield number, _json_object(text.path, number, row)


def _json_lines(text: _Text) -> Iterator[tuple[int, dict[str, Any]]]:
    with text.open(newline="\n") as file:  # U+2028 may stand inside a JSON text
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
                if "\\u" in content:
                    json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is good JSON but no text
            except (ValueError, RecursionError):
                raise DataError(
                    f"{text.path}, linha {line}: não é JSON válido; cada linha deve ser um objeto JSON."
                ) from None
            yield line, _json_object(text.path, line, row)


def _json_object(path: Path, line: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f'{path}, linha {line}: deve ser um objeto JSON (ex.: {{"carta": "O Sol", …}}).')
    return row
