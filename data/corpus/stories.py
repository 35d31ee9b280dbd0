"""Paragraphs out of story data in English: game missions, tarot meanings, Stoic reflections, recipes, novels."""

import json
import re
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.corpus.clean import MAX_CHARACTERS, cut_paragraph

_CROSSFIRE_MESSAGE = re.compile(r"^msg\n(.*?)^endmsg$", re.MULTILINE | re.DOTALL)
_CLOSING_QUOTE = re.compile(r"(?<=[,.!?])'(?=\s|$)")  # of typists who wrote `so'
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
    """Yield the interpretations of kathekon's Stoic quotes: one of every quote, then the second of each, and so on."""
    connection = sqlite3.connect(next(folder.rglob("quotes.db")))
    try:
        rows = connection.execute(
            "select interpretation from interpretations"
            " order by row_number() over (partition by quote_id order by id), id"
        ).fetchall()
    finally:
        connection.close()
    for (text,) in rows:
        yield text


def read_crossfire(folder: Path) -> Iterator[str]:
    """Yield what the people, books and signs of crossfire's maps say."""
    for path in sorted(folder.rglob("games/crossfire/maps/**/*")):
        if path.is_file():
            for message in _CROSSFIRE_MESSAGE.findall(path.read_text(encoding="utf-8", errors="ignore")):
                for part in re.split(r"^@match.*\n|\n\s*\n", message, flags=re.MULTILINE):
                    yield " ".join(line for line in part.splitlines() if not line.startswith(("@", "%")))


def read_recipes(folder: Path) -> Iterator[str]:
    """Yield the steps of every recipe, as one paragraph."""
    recipes = json.loads(next(folder.rglob("recipes_en-us.json")).read_text(encoding="utf-8"))
    for recipe in recipes.values():
        steps = (re.sub(r"[^.!?)]$", r"\g<0>.", step.strip()) for step in recipe["steps"])
        yield " ".join(step for step in steps if step)


def read_austen(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of Jane Austen's novels from the R package's data."""
    yield from _join_lines(_r_strings(next(folder.rglob("data/Rdata.rdb")).read_bytes()))


def read_novel(folder: Path, name: str) -> Iterator[str]:
    """Yield the paragraphs of the plain text ``name`` under ``folder``; of several, the longest is the whole novel."""
    longest = max(folder.rglob(name), key=lambda path: path.stat().st_size)
    yield from _join_lines(longest.read_text(encoding="utf-8").splitlines())


def _join_lines(texts: Iterable[str]) -> Iterator[str]:
    """Join lines into paragraphs at empty lines; paragraphs too long for the corpus are cut between sentences."""
    lines: list[str] = []
    for line in (*texts, ""):
        if line.strip():
            lines.append(line.strip())
            continue
        text = _CLOSING_QUOTE.sub('"', " ".join(lines).replace("_", "").replace("`", '"'))
        yield from cut_paragraph(text, MAX_CHARACTERS["en"])
        lines = []


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
