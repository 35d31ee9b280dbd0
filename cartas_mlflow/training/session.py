"""One training as it stands on disk: its folder, and how it goes on after an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.config import find_translation, load_config
from cartas_mlflow.console import say
from cartas_mlflow.errors import SettingError, TrainingError
from cartas_mlflow.files import check_sums, checksum, parse_table, read_text, write_text
from cartas_mlflow.modeling.checkpoints import find_checkpoint
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.run import TrackedRun, param_text
from cartas_mlflow.training.folder import ORIGINAL, RunIdentity, new_folder
from cartas_mlflow.training.resumption import find_training

FREE_ON_RESUME = ("training.resume", "tracking.", "model.fallback")
"""Settings that may differ when a training goes on; any other would silently mix two trainings."""


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
    checkpoint = find_checkpoint(find_training(config.training.resume, config.tracking))
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


def read_split(path: Path) -> str:
    """The table of ids on each side, as CSV text.

    Raises:
        DamagedFile: it is not there, or is no such table.
    """
    text = read_text(path, ORIGINAL)
    parse_table(text, path, ("id", "side"), ORIGINAL)
    return text


def _check_same_settings(resolved: Path, config: ExperimentConfig) -> None:
    earlier = load_config(resolved).flat()
    for key, value in config.flat().items():
        if earlier[key] != value and not key.startswith(FREE_ON_RESUME):
            raise SettingError(
                f"{key}={value} difere do treinamento interrompido ({earlier[key]}); retire essa configuração para "
                "continuar, ou comece um treinamento novo sem training.resume."
            )
