"""What the user reads: lines above progress bars, a log file beside them, numbers as Portuguese writes them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.console import decimal, duration, keep_log, open_console, pointed, say, say_box


def test_a_line_is_shown_once_however_often_the_console_is_opened(capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    open_console()
    say("Época 1: ação e coração")
    assert capsys.readouterr().out == "Época 1: ação e coração\n"


def test_a_line_stands_above_a_progress_bar_and_not_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    with tqdm(total=2, file=sys.stdout, ncols=40) as bar:
        bar.update()
        say("Uma linha")
    lines = re.split(r"[\r\n]+", capsys.readouterr().out)
    assert "Uma linha" in [line.strip() for line in lines]


def test_the_log_file_has_the_lines_with_their_time_and_only_while_it_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_console()
    path = tmp_path / "training_log.log"
    with keep_log(path):
        say("É lua cheia")
    say("Depois")
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{stamp} É lua cheia\n", path.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == "É lua cheia\nDepois\n"


def test_a_log_from_the_start_holds_what_was_said_before_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "training_log.log"
    open_console()
    say("De outro comando")
    open_console()
    say("=== INÍCIO ===")
    with keep_log(path, from_the_start=True):
        say("2. Dados")
    with keep_log(path, from_the_start=True):
        say("3. Mais")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["=== INÍCIO ===", "2. Dados", "3. Mais"]


def test_a_long_line_is_broken_between_words_at_the_width_and_a_whole_one_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS")
    open_console()
    say("  ⚠️ " + "palavra " * 30)
    say("palavra " * 30, whole=True)
    *parts, whole = capsys.readouterr().out.splitlines()
    assert len(parts) == 3 and max(map(len, parts)) <= 100
    assert all(part.startswith("     palavra") for part in parts[1:])
    assert len(whole) == 240
    monkeypatch.setenv("COLUMNS", "40")
    say_box("AVISO: " + "palavra " * 30)
    frame = capsys.readouterr().out.splitlines()
    assert {len(line) for line in frame} <= {38, 39, 40} and len({len(line) for line in frame}) == 1


def test_a_report_s_figures_have_a_point_on_the_console() -> None:
    assert (
        pointed("melhor: +0,035 [+0,021; +0,049], em 70 leituras") == "melhor: +0.035 [+0.021; +0.049], em 70 leituras"
    )


def test_a_reader_that_goes_away_ends_nothing() -> None:
    """As with ``| head``: the program neither fails nor complains."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cartas_mlflow", "train", "--help"],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    with process:
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_a_box_holds_its_longest_line(capsys: pytest.CaptureFixture[str]) -> None:
    open_console()
    say_box("AVISO\nmuito mais longo")
    assert capsys.readouterr().out.splitlines() == [
        "┌──────────────────┐",
        "│ AVISO            │",
        "│ muito mais longo │",
        "└──────────────────┘",
    ]


@pytest.mark.parametrize(("value", "places", "text"), [(0.5, 2, "0,50"), (157, 1, "157,0"), (-1.25, 1, "-1,2")])
def test_a_number_has_a_decimal_comma(value: float, places: int, text: str) -> None:
    assert decimal(value, places) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.26, "8.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_a_duration_has_the_unit_that_a_person_would_choose(seconds: float, text: str) -> None:
    assert duration(seconds) == text
