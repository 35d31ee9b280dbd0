"""Which checkpoint can be trusted: one that was written to its end."""

from __future__ import annotations

import json
from pathlib import Path

from cartas_mlflow.errors import TrainingError

PARTS = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors")
"""A checkpoint that lacks one of these resumes with a fresh optimizer, another order, or not at all: in silence."""


def checkpoint_step(folder: Path) -> int | None:
    """The step of a complete checkpoint folder; None if something is missing or cut short.

    The library writes ``trainer_state.json`` last, so one that parses and tells the folder's own step closes it.
    """
    if not all((folder / part).is_file() and (folder / part).stat().st_size for part in PARTS):
        return None
    try:
        step = json.loads((folder / "trainer_state.json").read_bytes())["global_step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if folder.name == f"checkpoint-{step}" else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    steps = {path: checkpoint_step(path) for path in folder.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path, step in steps.items() if step is not None), key=lambda path: steps[path] or 0)


def find_checkpoint(path: str) -> Path:
    """The checkpoint folder that the user named, or the newest complete one inside the folder they named.

    Raises:
        TrainingError: there is none, or it is incomplete.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise TrainingError(
            f"A pasta {path} (training.resume) não existe; indique uma pasta checkpoint-N ou a que as contém."
        )
    if folder.name.startswith("checkpoint-"):
        if checkpoint_step(folder) is None:
            others = complete_checkpoints(folder.parent)
            mend = f"use o mais novo completo, {others[-1]}" if others else "comece um treinamento novo"
            raise TrainingError(f"O checkpoint {path} (training.resume) está incompleto; {mend}.")
        return folder.resolve()
    found = complete_checkpoints(folder) or complete_checkpoints(folder / "checkpoints")
    if not found:
        raise TrainingError(f"Não há checkpoint completo em {path}; indique em training.resume uma pasta checkpoint-N.")
    return found[-1].resolve()
