"""What the user reads: one logger whose lines go to the terminal and, once a run has a folder, to its log file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

_logger = logging.getLogger("cartas_mlflow")


class _Terminal(logging.Handler):
    """Writes to whatever standard output is now, above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")
        try:
            if tqdm is None:
                sys.stdout.write(f"{self.format(record)}\n")
            else:
                tqdm.tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except OSError:  # the reader went away (`| head`): no reason to end a training, and a log file has the lines
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_console() -> None:
    """Send the lines to standard output, as UTF-8 whatever the terminal's locale. Calling it again changes nothing."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    if not _logger.handlers:
        _logger.addHandler(_Terminal())
        _logger.setLevel(logging.INFO)
        _logger.propagate = False


def say(text: str = "") -> None:
    """Show one line, or a few, to the user."""
    _logger.info(text)


def say_box(text: str) -> None:
    """Show a warning that must not be overlooked."""
    lines = text.splitlines()
    width = max(map(len, lines))
    say(
        "\n".join(
            ["┌" + "─" * (width + 2) + "┐", *(f"│ {line:<{width}} │" for line in lines), "└" + "─" * (width + 2) + "┘"]
        )
    )


@contextmanager
def keep_log(path: Path) -> Iterator[None]:
    """Also write what is said, with the time of day, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        handler.close()


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
    """A number as Portuguese writes it: ``decimal(0.5, 2)`` -> ``0,50``."""
    return f"{value:.{places}f}".replace(".", ",")


def duration(seconds: float) -> str:
    """Seconds as ``1 h 02 min``, ``3 min 05 s`` or ``8,3 s``."""
    if seconds < 59.95:
        return f"{decimal(seconds, 1)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
