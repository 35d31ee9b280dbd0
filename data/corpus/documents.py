"""Paragraphs out of documents: HTML help, Mallard pages, the Bible's database."""

import sqlite3
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

_BLOCKS = {"p", "li", "dd", "h1", "h2", "h3", "h4", "h5", "td", "th", "div", "dt", "pre", "table", "ul", "ol", "br"}
_DROPPED = {"script", "style", "pre", "nav", "head", "h1", "h2", "h3", "h4", "h5", "th", "dt"}
_NARRATIVE_BOOKS = (1, 8, 9, 10, 20, 21, 40, 41, 42)  # Genesis, Ruth, Samuel, Proverbs, Ecclesiastes, Matthew to Luke


class _Paragraphs(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self._text: list[str] = []
        self._dropped = 0

    def handle_starttag(self, tag, attrs):
        if tag in _BLOCKS:
            self._flush()
        if tag in _DROPPED:
            self._dropped += 1

    def handle_endtag(self, tag):
        if tag in _BLOCKS:
            self._flush()
        if tag in _DROPPED and self._dropped:
            self._dropped -= 1

    def handle_data(self, data):
        if not self._dropped:
            self._text.append(data)

    def _flush(self):
        self.paragraphs.append(" ".join("".join(self._text).split()))
        self._text = []

    def close(self):
        super().close()
        self._flush()


def read_texts(folder: Path) -> Iterator[str]:
    """Yield the lines of every ``.txt`` under ``folder``."""
    for path in sorted(folder.rglob("*.txt")):
        yield from path.read_text(encoding="utf-8").splitlines()


def read_html(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the paragraphs of every HTML file under ``folder`` that matches ``pattern`` (no headings, no code)."""
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            parser = _Paragraphs()
            parser.feed(path.read_text(encoding="utf-8", errors="ignore"))
            parser.close()
            yield from parser.paragraphs


def read_mallard(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of GNOME's Mallard pages in pt_BR."""
    for path in sorted(folder.rglob("help/pt_BR/**/*.page")):
        for element in ElementTree.parse(path).iter("{http://projectmallard.org/1.0/}p"):
            yield " ".join("".join(element.itertext()).split())


def read_bible(folder: Path) -> Iterator[str]:
    """Yield passages of three verses from the narrative and wisdom books (Almeida, public domain)."""
    connection = sqlite3.connect(next(folder.rglob("bible.db")))
    try:
        marks = ",".join("?" * len(_NARRATIVE_BOOKS))
        rows = connection.execute(
            f"select bNumber, cNumber, vText from bible where bbName = 'a' and bNumber in ({marks})"
            " order by bNumber, cNumber, vNumber",
            _NARRATIVE_BOOKS,
        ).fetchall()
    finally:
        connection.close()
    passage: list[str] = []
    chapter = None
    for book, number, verse in rows:
        if (book, number) != chapter or len(passage) == 3:
            yield " ".join(passage)
            passage, chapter = [], (book, number)
        passage.append(verse.strip())
    yield " ".join(passage)
