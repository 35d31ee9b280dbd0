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
