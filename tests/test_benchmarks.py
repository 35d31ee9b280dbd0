"""The scripts behind the figures say what they could not measure."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from finished import Trained

from cartas_mlflow.config import PROJECT_ROOT

HUNSPELLS = {"none": None, "without the dictionary": "exit 1", "complete": "/bin/cat >/dev/null"}
"""What the command does in its place; it names the words that it does not know."""


@pytest.mark.slow
@pytest.mark.parametrize("hunspell", HUNSPELLS)
def test_without_the_dictionary_there_is_no_column_of_known_words_and_a_line_says_so(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    hunspell: str,
) -> None:
    if (does := HUNSPELLS[hunspell]) is not None:
        (tmp_path / "hunspell").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "hunspell").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["reading_quality.py", str(trained.folder)])
    runpy.run_path(str(PROJECT_ROOT / "benchmarks" / "reading_quality.py"), run_name="__main__")
    before, _, table = capsys.readouterr().out.partition("| readings |")
    assert len(table.splitlines()) == 6 and "nan" not in table
    assert ("known words" in table) == (hunspell == "complete")
    assert before.count("\n") == (0 if hunspell == "complete" else 2)
    assert ("hunspell-pt-br" in before) == (hunspell != "complete")


PAGE = """Antes.

<!-- python benchmarks/a.py --rounds 3 -->
| velho |
<!-- -->

<!-- python benchmarks/b.py {ptt5} -->
<!-- -->
"""
PRINTED = "uma linha\n| a | b |\n| ---: | --- |\n| 1 | 2 |\noutra\n\n| c |\n| --- |\n| 3 |\n"


def test_what_a_benchmark_prints_takes_the_place_of_its_tables_and_of_nothing_else() -> None:
    benchmarks = runpy.run_path(str(PROJECT_ROOT / "benchmarks" / "all.py"))
    tables = benchmarks["tables_in"](PRINTED)
    assert tables == ["| a | b |\n| ---: | --- |\n| 1 | 2 |", "| c |\n| --- |\n| 3 |"]
    page = benchmarks["put"](PAGE, "python benchmarks/a.py --rounds 3", tables)
    first, second = page.split("<!-- python benchmarks/b.py")
    assert second == PAGE.split("<!-- python benchmarks/b.py")[1]
    assert "| 1 | 2 |" in first and "| 3 |" in first and "velho" not in first and "núcleos" in first
    assert benchmarks["put"](page, "python benchmarks/a.py --rounds 3", tables) == page, "the same again"


def test_every_command_of_the_page_of_figures_is_a_benchmark() -> None:
    benchmarks = runpy.run_path(str(PROJECT_ROOT / "benchmarks" / "all.py"))
    page = benchmarks["PAGE"].read_text(encoding="utf-8")
    commands = [match["command"].split()[1] for match in benchmarks["BLOCK"].finditer(page)]
    assert commands
    assert page.count("<!-- -->") == len(commands)
    assert all((PROJECT_ROOT / path).is_file() for path in commands)
