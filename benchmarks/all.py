"""Run the benchmarks that docs/desempenho.md shows, and put what they print in the place of what stands there.

    python benchmarks/all.py [--only epoch.py …] [--ptt5 FOLDER] [--adapter FOLDER] [--list]

A table of the page stands between ``<!-- python benchmarks/… -->``, the command that makes it, and ``<!-- -->``. A
command may name ``{ptt5}`` (a folder with PTT5's ``config.json`` and tokenizer) or ``{adapter}`` (of a finished
training); it is left out where the folder is not given. One after the other, hours in all; what one has printed is in
the page before the next begins. Lines that are no table are kept in the terminal.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "desempenho.md"
BLOCK = re.compile(r"(?P<open><!-- (?P<command>python benchmarks/\S+[^>]*?) -->\n).*?(?P<close><!-- -->)", re.DOTALL)
FOLDERS = ("ptt5", "adapter")


def main() -> None:
    options = _options()
    commands = [match["command"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    for command in commands:
        words = shlex.split(command)
        if options.only and Path(words[1]).name not in options.only:
            continue
        lacking = [name for name in FOLDERS if f"{{{name}}}" in command and getattr(options, name) is None]
        if options.list or lacking:
            print(command + "".join(f"  (needs --{name})" for name in lacking))
            continue
        given = {name: str(getattr(options, name)) for name in FOLDERS}
        print(command, flush=True)
        ended = subprocess.run(
            [sys.executable, *(word.format(**given) for word in words[1:])],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        tables = tables_in(ended.stdout)
        if ended.returncode or not tables:
            sys.exit(f"{command}: exit code {ended.returncode}, {len(tables)} tables; the page is as it was\n")
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), command, tables), encoding="utf-8")


def tables_in(text: str) -> list[str]:
    """The Markdown tables of what a program printed."""
    return [match[0].strip() for match in re.finditer(r"(?:^\|.*\|\s*$\n?){3,}", text, re.MULTILINE)]


def put(page: str, command: str, tables: list[str]) -> str:
    """The page with these tables in the command's block, and the machine under them."""

    def fill(match: re.Match[str]) -> str:
        if match["command"] != command:
            return match[0]
        return match["open"] + "\n".join(f"{table}\n" for table in tables) + f"\n{machine()}\n" + match["close"]

    return BLOCK.sub(fill, page)


def machine() -> str:
    """One line in Portuguese: processor, cores, card, PyTorch, day."""
    import torch

    from cartas_mlflow.modeling.hardware import inspect_hardware

    hardware = inspect_hardware("auto")
    what = f"{os.cpu_count()} núcleos" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
    day = datetime.datetime.now(tz=datetime.UTC).date()
    return f"*{hardware.cpu}, {what}; PyTorch {torch.__version__}; {day:%d/%m/%Y}.*"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="file names of benchmarks")
    parser.add_argument("--list", action="store_true", help="say what would run")
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
