"""Where the base is found, what is taken for a base, and how it is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hub_stand_in
import pytest
from hub_stand_in import COMMIT, REPOSITORY

from cartas_mlflow import config as config_module
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling import base as base_module
from cartas_mlflow.modeling.base import BaseLocation, BaseUnreachable, find_base
from cartas_mlflow.modeling.loading import check_vocabulary, load_base, load_tokenizer, read_config
from cartas_mlflow.settings import ModelSettings


def settings(**values: object) -> ModelSettings:
    return ModelSettings(**{"name": REPOSITORY, "hub_timeout": 1.0, **values})


@pytest.fixture
def copy_of_base(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, to be damaged."""
    return shutil.copytree(tiny_base, tmp_path / "copia")


# Folders


def test_a_local_folder_is_taken_without_asking_the_hub(tiny_base: Path, hub_at: Callable[[str], None]) -> None:
    log: list[str] = []
    with hub_stand_in.hub(hub_stand_in.serving(tiny_base, log)) as url:
        hub_at(url)
        found = find_base(settings(name=str(tiny_base)))
    assert (found.source, found.folder, found.revision, log) == ("folder", tiny_base, None, [])
    assert str(tiny_base) in found.description


def test_a_folder_inside_the_project_s_own_bases_is_called_embedded(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, tmp_path / "projeto" / "data" / "base" / "mini")
    for module in (config_module, base_module):
        monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path / "projeto")
    monkeypatch.chdir(tmp_path)
    found = find_base(settings(name="data/base/mini"))
    assert (found.source, found.name) == ("embedded", "data/base/mini")
    assert found.description == "modelo embutido no projeto (data/base/mini)"


@pytest.mark.parametrize("name", ["./modelos/ptt5", "/nada/aqui", "~/ptt5", "data/base", "a/b/c", "modelo com espaço"])
def test_a_folder_that_does_not_exist_is_not_looked_for_on_the_hub(
    name: str, hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "PROJECT_ROOT", tmp_path)
    hub_at(hub_stand_in.closed_port())
    with pytest.raises(BaseModelError, match=r"não existe; confira model\.name") as caught:
        find_base(settings(name=name))
    assert not isinstance(caught.value, BaseUnreachable)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (["config.json"], r"não tem config\.json; indique em model\.name a pasta de um modelo base completo"),
        (["model.safetensors"], r"não tem model\.safetensors; copie o modelo base completo"),
        (["tokenizer.json", "spiece.model"], r"não tem tokenizer\.json ou spiece\.model; copie"),
    ],
)
def test_a_folder_that_lacks_a_part_is_named_with_what_it_lacks(
    copy_of_base: Path, lost: list[str], message: str
) -> None:
    for name in lost:
        (copy_of_base / name).unlink()
    with pytest.raises(BaseModelError, match=message):
        find_base(settings(name=str(copy_of_base)))


def test_a_missing_shard_is_named(copy_of_base: Path) -> None:
    (copy_of_base / "model.safetensors").rename(copy_of_base / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy_of_base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=r"não tem model-00002-of-00002\.safetensors; copie"):
        find_base(settings(name=str(copy_of_base)))


def test_an_adapter_s_folder_is_no_base(copy_of_base: Path) -> None:
    (copy_of_base / "config.json").rename(copy_of_base / "adapter_config.json")
    with pytest.raises(BaseModelError, match="é a pasta de um adaptador"):
        find_base(settings(name=str(copy_of_base)))


def test_a_broken_config_is_named(copy_of_base: Path) -> None:
    (copy_of_base / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"config\.json não é JSON válido"):
        find_base(settings(name=str(copy_of_base)))


# The hub's cache


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_cache_that_was_filled_in_part_is_not_taken(
    lost: str, tiny_base: Path, hub_cache: Path, hub_at: Callable[[str], None]
) -> None:
    snapshot = fill_cache(hub_cache, tiny_base)
    hub_at(hub_stand_in.closed_port())
    assert find_base(settings()).source == "cache"
    (snapshot / lost).unlink()
    with pytest.raises(BaseUnreachable):
        find_base(settings())


