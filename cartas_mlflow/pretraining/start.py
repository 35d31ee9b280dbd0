"""A pre-training that begins with an earlier base: with its language alone, or with all of it, to which it may return
half-way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.config import find_project_file
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.base import TOKENIZER_FILES, BaseLocation
from cartas_mlflow.modeling.loading import load_base

if TYPE_CHECKING:
    import torch
    from transformers import T5ForConditionalGeneration

CROSS_ATTENTION = ".EncDecAttention."
_KEPT = ("shared.", "decoder.")


def find_start(base: str) -> BaseLocation:
    """The base that a pre-training begins with.

    Raises:
        SettingError: the folder is no base.
    """
    folder = find_project_file(base)
    if not (folder / "config.json").is_file():
        raise SettingError(f"pretrain.start={base} não é a pasta de um modelo base; indique uma que tenha config.json.")
    return BaseLocation(base, folder, "folder")


def take_vocabulary(base: str, folder: Path) -> None:
    """Copy a base's tokenizer.

    Raises:
        SettingError: there is none.
    """
    source = find_start(base).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOKENIZER_FILES, "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy2(source / name, folder / name)
    shutil.copy2(source / "config.json", folder / "config.json")


def take_weights(model: T5ForConditionalGeneration, base: str, keeps: str) -> None:
    """Give a new model, in place, the weights of a base.

    Args:
        keeps: ``all`` of them, or ``language``: the embeddings and the decoder, but for the decoder's attention to the
            encoder. What the base has been taught to answer goes through its encoder and that attention: both begin
            anew. What stays is how it continues a text.

    Raises:
        SettingError: the base has another shape or vocabulary.
    """
    own = model.state_dict()
    kept = {name for name in own if keeps == "all" or (name.startswith(_KEPT) and CROSS_ATTENTION not in name)}
    for name, earlier in _weights(base, {name: own[name] for name in kept}).items():
        own[name].copy_(earlier)


def mix_weights(weights: Mapping[str, torch.Tensor], base: str, share: float) -> None:
    """Take the mean, in place, of weights and those of the base that they were learnt from.

    What was learnt stays nearly whole, and what the base could do before comes back (WiSE-FT: Wortsman et al. 2022,
    arXiv:2109.01903, equation 1).

    Args:
        share: of the base's, from 0 to 1.

    Raises:
        SettingError: the base is gone, or has another shape or vocabulary.
    """
    for name, earlier in _weights(base, weights).items():
        weights[name].lerp_(earlier.to(weights[name]), share)


def _weights(base: str, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    earlier = load_base(find_start(base)).state_dict()
    for name in sorted(like):
        if name not in earlier or earlier[name].shape != like[name].shape:
            raise SettingError(
                f"pretrain.start={base} tem outra forma ({name}); use a sua em pretrain.shape e pretrain.vocabulary."
            )
    return {name: earlier[name] for name in like}
