"""One pre-training as it stands on disk: its folder, and how it goes on after an interruption."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cartas_mlflow.config import find_project_file
from cartas_mlflow.errors import SettingError, TrainingError
from cartas_mlflow.files import OwnFile, write_text
from cartas_mlflow.pretraining.corpus import find_texts
from cartas_mlflow.pretraining.essays import find_essays
from cartas_mlflow.pretraining.start import find_start
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.run import TrackedRun, param_text

FREE_ON_RESUME = (
    *(f"pretrain.{name}" for name in ("corpus", "essays", "output", "minutes")),
    *(f"pretrain.{name}" for name in ("threads", "compile", "device")),
    *(f"pretrain.{name}" for name in ("log_steps", "eval_steps", "save_minutes", "held_out")),
    *(f"pretrain.{name}" for name in ("total_tokens", "decay_tokens", "domain_tokens", "domain_share")),
    "pretrain.start_weight",
)
"""Where things are and how they are watched; how the rest of the run is planned, and what is written of it. Any other
setting made what is in the checkpoint."""


class PretrainingIdentity(OwnFile):
    """``run.json``: the MLflow run of a pre-training, its settings, and the digests of its texts."""

    run_id: str
    experiment: str
    made_of: dict[str, Any]
    corpus: str
    essays: str
    start: str | None = None
    """Fingerprint of the weights that it began with."""


@dataclass(frozen=True)
class PretrainingSession:
    """A pre-training's folder and its texts. ``run_id`` is set when it goes on with an earlier one.

    ``start``: fingerprint of the weights that it began with; None if those are its own.
    """

    folder: Path
    texts: Sequence[Path]
    essays: Sequence[Path]
    run_id: str | None = None
    start: str | None = None

    @property
    def log_file(self) -> Path:
        return self.folder / "pretraining_log.log"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def identity(self) -> Path:
        return self.folder / "run.json"

    @property
    def resolved(self) -> Path:
        return self.folder / "config_resolved.yaml"

    def remember(self, run: TrackedRun, config: ExperimentConfig) -> None:
        """Write down what a resumption needs."""
        write_text(self.resolved, config.to_yaml())
        PretrainingIdentity(
            run_id=run.id, experiment=run.experiment, made_of=_made_of(config), start=self.start, **self.digests
        ).write(self.identity)

    @property
    def digests(self) -> dict[str, str]:
        """First 16 hex digits of the SHA-256 of the corpus's texts, and of the essays'."""
        return {"corpus": _digest(self.texts), "essays": _digest(self.essays)}


def begin_pretraining(config: ExperimentConfig) -> PretrainingSession:
    """Find the texts and make the folder; or go back to the one that has a checkpoint.

    Raises:
        UserError: texts that are not there, a folder that cannot be written to, a checkpoint of another pre-training.
    """
    settings = config.pretrain
    if settings.corpus is None:
        raise SettingError("Falta a pasta do corpus; indique-a com pretrain.corpus=PASTA (arquivos .txt em português).")
    texts = find_texts(find_project_file(settings.corpus))
    essays = [] if settings.essays is None else find_essays(find_project_file(settings.essays))
    session = PretrainingSession(_own_folder(Path(settings.output).expanduser()), texts, essays)
    if not session.checkpoint.exists():
        return session if settings.start is None else replace(session, start=find_start(settings.start).fingerprint())
    if not session.identity.exists():
        raise TrainingError(
            f"{session.checkpoint} não tem ao lado o run.json do seu pré-treino; indique outra pasta em "
            "pretrain.output."
        )
    earlier = PretrainingIdentity.read(session.identity, "recupere-o de uma cópia, ou indique outra pretrain.output")
    _check_same(session, config, earlier)
    return replace(session, run_id=earlier.run_id, start=earlier.start)


def _own_folder(folder: Path) -> Path:
    """The folder, made where it is not there. One that holds anything else is not touched: ``base`` gets replaced."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SettingError(f"pretrain.output={folder} não é uma pasta; indique outra.") from None
    except PermissionError:
        raise SettingError(f"pretrain.output={folder}: não é possível criar pastas ali; indique outra.") from None
    if not os.access(folder, os.W_OK):
        raise SettingError(f"pretrain.output={folder}: não é possível escrever ali; indique outra pasta.")
    ours = {"run.json", "pretraining_log.log"}
    names = {path.name for path in folder.iterdir()}
    if names and not names & ours:
        raise SettingError(
            f"pretrain.output={folder} já tem arquivos que não são de um pré-treino; indique uma pasta nova ou vazia."
        )
    return folder.resolve()


def _check_same(session: PretrainingSession, config: ExperimentConfig, earlier: PretrainingIdentity) -> None:
    for key, value in _made_of(config).items():
        before = earlier.made_of.get(key)
        if before != value:
            raise SettingError(
                f"{key}={param_text(value)} difere do pré-treino em {session.folder} ({param_text(before)}); retire "
                "essa configuração para continuar, ou indique outra pasta em pretrain.output."
            )
    for name, digest in session.digests.items():
        if getattr(earlier, name) != digest:
            what = {"corpus": "O corpus mudou", "essays": "Os ensaios mudaram"}[name]
            raise TrainingError(
                f"{what} desde o início do pré-treino em {session.folder}; recupere os textos de então, ou indique "
                "outra pasta em pretrain.output."
            )
    start, share = config.pretrain.start, config.pretrain.start_weight
    if share and start and earlier.start and not find_start(start).has_fingerprint(earlier.start):
        raise TrainingError(
            f"O base {start} mudou desde o início do pré-treino em {session.folder}; recupere o de "
            "então, ou retire pretrain.start_weight."
        )


def _made_of(config: ExperimentConfig) -> dict[str, Any]:
    return {
        key: value for key, value in config.flat().items() if key.startswith("pretrain.") and key not in FREE_ON_RESUME
    }


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
