"""A model's weights out of the way for a while, where another model needs their device's memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import torch

from cartas_mlflow.modeling.memory import release_memory

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def parked(model: nn.Module) -> Iterator[None]:
    """Take a model's weights off its device, and give exactly them back: a GPU's to the machine, a CPU's to the disk.

    Where the disk has no room they stay where they are. Of 4-bit weights the scales stay: a sixteenth.
    """
    weights = list(model.parameters())
    with tempfile.TemporaryFile() as file:
        away = _save(weights, file)
        if away is None:
            yield
            return
        places = [weight.device for weight in weights]
        for weight in weights:
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)
        release_memory()
        try:
            yield
        finally:
            release_memory()
            file.seek(0)
            kept = away or torch.load(file, weights_only=True)
            for weight, values, place in zip(weights, kept, places, strict=True):
                weight.data = values.to(place)


def _save(weights: list[nn.Parameter], file: BinaryIO) -> list[torch.Tensor] | None:
    """The weights in the machine's memory; an empty list if they are in the file, None if there is no room in it."""
    if any(weight.device.type != "cpu" for weight in weights):
        return [weight.data.cpu() for weight in weights]
    try:
        torch.save([weight.data for weight in weights], file)
    except (OSError, RuntimeError):  # torch's own writer has no class for a full disk
        return None
    return []