def test_the_cache_of_another_revision_is_not_taken(
    tiny_base: Path, hub_cache: Path, hub_at: Callable[[str], None]
) -> None:
    fill_cache(hub_cache, tiny_base)
    hub_at(hub_stand_in.closed_port())
    assert find_base(settings(revision=COMMIT)).revision == COMMIT
    with pytest.raises(BaseUnreachable):
        find_base(settings(revision="v2"))


# Loading


def test_weights_are_loaded_in_float32_whatever_the_folder_says(copy_of_base: Path) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    AutoModelForSeq2SeqLM.from_pretrained(copy_of_base, dtype=torch.bfloat16).save_pretrained(copy_of_base)
    model = load_base(folder_location(copy_of_base))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"num_layers": 3}, r"Faltam 8 matrizes de pesos em .* \(ex\.: encoder\.block\.2\."),
        ({"d_ff": 192}, "não pôde ser lido"),
        ({"model_type": "inexistente"}, r"não pôde ser lido \(.*inexistente"),
        ({"model_type": "gpt2", "is_encoder_decoder": False}, "é um modelo gpt2; este projeto treina os da família T5"),
        ({"model_type": "bart"}, r"é um modelo bart; .* \(t5, mt5, umt5\): indique um deles em model\.name\.$"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_an_error(
    copy_of_base: Path, damage: dict[str, object], message: str
) -> None:
    file = copy_of_base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    with pytest.raises(BaseModelError, match=message):
        load_base(folder_location(copy_of_base))


def test_weights_cut_short_are_an_error(copy_of_base: Path) -> None:
    file = copy_of_base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match=r"não pôde ser lido .*; baixe ou copie o modelo de novo"):
        load_base(folder_location(copy_of_base))


def test_a_tokenizer_cut_short_is_an_error(copy_of_base: Path) -> None:
    file = copy_of_base / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BaseModelError, match=r"O tokenizador em .* não pôde ser lido"):
        load_tokenizer(copy_of_base)


def test_a_vocabulary_smaller_than_the_tokenizer_s_is_told_before_anything_trains(copy_of_base: Path) -> None:
    location, tokenizer = folder_location(copy_of_base), load_tokenizer(copy_of_base)
    check_vocabulary(location, read_config(location), tokenizer)
    file = copy_of_base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 64}))
    message = r"^O tokenizador tem \d+ peças e o modelo .* só 64: .*; confira model\.name e model\.tokenizer\.$"
    with pytest.raises(BaseModelError, match=message):
        check_vocabulary(location, read_config(location), tokenizer)


# A tokenizer from elsewhere


def test_a_tokenizer_may_come_from_another_folder(tiny_base: Path, copy_of_base: Path) -> None:
    for name in ("tokenizer.json", "spiece.model"):
        (copy_of_base / name).unlink(missing_ok=True)
    with pytest.raises(BaseModelError, match=r"copie o modelo base completo, ou indique .* em model\.tokenizer\.$"):
        find_base(settings(name=str(copy_of_base)))
    found = find_base(settings(name=str(copy_of_base), tokenizer=str(tiny_base)))
    assert (found.folder, found.tokenizer_folder) == (copy_of_base, tiny_base)
    assert find_base(settings(name=str(copy_of_base)), tokenizer=False).tokenizer_folder == copy_of_base
    for file in tiny_base.iterdir():  # nothing but the tokenizer's own files is asked of it
        if "token" in file.name:
            shutil.copy(file, copy_of_base.parent)
    assert find_base(settings(name=str(copy_of_base), tokenizer=str(copy_of_base.parent))).tokenizer is not None


def test_a_tokenizer_that_is_not_there_is_named_by_its_own_setting(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"^A pasta do tokenizador \./nada não existe; confira model\.tokenizer"):
        find_base(settings(name=str(tiny_base), tokenizer="./nada"))
    with pytest.raises(
        BaseModelError, match=r"não tem tokenizer\.json ou spiece\.model; copie o tokenizador completo\.$"
    ):
        find_base(settings(name=str(tiny_base), tokenizer=str(tmp_path)))


def folder_location(folder: Path) -> BaseLocation:
    return BaseLocation(str(folder), folder, "folder")


def fill_cache(cache: Path, base: Path) -> Path:
    """The hub client's own layout: blobs, a snapshot that points to them, the branch."""
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in base.iterdir():
        blob = repository / "blobs" / f"{abs(hash(file.name)):x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot
