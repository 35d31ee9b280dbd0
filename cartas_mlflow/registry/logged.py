"""The reading generator as an entry of a run's journal: enough to log it now, or later with ``sync``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cartas_mlflow.files import MANIFEST, checksum
from cartas_mlflow.modeling.base import BaseLocation, find_base
from cartas_mlflow.registry.model import LOGGED_NAME, log_reading_model
from cartas_mlflow.settings import ModelSettings, ServingSettings
from cartas_mlflow.tracking.journal import Point
from cartas_mlflow.tracking.store import keeps_models
from cartas_mlflow.tracking.telling import log_model_points

ADAPTER_TAG = "adapter.checksum"
"""On a logged model: of which adapter it is made, so that an entry that is told again makes no second model."""


def model_entry(
    base: BaseLocation, serving: ServingSettings, *, description: str, embed_base: bool, step: int
) -> dict[str, Any]:
    """What :func:`log_entry` needs besides the adapter, as JSON has it; see
    :func:`~cartas_mlflow.registry.model.log_reading_model`."""
    location = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(base).items()}
    return {
        "base": location,
        "serving": serving.model_dump(mode="json"),
        "description": description,
        "embed_base": embed_base,
        "step": step,
    }


def log_entry(run_id: str, root: Path, body: Mapping[str, Any]) -> None:
    """Log the model that a journal's entry names, with its metrics, unless the run has it already.

    Args:
        root: the run's folder.
        body: of an entry of the kind ``model``, its model as :func:`model_entry` gave it.

    Raises:
        MlflowException: the store does not take it.
        UserError: the adapter is damaged, or its base is gone.
    """
    if not keeps_models():
        return
    model, adapter = body["model"], root / body["adapter"]
    digest = checksum(adapter / MANIFEST)
    model_id, is_ready = _find_or_make(run_id, digest)
    if not is_ready:
        log_reading_model(
            adapter,
            _base_of(model["base"]),
            ServingSettings.model_validate(model["serving"]),
            description=model["description"],
            embed_base=model["embed_base"],
            step=model["step"],
            # MLflow links a model to its run before it uploads anything, and does not link it twice.
            run_id=None if _is_linked(run_id, model_id) else run_id,
            model_id=model_id,
        )
    log_model_points(run_id, model_id, [Point(*values) for values in body["points"]], body["dataset"])


def _find_or_make(run_id: str, digest: str) -> tuple[str, bool]:
    """The id of the run's model of this adapter, in the run's experiment, and whether it was logged to its end."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(run_id)
    place = run.info.experiment_id
    found = client.search_logged_models([place], f"source_run_id = '{run_id}' AND name = '{LOGGED_NAME}'")
    same = sorted((model.status != "READY", model.model_id) for model in found if model.tags.get(ADAPTER_TAG) == digest)
    if same:
        unfinished, model_id = same[0]
        return model_id, not unfinished
    made = client.create_logged_model(
        place, LOGGED_NAME, source_run_id=run_id, tags={ADAPTER_TAG: digest}, params=run.data.params
    )
    return made.model_id, False


def _is_linked(run_id: str, model_id: str) -> bool:
    from mlflow import MlflowClient

    outputs = MlflowClient().get_run(run_id).outputs
    return outputs is not None and any(output.model_id == model_id for output in outputs.model_outputs)


def _base_of(known: Mapping[str, Any]) -> BaseLocation:
    """The base where it was; on another machine, where it is found there."""
    places = {key: Path(known[key]) if known[key] is not None else None for key in ("folder", "tokenizer")}
    if places["folder"].is_dir():
        return BaseLocation(**{**known, **places})
    return find_base(ModelSettings(name=known["name"], revision=known["revision"], fallback=None))
