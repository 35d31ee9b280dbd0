"""A model that is logged and a champion that is registered, as the tests look at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Champion:
    """``uri``: of the model; ``server``: the tracking server's address."""

    uri: str
    server: str


def log_model(adapter: Path, *, embed_base: bool = False) -> str:
    """Log the model of an adapter's folder on the active run, or on one of its own."""
    from cartas_mlflow.modeling.base import find_base
    from cartas_mlflow.registry.model import ServedModel, log_reading_model
    from cartas_mlflow.settings import ModelSettings, ServingSettings

    served = ServedModel.load(adapter)
    base = find_base(ModelSettings(name=served.base_name, revision=served.base_revision, fallback=None))
    return log_reading_model(adapter, base, ServingSettings(), description="…", embed_base=embed_base, step=0)
