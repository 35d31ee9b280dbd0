"""What a training will write to its disk, told before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from cartas_mlflow.console import say
from cartas_mlflow.modeling.base import weight_files
from cartas_mlflow.modeling.memory import GIB
from cartas_mlflow.training.preparation import Setup

MIB = 2**20
STATES = 3
"""Values per trained weight in a checkpoint: itself and AdamW's two moments, in float32."""
ADAPTER_COPIES = 3
"""The training's folder, the run's artifacts, the logged model."""


def expected_bytes(setup: Setup, *, with_model: bool) -> float:
    """Checkpoints (one more than are kept, while it is written, and one that waits for MLflow), adapters, model.

    Args:
        with_model: a reading generator is logged, which carries a base that is not from the hub.
    """
    adapter = 4 * setup.parameters.trainable
    checkpoints = (setup.config.training.save_total_limit + 2) * STATES * adapter
    carried = with_model and (setup.config.registry.embed_base or setup.base.location.source != "hub")
    folder = setup.base.location.folder
    base = sum((folder / name).stat().st_size for name in weight_files(folder)) if carried else 0
    return checkpoints + ADAPTER_COPIES * adapter + base


def tell_disk(setup: Setup, folder: Path, *, with_model: bool) -> None:
    """Say how much a training will write at most, and warn where there is less room."""
    expected, free = expected_bytes(setup, with_model=with_model), shutil.disk_usage(folder).free
    say(f"Disco previsto, no máximo: {expected / MIB:.0f} MB (livres: {free / GIB:.1f} GB)")
    if expected > free:
        say(
            f"⚠️ Não cabe no disco de {folder}; libere espaço, ou use tracking.output_dir em outro disco, "
            "training.save_total_limit=1 ou um lora.r menor"
        )
