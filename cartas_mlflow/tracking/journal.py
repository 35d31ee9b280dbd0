"""What a run has to say, on local disk: one JSON line per entry, in the order it arose, each with its checksum.

The journal is the truth; MLflow gets what stands in it. One process writes at a time, whoever delivers reads.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cartas_mlflow.files import DamagedFile

FOLDER = "journal"
"""In a run's folder."""
ENTRIES = "entries.jsonl"
_MEND = "recupere-o de uma cópia da pasta"
_TAIL = 4096
"""Bytes in which a last line fits if it is the end's."""


class Point(NamedTuple):
    """A point of a series. ``timestamp``: in milliseconds."""

    name: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Entry:
    """``number``: its place, from 0; ``time``: when it arose (ms); ``kind``: what there is to do with the body."""

    number: int
    time: int
    kind: str
    body: Mapping[str, Any]


class Journal:
    """An open journal.

    Args:
        folder: of the journal, made with its first entry; the run's own files stand in its parent.

    Raises:
        DamagedFile: a line is not what was written. A last one that was cut short (the process died) is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / ENTRIES
        self.changed = threading.Condition()
        self.first: Entry | None = None
        self.last: Entry | None = None
        self.points: dict[tuple[str, int], Point] = {}
        self.tags: dict[str, str] = {}
        """The latest that was said."""
        self.kinds: set[str] = set()
        """Of the entries."""
        self.host: str | None = None
        """The machine at which the run was opened last; None if an earlier version did it."""
        reader = Reader(self.file)
        for entry in reader.news():
            self._note(entry)
        if reader.cut_short:
            os.truncate(self.file, reader.position)

    @property
    def root(self) -> Path:
        """The run's folder."""
        return self.folder.parent

    def __len__(self) -> int:
        return 0 if self.last is None else self.last.number + 1

    def write(self, kind: str, body: Mapping[str, Any]) -> None:
        """Add an entry; it is on disk, or the entry is not there at all.

        Raises:
            OSError: the disk is full or gone.
        """
        with self.changed:
            entry = Entry(len(self), int(time.time() * 1000), kind, body)
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab", buffering=0) as stream:
                line, end = _line(entry), stream.tell()
                if stream.write(line) != len(line):
                    stream.truncate(end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
            self._note(entry)
            self.changed.notify_all()

    def add_points(self, points: list[Point]) -> None:
        """Add points, but for those of a series and step that stand here: a training that goes on repeats steps."""
        with self.changed:
            news = [point for point in points if (point.name, point.step) not in self.points]
            if news:
                self.write("points", {"points": news})

    def place_for(self, artifact: str) -> Path:
        """Where a file that is an artifact and nothing else is to be written: beside the entries."""
        return self.folder / "artifacts" / artifact

    def keep(self, path: Path, artifact_folder: str | None) -> str:
        """A file or folder as an entry names it, relative to the run's folder; one from elsewhere is copied."""
        if path.absolute().is_relative_to(self.root.absolute()):
            return path.absolute().relative_to(self.root.absolute()).as_posix()
        copy = self.place_for(f"{artifact_folder or ''}/{path.name}".lstrip("/"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        else:
            shutil.copy2(path, copy)
        return copy.relative_to(self.root).as_posix()

    def _note(self, entry: Entry) -> None:
        self.first, self.last = self.first or entry, entry
        self.kinds.add(entry.kind)
        if entry.kind == "tags":
            self.tags |= entry.body["tags"]
        elif entry.kind == "open":
            self.host = entry.body.get("host")
        if entry.kind == "points":
            self.points |= {(point.name, point.step): point for point in points_of(entry)}


class Reader:
    """Reads a journal's entries, again and again as they come.

    ``position``: where the next one begins (bytes); ``number``: which it is; ``cut_short``: half a line stands there.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.position, self.number, self.cut_short = file, 0, 0, False

    def news(self) -> Iterator[Entry]:
        """The entries that have not been read yet.

        Raises:
            DamagedFile: a line is not what was written.
        """
        self.cut_short = False
        if not self.file.exists():
            return
        with self.file.open("rb") as stream:
            stream.seek(self.position)
            for line in stream:
                if not line.endswith(b"\n"):
                    self.cut_short = True
                    return
                entry = _parse(line, self.number)
                if entry is None:
                    raise DamagedFile(self.file, f"a linha {self.number + 1} não é a que foi gravada", _MEND)
                self.position += len(line)
                self.number += 1
                yield entry


def last_entry(file: Path) -> Entry | None:
    """A journal's last entry, read alone; None if it is cut short, or longer than those that end a journal."""
    with file.open("rb") as stream:
        stream.seek(-min(_TAIL, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        *_, last = stream.read().rstrip(b"\n").rsplit(b"\n", 1)
    try:
        return Entry(*json.loads(last)["entry"])
    except (ValueError, KeyError, TypeError):
        return None


def ending(file: Path) -> str | None:
    """The status with which a journal's run ended; None if it did not."""
    last = last_entry(file)
    return last.body["status"] if last is not None and last.kind == "end" else None


def points_of(entry: Entry) -> list[Point]:
    """The points of an entry of that kind."""
    return [Point(*values) for values in entry.body["points"]]


def _line(entry: Entry) -> bytes:
    text = json.dumps([entry.number, entry.time, entry.kind, entry.body], ensure_ascii=False)
    return f'{{"sum": "{zlib.crc32(text.encode()):08x}", "entry": {text}}}\n'.encode()


def _parse(line: bytes, number: int) -> Entry | None:
    try:
        parsed = Entry(*json.loads(line)["entry"])
    except (ValueError, TypeError, KeyError):
        return None
    return parsed if parsed.number == number and _line(parsed) == line else None
