"""What a table's size costs: seconds and peak memory of ``check``, and of reading, splitting and encoding it.

    python benchmarks/large_table.py [--rows 462,10000,100000,1000000] [--kind csv] [--folder DIR]

The tables are made of the bundled one's sentences (two to four of them a text), under its cards, occasions, sections
and themes, with two rows in a thousand repeated and one in a thousand left without a text: always the same for a size.
Each measurement is a process of its own, on the embedded base's vocabulary: ``check`` as a user calls it; ``prepare``
reads, splits and encodes as a training does, twice, so that the second finds what the first has encoded. Peak memory
is the largest resident set (``ru_maxrss``) of the process. Where ``--folder`` is given, its tables are used again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("carta", "evento", "secao", "tema", "texto")
SETTINGS = {"model.name": "data/base/cartas-t5-mini", "model.fallback": "none"}


@dataclass(frozen=True)
class Measured:
    """``seconds`` of the whole process, ``processor`` (s): what it computed in them; ``peak``: GB; what it printed."""

    seconds: float
    processor: float
    peak: float
    output: str


def main() -> None:
    """Print one Markdown table, a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="462,10000,100000,1000000", help="sizes, separated by commas")
    parser.add_argument("--kind", default="csv", choices=("csv", "jsonl", "parquet", "xlsx"))
    parser.add_argument("--folder", type=Path, help="where tables and encoded texts go (default: a temporary one)")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare)
    elif options.make:
        write_table(options.make, int(options.rows))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            compare_sizes(list(map(int, options.rows.split(","))), options.kind, options.folder or Path(scratch))


def compare_sizes(sizes: list[int], kind: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print(
        "| rows | check (s) | processor (s) | peak (GB) "
        "| read (s) | split (s) | encode (s) | rows/s | peak (GB) | again (s) |"
    )
    print("| ---: |" + " ---: |" * 9)
    for size in sizes:
        table = folder / f"{size}.{kind}"
        if not table.exists():
            measure([__file__, "--make", str(table), "--rows", str(size)], folder)
        settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
        check = measure(["-m", "cartas_mlflow", "check", "--data.path", str(table), *settings], folder / "check")
        runs = [measure([__file__, "--prepare", str(table)], folder) for _ in range(2)]
        first, again = (json.loads(run.output.splitlines()[-1]) for run in runs)
        rate = first["encoded"] / first["encode"]
        print(
            f"| {size} | {check.seconds:.1f} | {check.processor:.1f} | {check.peak:.2f} "
            f"| {first['read']:.1f} | {first['split']:.1f} | {first['encode']:.1f} | {rate:.0f} | {runs[0].peak:.2f} "
            f"| {again['encode']:.1f} |",
            flush=True,
        )


def measure(words: list[str], folder: Path) -> Measured:
    """Run a Python program to its end; the encoded texts that it makes and finds stand below the folder."""
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        output.seek(0)
        said = output.read()
    if status != 0:
        raise SystemExit(f"{' '.join(words)}: status {os.waitstatus_to_exitcode(status)}\n{said}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20, said)


def prepare(table: Path) -> None:
    """Print the seconds of each phase, as JSON."""
    from cartas_mlflow.config import load_config
    from cartas_mlflow.modeling.loading import load_tokenizer
    from cartas_mlflow.training import preparation

    config = load_config(overrides={"data.path": str(table), **SETTINGS})
    tokenizer = load_tokenizer(ROOT / SETTINGS["model.name"])
    marks = [time.perf_counter()]
    records = preparation.load_data(config)
    marks.append(time.perf_counter())
    data = preparation.split_data(config, records)
    marks.append(time.perf_counter())
    sides = preparation.tokenize_data(config, tokenizer, data)
    encoded = sum(len(side.dataset) for side in sides)
    marks.append(time.perf_counter())
    read, split, encode = (after - before for before, after in itertools.pairwise(marks))
    print(json.dumps({"read": read, "split": split, "encode": encode, "encoded": encoded}))


def write_table(path: Path, size: int) -> None:
    """Write so many rows, in the format of the file's ending."""
    rows = make_rows(size)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS])
            csv.writer(file).writerows(rows)
    elif path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")
    elif path.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(rows, columns=COLUMNS).to_parquet(path, index=False)
    else:
        from openpyxl import Workbook

        book = Workbook(write_only=True)
        sheet = book.create_sheet("Leituras")
        for row in (COLUMNS, *rows):
            sheet.append(row)
        book.save(path)


def make_rows(size: int) -> Iterator[tuple[str, ...]]:
    """Rows of the columns, drawn with a fixed seed."""
    chance = random.Random(0)
    with (ROOT / "data" / "cartas.csv").open(encoding="utf-8", newline="") as file:
        known = list(csv.DictReader(file))
    sentences = sorted({part for row in known for part in re.split(r"(?<=[.!?…]) ", row["texto"])})
    labels = [sorted({row[column] for row in known}) for column in COLUMNS[:-1]]
    row: tuple[str, ...] = ()
    for number in range(size):
        if number % 500 != 499:  # else once more the row before
            text = " ".join(chance.sample(sentences, chance.choice((2, 3, 4))))
            row = (*map(chance.choice, labels), "" if number % 1000 == 500 else text)
        yield row


if __name__ == "__main__":
    main()
