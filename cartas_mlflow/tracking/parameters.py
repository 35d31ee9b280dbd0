"""Which settings a run shows as parameters: those that a person chose among and that had an effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cartas_mlflow.tracking.run import param_text

ELSEWHERE = ("tracking.", "search.", "pretrain.", "serving.", "registry.")
"""About this machine; about other trainings; logged by MLflow as the model's configuration; about what comes after."""
WITHOUT_EFFECT = {
    *("model.hub_timeout", "model.fallback", "training.save_total_limit", "training.resume"),
    *("evaluation.engine", "evaluation.batch_size"),
}
"""No text and no figure depends on them; what a fallback changed stands in the settings themselves and in a tag."""
INERT = {
    **{f"generation.{name}": ("generation.do_sample", "false") for name in ("temperature", "top_p", "top_k", "seed")},
    "generation.length_penalty": ("generation.num_beams", "1"),
    "early_stopping.threshold": ("early_stopping.patience", "0"),
    "training.warmup_ratio": ("training.scheduler", "constant"),
    "model.quantization_type": ("derived.quantization", "none"),
    "model.double_quantization": ("derived.quantization", "none"),
}
"""Setting -> the parameter, and its value, that leave it without effect."""
COLUMNS = "data.columns."


def in_effect(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that count, of values or of their texts; everything about a switched-off part is left out."""
    return {
        name: value
        for name, value in params.items()
        if not name.startswith(ELSEWHERE) and name not in WITHOUT_EFFECT and not _is_idle(name, value, params)
    }


def _is_idle(name: str, value: Any, params: Mapping[str, Any]) -> bool:
    if name.startswith(COLUMNS):  # none is a column that the table has not
        return param_text(value) == name.removeprefix(COLUMNS)
    switch, off = INERT.get(name, (None, None))
    unset = value is None or (param_text(value) == "none" and name not in {"lora.bias", "derived.quantization"})
    return unset or (switch in params and param_text(params[switch]) == off)
