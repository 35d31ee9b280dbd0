"""What can be found wrong with a training before the seconds that it takes to import what trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cartas_mlflow.config import load_config
from cartas_mlflow.modeling import processes
from cartas_mlflow.tracking.store import check_tracking_server


def check_training(config_path: str, overrides: Mapping[str, Any]) -> None:
    """Read the settings, and knock at the tracking server.

    Raises:
        UserError: a setting that is wrong, or a server that is away.
    """
    config = load_config(config_path, overrides)
    # One that goes on has settings of its own, and may have begun without a server.
    if processes.leads() and not config.tracking.offline and config.training.resume is None:
        check_tracking_server()
