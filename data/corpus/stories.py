"""Paragraphs out of story data in English: game missions, tarot meanings, Stoic reflections, novels."""

import json
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_SKY_STRING = re.compile(r'`([^`]*)`|"([^"]*)"')


def read_endless_sky(folder: Path) -> Iterator[str]:
    """Yield the story strings of endless-sky (conversations, dialogs, descriptions)."""
    for path in sorted(folder.rglob("data/**/*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for match in _SKY_STRING.finditer(line):
                text = match.group(1) or match.group(2) or ""
                yield re.sub(r"<(?:planet|destination|origin|system)>", "Nova", text)


def read_arcanite(folder: Path) -> Iterator[str]:
    """Yield the meanings of the tarot and Lenormand cards of arcanite, one text a paragraph."""
    for path in sorted(folder.rglob("cards/json/**/*.json")):
        yield from _strings(json.loads(path.read_text(encoding="utf-8")))


def read_kathekon(folder: Path) -> Iterator[str]:
    """Yield one interpretation of every Stoic quote of kathekon."""
    connection = sqlite3.connect(next(folder.rglob("quotes.db")))
    try:
        rows = connection.execute("select interpretation from interpretations group by quote_id order by id").fetchall()
    finally:
        connection.close()
    for (text,) in rows:
        yield text


def read_austen(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of Jane Austen's novels from the R package's data (lines joined at empty lines)."""
    database = next(folder.rglob("data/Rdata.rdb")).read_bytes()
    lines: list[str] = []
    for line in _r_strings(database):
        if line.strip():
            lines.append(line.strip())
            continue
        yield " ".join(lines).replace("_", "")
        lines = []
    yield " ".join(lines).replace("_", "")


def _strings(value) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _r_strings(database: bytes) -> Iterator[str]:
    """Yield the strings of every character vector in an R lazy-load database.

    A record is a 4-byte length and a zlib stream; inside, a CHARSXP is its flags (type 9), a length and the bytes
    (R Internals, section 1.8).
    """
    start = 0
    while (start := database.find(b"\x78\x9c", start)) != -1:
        try:
            data = zlib.decompressobj().decompress(database[start:])
        except zlib.error:
            start += 1
            continue
        start += 2
        if len(data) < 100_000:
            continue
        position = data.find(b"\x00\x04\x00\x09")
        while position != -1 and position + 8 <= len(data) and data[position + 3] == 9:
            (length,) = struct.unpack(">i", data[position + 4 : position + 8])
            end = position + 8 + max(length, 0)
            yield data[position + 8 : end].decode("utf-8", "replace")
            position = end
        yield ""
