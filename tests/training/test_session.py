"""A training's folder, and what has to be the same when it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from finished import Trained

from cartas_mlflow.config import DEFAULT_CONFIG
from cartas_mlflow.errors import SettingError, TrainingError
from cartas_mlflow.tracking.journal import Journal
from cartas_mlflow.tracking.run import TrackedRun
from cartas_mlflow.training import folder as folder_module
from cartas_mlflow.training.session import Session, begin

RUN = TrackedRun("0123456789abcdef", "cartas-ptt5", inside_project=False, journal=Journal(Path("journal")))
SPLIT = "id,side\nabc,train\ndef,validation\n"


@pytest.fixture
def earlier(trained: Trained, tmp_path: Path) -> Path:
    """The folder of a training with checkpoints, as a copy that a test may change."""
    return Path(shutil.copytree(trained.folder, tmp_path / "20260711_143022"))


def start(folder: Path, **overrides: Any) -> Session:
    return begin(DEFAULT_CONFIG, {"tracking.output_dir": str(folder), **overrides})


def go_on(folder: Path, overrides: Mapping[str, Any] | None = None) -> Session:
    return begin(DEFAULT_CONFIG, {"training.resume": str(folder), **(overrides or {})})


def test_a_training_gets_a_folder_of_its_own_named_after_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module.time, "strftime", lambda _: "20260711_143022")
    folders = [start(tmp_path / "nova" / "pasta").folder for _ in range(3)]
    assert [folder.name for folder in folders] == ["20260711_143022", "20260711_143022-2", "20260711_143022-3"]
    assert all(folder.is_absolute() and folder.is_dir() for folder in folders)


@pytest.mark.parametrize("place", ["arquivo", "arquivo/dentro"])
def test_an_output_folder_that_is_a_file_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "arquivo").write_text("", encoding="utf-8")
    with pytest.raises(SettingError) as error:
        start(tmp_path / place)
    assert str(error.value) == (
        f"tracking.output_dir={tmp_path / place}: não é possível criar pastas ali; indique outra."
    )


def test_a_training_goes_on_with_its_own_settings_run_and_newest_checkpoint(
    earlier: Path, trained: Trained, said: list[str]
) -> None:
    session = go_on(earlier)
    assert session.run_id == trained.result.run_id
    assert session.folder == earlier
    assert session.checkpoint == earlier / "checkpoints" / "checkpoint-15"
    assert session.config.training.learning_rate == 0.005
    assert said == [f"Continuando de {session.checkpoint} com as configurações de {earlier / 'config_resolved.yaml'}"]


@pytest.mark.parametrize(
    ("file", "typed", "variables", "setting", "value"),
    [
        ("training: {epochs: 9}", {}, {}, "training.epochs", 3),
        ("data: {path: outra.csv}", {}, {}, "data.max_length", 450),
        ("model: {name: other/base, revision: v2}", {}, {}, "model.revision", None),
        ("tracking: {run_name: do arquivo}", {"tracking.run_name": "digitado"}, {}, "tracking.run_name", "digitado"),
        ("", {}, {"MLFLOW_EXPERIMENT_NAME": "da casa"}, "tracking.experiment", "cartas-ptt5"),
        ("", {"epochs": "9"}, {}, "training.epochs", 9),  # and remember() then refuses it
    ],
)
def test_who_wins_when_a_training_goes_on(
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    typed: dict[str, str],
    variables: dict[str, str],
    setting: str,
    value: Any,
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    (tmp_path / "eu.yaml").write_text(file, encoding="utf-8")
    session = begin(tmp_path / "eu.yaml", {"training.resume": str(earlier), **typed})
    assert session.config.flat()[setting] == value


def test_a_checkpoint_away_from_its_training_is_one_sentence(earlier: Path) -> None:
    (earlier / "run.json").unlink()
    with pytest.raises(TrainingError) as error:
        go_on(earlier)
    assert str(error.value) == (
        f"{earlier} não tem os arquivos run.json e config_resolved.yaml do treinamento; indique em training.resume um "
        "checkpoint dentro da pasta original."
    )


def test_what_a_resumption_needs_is_written_down(tmp_path: Path) -> None:
    session = start(tmp_path)
    session.remember(RUN, session.config, SPLIT)
    identity = json.loads(session.identity.read_text(encoding="utf-8"))
    assert identity.pop("checksums").keys() == {"config_resolved.yaml", "split.csv"}
    assert identity == {"run_id": "0123456789abcdef", "experiment": "cartas-ptt5"}
    assert session.split.read_text(encoding="utf-8") == SPLIT
    assert session.resolved.read_text(encoding="utf-8") == session.config.to_yaml()


def test_a_setting_that_differs_from_the_interrupted_trainings_is_one_sentence(earlier: Path) -> None:
    session = go_on(earlier, {"training.learning_rate": "1e-4"})
    with pytest.raises(SettingError) as error:
        session.remember(RUN, session.config, session.split.read_text(encoding="utf-8"))
    assert str(error.value) == (
        "training.learning_rate=0.0001 difere do treinamento interrompido (0.005); retire essa configuração para "
        "continuar, ou comece um treinamento novo sem training.resume."
    )


@pytest.mark.parametrize("setting", ["tracking.run_name", "tracking.output_dir"])
def test_settings_that_do_not_touch_the_training_may_differ(earlier: Path, setting: str) -> None:
    session = go_on(earlier, {setting: "outro"})
    session.remember(RUN, session.config, session.split.read_text(encoding="utf-8"))
    assert json.loads(session.identity.read_text(encoding="utf-8"))["run_id"] == RUN.id


def test_readings_that_changed_since_are_one_sentence(earlier: Path) -> None:
    session = go_on(earlier)
    with pytest.raises(TrainingError) as error:
        session.remember(RUN, session.config, SPLIT)
    assert str(error.value) == (
        f"As leituras de {session.config.data.path} mudaram desde a interrupção; recupere a tabela de então, ou comece "
        "um treinamento novo sem training.resume."
    )
    assert session.split.read_text(encoding="utf-8") != SPLIT
