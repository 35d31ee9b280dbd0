"""Which checkpoint can be trusted: one that was written to its end, and has not changed since."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from cartas_mlflow.console import say
from cartas_mlflow.errors import TrainingError
from cartas_mlflow.files import DamagedFile, check_seal

PARTS = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "adapter_model.safetensors")
GENERATORS = "rng_state*.pth"
"""A checkpoint that lacks one of these resumes with a fresh optimizer, another order, or not at all: in silence. Of the
generators there is one for each process that trained."""


def checkpoint_step(folder: Path) -> int | None:
    """The step of a complete checkpoint folder; None if something is missing or cut short.

    The library writes ``trainer_state.json`` last, so one that parses and tells the folder's own step closes it.
    """
    if not all(part.is_file() and part.stat().st_size for part in _parts(folder)):
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


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder, if there is one."""
    return next(reversed(complete_checkpoints(folder)), None)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a complete checkpoint, as a Portuguese clause; None if it can be trusted."""
    try:
        check_seal(folder, "")
    except DamagedFile as damage:
        return damage.clause
    for part in _parts(folder):
        if part.suffix in {".pt", ".pth"} and not _is_whole_archive(part):
            return f"{part.name}: está cortado"
        if part.suffix == ".safetensors" and not _holds_tensors(part):
            return f"{part.name}: está cortado"
    return None


def find_checkpoint(path: str) -> Path:
    """The checkpoint folder that the user named, or the newest sound one inside the folder they named.

    Raises:
        TrainingError: there is none, or it is incomplete or damaged.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise TrainingError(
            f"A pasta {path} (training.resume) não existe; indique uma pasta checkpoint-N ou a que as contém."
        )
    if folder.name.startswith("checkpoint-"):
        damage = "está incompleto" if checkpoint_step(folder) is None else find_damage(folder)
        if damage is not None:
            others = [other for other in complete_checkpoints(folder.parent) if find_damage(other) is None]
            mend = f"use o mais novo íntegro, {others[-1]}" if others else "comece um treinamento novo"
            what = damage if damage == "está incompleto" else f"está danificado ({damage})"
            raise TrainingError(f"O checkpoint {path} (training.resume) {what}; {mend}.")
        return folder.resolve()
    found = complete_checkpoints(folder) or complete_checkpoints(folder / "checkpoints")
    for checkpoint in reversed(found):
        damage = find_damage(checkpoint)
        if damage is None:
            return checkpoint.resolve()
        say(f"⚠️ {checkpoint.name} está danificado ({damage}); tentando o anterior.")
    raise TrainingError(f"Não há checkpoint completo em {path}; indique em training.resume uma pasta checkpoint-N.")


def _parts(folder: Path) -> list[Path]:
    """The files that a checkpoint must have."""
    generators = sorted(folder.glob(GENERATORS)) or [folder / "rng_state.pth"]
    return [*(folder / part for part in PARTS), *generators]


def _holds_tensors(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return bool(tensors.keys())
    except (SafetensorError, OSError):
        return False


def _is_whole_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError):
        return False
