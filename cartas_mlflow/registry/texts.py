"""Which readings a model has seen in its training, and what it wrote for those that it has not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import RegistryError
from cartas_mlflow.files import parse_table, read_text
from cartas_mlflow.settings import RECORD_FIELDS
from cartas_mlflow.tracking.run import KEPT_TAG

if TYPE_CHECKING:
    from cartas_mlflow.registry.candidates import Candidate

FINAL_TEXTS = "samples/final.csv"
TRAIN_AGAIN = "recupere-o de uma cópia, ou treine de novo"


@dataclass(frozen=True)
class TrainedOn:
    """The split of a training: :func:`reading_id` of the readings on each side."""

    train: frozenset[str]
    validation: frozenset[str]


def reading_id(text: str) -> str:
    """12 hex digits of the SHA-256 of a reading's text: what a model has seen is a text, whatever its prompt was."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def trained_on(candidate: Candidate) -> TrainedOn | None:
    """The split that the candidate's training wrote down; None where that is no longer to be had."""
    text = _split_text(candidate)
    if text is None:
        return None
    rows = parse_table(text, f"data/split.csv ({candidate.name})", ("reading", "side"), TRAIN_AGAIN)
    train, validation = ({row["reading"] for row in rows if row["side"] == side} for side in ("train", "validation"))
    return TrainedOn(frozenset(train), frozenset(validation))


def validation_table(run_id: str) -> list[dict[str, str]]:
    """The validation records of a training with their generated texts: id, fields, ``gerado``, ``real``.

    Raises:
        RegistryError: the run no longer has them.
    """
    text = _artifact(run_id, FINAL_TEXTS) or _kept_text(run_id)
    if text is None:
        raise RegistryError(
            f"A execução {run_id} não tem {FINAL_TEXTS}, as leituras de validação; treine de novo para comparar."
        )
    return parse_table(text, f"{FINAL_TEXTS} ({run_id})", (*RECORD_FIELDS, "gerado", "real"), TRAIN_AGAIN)


def _kept_text(run_id: str) -> str | None:
    """The table where the readings were not to leave the machine."""
    from mlflow import MlflowClient

    folder = MlflowClient().get_run(run_id).data.tags.get(KEPT_TAG)
    if folder is None:
        return None
    kept = Path(folder) / FINAL_TEXTS
    if not kept.exists():
        raise RegistryError(
            f"As leituras da execução {run_id} ficaram no computador que a treinou (tracking.log_texts=false), em "
            f"{folder}; faça ali a comparação."
        )
    return read_text(kept, TRAIN_AGAIN)


def _split_text(candidate: Candidate) -> str | None:
    if candidate.run_id is not None:
        return _artifact(candidate.run_id, "data/split.csv")
    beside = Path(candidate.name).resolve().parent / "split.csv"
    return read_text(beside, TRAIN_AGAIN) if beside.exists() else None


def _artifact(run_id: str, path: str) -> str | None:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")
    except (MlflowException, OSError):
        return None
