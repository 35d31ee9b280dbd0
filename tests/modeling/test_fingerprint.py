"""A base is known by its weights, whatever file they come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.fingerprint import fingerprint_files

Weights = dict[str, torch.Tensor]
SHARED = "shared.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def copy_of_base(tiny_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_base, tmp_path / "copia")


def as_bin(folder: Path, weights: Weights) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


def as_old_pickle(folder: Path, weights: Weights) -> None:
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def as_ptt5_s_bin(folder: Path, weights: Weights) -> None:
    """The tied embeddings under all four names, and a matrix that no T5 has any more."""
    obsolete = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    as_bin(folder, {**weights, **dict.fromkeys(COPIES, weights[SHARED]), obsolete: torch.ones(4, 2)})


def under_another_name(folder: Path, weights: Weights) -> None:
    renamed = {COPIES[1] if name == SHARED else name: tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def in_shards(folder: Path, weights: Weights) -> None:
    names = sorted(weights)
    places = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("write", [as_bin, as_old_pickle, as_ptt5_s_bin, under_another_name, in_shards])
def test_equal_weights_are_one_base(write: Callable[[Path, Weights], None], copy_of_base: Path) -> None:
    location = BaseLocation("base", copy_of_base, "folder")
    original = location.fingerprint()
    weights = load_file(copy_of_base / "model.safetensors")
    (copy_of_base / "model.safetensors").unlink()
    write(copy_of_base, weights)
    assert location.fingerprint() == original
    assert original.startswith("w1:")
    assert len(original) == 19


def one_value(weights: Weights) -> Weights:
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed[max(changed)].view(-1)[-1] += 1e-3
    return changed


def two_layers_exchanged(weights: Weights) -> Weights:
    def other(name: str) -> str:
        return name.replace("block.0", "block.x").replace("block.1", "block.0").replace("block.x", "block.1")

    return {other(name) if "SelfAttention.q" in name else name: tensor for name, tensor in weights.items()}


def an_untied_head(weights: Weights) -> Weights:
    return {**weights, "lm_head.weight": weights[SHARED] + 1}


@pytest.mark.parametrize("change", [one_value, two_layers_exchanged, an_untied_head])
def test_other_weights_are_another_base(change: Callable[[Weights], Weights], copy_of_base: Path) -> None:
    location = BaseLocation("base", copy_of_base, "folder")
    original, file = location.fingerprint(), copy_of_base / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    assert location.fingerprint() != original
    assert not location.has_fingerprint(original)


def test_what_is_not_loaded_does_not_count(copy_of_base: Path) -> None:
    location = BaseLocation("base", copy_of_base, "folder")
    original = location.fingerprint()
    (copy_of_base / "pytorch_model.bin").write_bytes(b"not loaded: safetensors come first")
    assert location.fingerprint() == original


def test_an_adapter_of_an_earlier_version_still_knows_its_base(copy_of_base: Path) -> None:
    location = BaseLocation("base", copy_of_base, "folder")
    former = fingerprint_files(location.weights)
    assert len(former) == 16
    assert location.has_fingerprint(former)
    assert not location.has_fingerprint("0" * 16)


def test_a_file_is_read_once_while_it_stays_as_it_is(copy_of_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = BaseLocation("base", copy_of_base, "folder")
    original = location.fingerprint()
    monkeypatch.setattr("cartas_mlflow.modeling.fingerprint._tensors", lambda path: iter(()))
    assert location.fingerprint() == original
    (copy_of_base / "model.safetensors").touch()
    assert location.fingerprint() != original
