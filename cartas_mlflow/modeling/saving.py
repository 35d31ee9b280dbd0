"""A checkpoint written whole and sealed, or, where the disk is full, not at all: the training goes on without it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from cartas_mlflow.console import say
from cartas_mlflow.files import seal
from cartas_mlflow.modeling.checkpoints import newest_checkpoint

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_WORDS = ("PytorchStreamWriter failed", "inline_container", "os error 28", "os error 122", "No space left")
"""How torch (whose error has no class of its own) and safetensors say it."""


def save_or_skip(checkpoint: Path, save: Callable[[], None]) -> bool:
    """Save a checkpoint's folder; whether it was: on a full disk it is removed, and the older ones stay.

    Args:
        save: writes the folder.

    Raises:
        Exception: whatever else goes wrong.
    """
    try:
        save()
        seal(checkpoint)
    except Exception as error:
        if not is_full_disk(error):
            raise
        shutil.rmtree(checkpoint, ignore_errors=True)
        older = newest_checkpoint(checkpoint.parent)
        rest = f"o mais novo continua sendo {older.name}" if older else "ainda não há nenhum"
        say(
            f"⚠️ O disco de {checkpoint.parent} está cheio: {checkpoint.name} não foi salvo, e {rest}. O treino "
            "continua; libere espaço para o próximo."
        )
        return False
    return True


def is_full_disk(error: BaseException) -> bool:
    """Whether a library could not write because the disk is full."""
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)
