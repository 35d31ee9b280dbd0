"""One training as it stands on disk: its folder, and how it goes on after an interruption."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from cartas_mlflow.config import find_translation, load_config
from cartas_mlflow.console import say
from cartas_mlflow.errors import SettingError, TrainingError
from cartas_mlflow.files import OwnFile, check_sums, checksum, parse_table, read_text, write_text
from cartas_mlflow.modeling.checkpoints import complete_checkpoints, find_checkpoint
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.run import TrackedRun, param_text

FREE_ON_RESUME = ("training.resume", "tracking.", "model.fallback")
"""Settings that may differ when a training goes on; any other would silently mix two trainings."""


ORIGINAL = "recupere-o de uma cópia da pasta, ou comece um treinamento novo"


class RunIdentity(OwnFile):
    """``run.json``: the MLflow run of a training, and the checksums of what stands beside it."""

    run_id: str = Field(min_length=1)
    experiment: str
    checksums: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """A training's folder. ``checkpoint`` and ``run_id`` are set when it goes on with an earlier one."""

    folder: Path
    config: ExperimentConfig
    config_path: str | Path
    checkpoint: Path | None = None
    run_id: str | None = None

    @property
    def log_file(self) -> Path:
        return self.folder / "training_log.log"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def report(self) -> Path:
        return self.folder / "training_metrics.json"

    @property
    def resolved(self) -> Path:
        return self.folder / "config_resolved.yaml"

    @property
    def split(self) -> Path:
        return self.folder / "split.csv"

    @property
    def identity(self) -> Path:
        return self.folder / "run.json"

    def remember(self, run: TrackedRun, config: ExperimentConfig, split: str) -> None:
        """Write down what a resumption needs, or hold the present against what the interrupted training wrote down.

        Args:
            split: the table of ids on each side, as CSV.

        Raises:
            SettingError: a setting differs from the interrupted training's.
            TrainingError: the readings differ.
        """
        if self.checkpoint is not None:
            _check_same_settings(self.resolved, config)
            if read_split(self.split) != split:
                raise TrainingError(
                    f"As leituras de {config.data.path} mudaram desde a interrupção; recupere a tabela de então, ou "
                    "comece um treinamento novo sem training.resume."
                )
        write_text(self.resolved, config.to_yaml())
        write_text(self.split, split)
        sums = {path.name: checksum(path) for path in (self.resolved, self.split)}
        RunIdentity(run_id=run.id, experiment=run.experiment, checksums=sums).write(self.identity)


def begin(config_path: str | Path, overrides: Mapping[str, Any]) -> Session:
    """Read the settings and make the training's folder; or, with ``training.resume``, go back to an earlier one.

    Raises:
        SettingError: a setting that is wrong.
        TrainingError: no complete checkpoint where ``training.resume`` points.
    """
    config = load_config(config_path, overrides)
    _tell_translation(config_path)
    if config.training.resume is None:
        return Session(new_folder(Path(config.tracking.output_dir)), config, config_path)
    checkpoint = find_checkpoint(find_training(config.training.resume, Path(config.tracking.output_dir)))
    earlier = Session(checkpoint.parent.parent, config, config_path)
    if not earlier.identity.exists() or not earlier.resolved.exists():
        raise TrainingError(
            f"{earlier.folder} não tem os arquivos run.json e config_resolved.yaml do treinamento; indique em "
            "training.resume um checkpoint dentro da pasta original."
        )
    identity = RunIdentity.read(earlier.identity, ORIGINAL)
    check_sums(earlier.folder, identity.checksums, earlier.identity.name, ORIGINAL)
    say(f"Continuando de {checkpoint} com as configurações de {earlier.resolved}")
    return Session(
        earlier.folder, load_config(earlier.resolved, overrides), earlier.resolved, checkpoint, identity.run_id
    )


def _tell_translation(config_path: str | Path) -> None:
    translation = find_translation(config_path)
    if translation is None:
        return
    say(f"{config_path} é do sistema original: {len(translation.settings)} configurações traduzidas")
    for name, value in translation.settings.items():
        say(f"  {name}={param_text(value)}")
    for key, why in translation.dropped.items():
        say(f"  sem equivalente: {key} ({why})")


def find_training(resume: str, parent: Path) -> str:
    """The folder that the user means by ``last``, or by a run's id; any other text is a folder already.

    ``last``: of the trainings in the parent folder that did not reach their end, the one that saved a checkpoint last.

    Raises:
        TrainingError: there is none.
    """
    if resume != "last" and not re.fullmatch(r"[0-9a-f]{32}", resume):
        return resume
    saved = {path.parent: path.parent / "checkpoints" for path in parent.glob("*/run.json")}
    if resume == "last":
        begun = [
            folder
            for folder, checkpoints in saved.items()
            if complete_checkpoints(checkpoints) and not (folder / "training_metrics.json").exists()
        ]
        if not begun:
            raise TrainingError(
                f"Não há treinamento interrompido em {parent} de onde continuar; indique em training.resume uma pasta "
                "checkpoint-N, ou tracking.output_dir."
            )
        return str(max(begun, key=lambda folder: saved[folder].stat().st_mtime))
    named = [folder for folder in saved if RunIdentity.read(folder / "run.json", ORIGINAL).run_id == resume]
    if not named:
        raise TrainingError(
            f"Nenhuma pasta em {parent} é da execução {resume}; indique em training.resume uma pasta checkpoint-N, ou "
            "tracking.output_dir."
        )
    return str(named[0])


def read_split(path: Path) -> str:
    """The table of ids on each side, as CSV text.

    Raises:
        DamagedFile: it is not there, or is no such table.
    """
    text = read_text(path, ORIGINAL)
    parse_table(text, path, ("id", "side"), ORIGINAL)
    return text


def say_interrupted(checkpoint: Path | None) -> str:
    """Tell where the emergency checkpoint is and how to go on from it; gives the latter as Markdown."""
    if checkpoint is None:
        say("⚠️ Nenhum checkpoint foi salvo: a interrupção veio antes do primeiro passo.")
        return "Não há checkpoint de onde continuar."
    command = f"python -m cartas_mlflow train --resume {shlex.quote(str(checkpoint))}"
    say(f"✅ Checkpoint de emergência salvo em: {checkpoint}")
    say(f"Para continuar: {command}")
    return f"Para continuar: `{command}`"


def new_folder(parent: Path) -> Path:
    """Make a folder of its own in the parent, named after the present time.

    Raises:
        SettingError: no folder can be made there.
    """
    stamp = time.strftime("%Y%m%d_%H%M%S")
    for number in range(1, 1000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if folder.is_dir():
                continue
            raise SettingError(f"tracking.output_dir={parent} não é uma pasta; indique outra.") from None
        except (NotADirectoryError, PermissionError):
            raise SettingError(
                f"tracking.output_dir={parent}: não é possível criar pastas ali; indique outra."
            ) from None
        return folder.resolve()
    raise SettingError(f"tracking.output_dir={parent} já tem 999 treinamentos deste segundo; indique outra pasta.")


def _check_same_settings(resolved: Path, config: ExperimentConfig) -> None:
    earlier = load_config(resolved).flat()
    for key, value in config.flat().items():
        if earlier[key] != value and not key.startswith(FREE_ON_RESUME):
            raise SettingError(
                f"{key}={value} difere do treinamento interrompido ({earlier[key]}); retire essa configuração para "
                "continuar, ou comece um treinamento novo sem training.resume."
            )
