"""A process in a bare container: no home folder, a user that nobody knows, no git."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cartas_mlflow import environment
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.environment import complete_environment

VARIABLES = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR", "GIT_PYTHON_REFRESH")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of the variables, and a number that is not in the system's list of users."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(environment.atexit, "register", lambda *_, **__: None)
    return monkeypatch


@pytest.mark.parametrize("home", [None, "/nao/existe", "/dev/null"])
def test_a_home_that_is_not_there_is_made_up(bare: pytest.MonkeyPatch, home: str | None) -> None:
    if home is not None:
        bare.setenv("HOME", home)
    complete_environment()
    assert Path.home().is_dir()
    assert os.access(Path.home(), os.W_OK)
    Path.home().rmdir()


def test_a_home_that_can_only_be_read_stays_and_pictures_go_elsewhere(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("HOME", str(tmp_path))
    bare.setattr(os, "access", lambda *_: False)
    complete_environment()
    assert Path.home() == tmp_path
    Path(os.environ["MPLCONFIGDIR"]).rmdir()


def test_a_user_without_a_name_is_called_by_the_number(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("HOME", str(tmp_path))
    complete_environment()
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_what_is_there_stays(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"HOME": str(tmp_path), "USER": "ana", "GIT_PYTHON_REFRESH": "warn"}
    for name, value in given.items():
        bare.setenv(name, value)
    complete_environment()
    assert {name: os.environ.get(name) for name in VARIABLES if name in os.environ} == given


UNKNOWN_USER = """
import pwd

def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = unknown
"""
EVERYTHING = """
from cartas_mlflow.cli import main
code = main(["promote"])
import matplotlib.pyplot, peft, torch, transformers
raise SystemExit(code)
"""


def test_nobody_without_home_and_git_reads_no_english(tmp_path: Path, created_store: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNKNOWN_USER, encoding="utf-8")
    (tmp_path / "work").mkdir()
    shutil.copy(created_store, tmp_path / "work" / "mlflow.db")
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING],
        cwd=tmp_path / "work",
        env={"PATH": str(tmp_path / "work"), "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT_ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.stdout == "❌ O experimento cartas-ptt5 não existe; indique em tracking.experiment o dos treinamentos.\n"
    )
    assert (done.returncode, done.stderr) == (2, "")
