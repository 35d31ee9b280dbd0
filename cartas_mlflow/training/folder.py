"""A training's folder: a place of its own, and the file that says which run it is."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field

from cartas_mlflow.errors import SettingError
from cartas_mlflow.files import OwnFile

ORIGINAL = "recupere-o de uma cópia da pasta, ou comece um treinamento novo"


class RunIdentity(OwnFile):
    """``run.json``: the MLflow run of a training, and the checksums of what stands beside it."""

    run_id: str = Field(min_length=1)
    experiment: str
    checksums: dict[str, str] = Field(default_factory=dict)


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
