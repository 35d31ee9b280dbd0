"""What the user reads: one logger whose lines go to the terminal and, once a run has a folder, to its log file."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

_logger = logging.getLogger("cartas_mlflow")
REDIRECTED = 100
"""Columns of a line where standard output is no terminal."""


class _Terminal(logging.Handler):
    """Writes to whatever standard output is now, above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm, text = sys.modules.get("tqdm"), self.format(record)
        if not getattr(record, "whole", False):
            text = "\n".join(wrapped(line, line_width()) for line in text.split("\n"))
        try:
            if tqdm is None:
                sys.stdout.write(f"{text}\n")
            else:
                tqdm.tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        except OSError:  # the reader went away (`| head`): no reason to end a training, and a log file has the lines
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Earlier(logging.Handler):
    """Remembers what was said before there was a file to keep it in."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def open_console() -> None:
    """Send the lines to standard output, as UTF-8 whatever the terminal's locale, and begin a command's own record."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    if not any(isinstance(handler, _Terminal) for handler in _logger.handlers):
        _logger.addHandler(_Terminal())
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    _forget_earlier()
    _logger.addHandler(_Earlier())


def say(text: str = "", *, whole: bool = False) -> None:
    """Show one line, or a few, to the user.

    Args:
        whole: lines stay as they are, however wide the terminal is: a table, or a text that is the command's product.
    """
    _logger.info(text, extra={"whole": whole})


def line_width() -> int:
    """Columns that a line may take: the terminal's, or COLUMNS where that is set, else :data:`REDIRECTED`."""
    return shutil.get_terminal_size((REDIRECTED, 0)).columns


def wrapped(line: str, width: int) -> str:
    """The line, broken between words where it is too long; what follows is indented a little more than its start."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in line)
    if len(line) + wide <= width:
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 3)
    return textwrap.fill(
        line,
        width - wide,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        drop_whitespace=True,
    )


def say_box(text: str) -> None:
    """Show a warning that must not be overlooked."""
    room = line_width() - len("│  │")
    lines = [part for line in text.splitlines() for part in wrapped(line, room).splitlines()]
    width = max(map(len, lines))
    say(
        "\n".join(
            ["┌" + "─" * (width + 2) + "┐", *(f"│ {line:<{width}} │" for line in lines), "└" + "─" * (width + 2) + "┘"]
        ),
        whole=True,
    )


@contextmanager
def keep_log(path: Path, *, from_the_start: bool = False) -> Iterator[None]:
    """Also write what is said, with its time, to a file; ``from_the_start``: and what the command said before."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    if from_the_start:
        for record in _forget_earlier():
            handler.handle(record)
    _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        handler.close()


def _forget_earlier() -> list[logging.LogRecord]:
    earlier = [handler for handler in _logger.handlers if isinstance(handler, _Earlier)]
    for handler in earlier:
        _logger.removeHandler(handler)
    return [record for handler in earlier for record in handler.records]


@contextmanager
def hushed() -> Iterator[None]:
    """Meanwhile, what is said goes to the log files only."""
    terminals = [handler for handler in _logger.handlers if isinstance(handler, _Terminal)]
    for terminal in terminals:
        terminal.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for terminal in terminals:
            terminal.setLevel(logging.NOTSET)


def progress_bar(
    total: int, description: str, unit: str = "leitura", *, initial: int = 0, form: str | None = None
) -> tqdm:
    """A bar on the terminal; where standard error goes to a file or a pipe there is none: the phases' lines tell.

    ``form``: tqdm's ``bar_format``, where its own does not serve.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        bar_format=form,
        file=sys.stderr,
        mininterval=0.5,
        dynamic_ncols=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )


def decimal(value: float, places: int) -> str:
    """A number as Portuguese writes it, for reports and pictures: ``decimal(0.5, 2)`` -> ``0,50``."""
    return f"{value:.{places}f}".replace(".", ",")


def pointed(text: str) -> str:
    """A sentence of a report on the console, where a figure can be pasted after ``-P``: ``0,50`` -> ``0.50``."""
    return re.sub(r"(?<=\d),(?=\d)", ".", text)


def duration(seconds: float) -> str:
    """Seconds as ``1 h 02 min``, ``3 min 05 s`` or ``8.3 s``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
