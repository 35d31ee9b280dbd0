"""Where the base is found, what is taken for a base, and how it is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hub_stand_in
import pytest
from hub_stand_in import COMMIT, REPOSITORY

from cartas_mlflow import config as config_module
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling import base as base_module
from cartas_mlflow.modeling.base import BaseLocation, BaseUnreachable, ask_hub, find_base
from cartas_mlflow.modeling.loading import Quantization, choose_quantization, load_base, load_tokenizer
from cartas_mlflow.settings import ModelSettings

PATIENCE = 1.0
FIND = """
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.settings import ModelSettings
try:
    found = find_base(ModelSettings(name="{name}"))
    print(found.source, found.revision, found.folder)
except BaseModelError as error:
    print(type(error).__name__, error)
"""


def settings(**values: object) -> ModelSettings:
    return ModelSettings(**{"name": REPOSITORY, "hub_timeout": PATIENCE, **values})


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@pytest.fixture
def hub_at(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make an address the hub's, with an empty cache."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    return lambda url: monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


@pytest.fixture
def copy_of_base(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base, to be damaged."""
    return shutil.copytree(tiny_base, tmp_path / "copia")


def find_in_another_process(**environment: str) -> str:
    """The endpoint, the cache and the offline switch are read when the hub client is imported."""
    command = [sys.executable, "-c", FIND.format(name=REPOSITORY)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True
    )
    return done.stdout.strip()


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


# The hub


def test_a_hub_that_refuses_is_unreachable_at_once(hub_at: Callable[[str], None]) -> None:
    hub_at(hub_stand_in.closed_port())
    with at_most(PATIENCE), pytest.raises(BaseUnreachable) as caught:
        find_base(settings())
    assert caught.value.reason == "não há conexão com o hub (ConnectionError)"
    assert "model.fallback=configs/mini.yaml" in str(caught.value)


def test_a_hub_that_hangs_is_given_up_in_time(hub_at: Callable[[str], None]) -> None:
    with hub_stand_in.silent_hub() as url:
        hub_at(url)
        with at_most(PATIENCE + 0.5), pytest.raises(BaseUnreachable, match="o hub não respondeu em 1 s"):
            find_base(settings())


def test_a_hub_that_answers_byte_by_byte_is_given_up_in_time(hub_at: Callable[[str], None]) -> None:
    with hub_stand_in.hub(hub_stand_in.trickling) as url:
        hub_at(url)
        with at_most(PATIENCE + 0.5), pytest.raises(BaseUnreachable, match="o hub não respondeu em 1 s"):
            find_base(settings())


def test_a_token_that_the_hub_does_not_know_is_an_error_and_no_reason_to_fall_back(
    hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_vencido")
    with hub_stand_in.hub(hub_stand_in.invalid_credentials) as url:
        hub_at(url)
        with pytest.raises(BaseModelError) as refused:
            find_base(ModelSettings(name=hub_stand_in.REPOSITORY))
    assert not isinstance(refused.value, BaseUnreachable)
    assert str(refused.value).startswith("O hub recusou o token de acesso deste computador (inválido ou vencido); ")


@pytest.mark.parametrize(("manners", "status"), [(hub_stand_in.captive_portal, 200), (hub_stand_in.out_of_order, 503)])
def test_an_answer_that_is_not_the_hub_s_counts_as_no_hub(
    manners: hub_stand_in.Answer, status: int, hub_at: Callable[[str], None]
) -> None:
    with hub_stand_in.hub(manners) as url:
        hub_at(url)
        with pytest.raises(BaseUnreachable, match=rf"algo que não é o modelo \(HTTP {status}\)"):
            find_base(settings())


def test_a_model_that_the_hub_does_not_have_is_an_error_and_no_case_for_the_fallback(
    hub_at: Callable[[str], None],
) -> None:
    with hub_stand_in.hub(hub_stand_in.no_such_model) as url:
        hub_at(url)
        with pytest.raises(BaseModelError, match=r"O hub diz que o modelo .* na revisão v2 não existe") as caught:
            find_base(settings(revision="v2"))
    assert not isinstance(caught.value, BaseUnreachable)


def test_a_revision_with_a_slash_is_asked_for_by_its_name(tiny_base: Path, hub_at: Callable[[str], None]) -> None:
    log: list[str] = []
    with hub_stand_in.hub(hub_stand_in.serving(tiny_base, log)) as url:
        hub_at(url)
        ask_hub(settings(revision="refs/pr/1"))
    assert log == [f"GET /{REPOSITORY}/resolve/refs%2Fpr%2F1/config.json"]


def test_a_hub_that_breaks_off_the_download_is_unreachable(tiny_base: Path, tmp_path: Path) -> None:
    with hub_stand_in.hub(hub_stand_in.breaking_off(tiny_base)) as url:
        said = find_in_another_process(HF_ENDPOINT=url, HF_HOME=str(tmp_path))
    assert said.startswith("BaseUnreachable")
    assert "o hub não chegou a entregá-lo" in said


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_that_answers_is_downloaded_from_once_and_the_cache_serves_without_it(
    weights: str, copy_of_base: Path, tmp_path: Path
) -> None:
    if weights == "pytorch_model.bin":
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(copy_of_base / "model.safetensors"), copy_of_base / weights)
        (copy_of_base / "model.safetensors").unlink()
    home = tmp_path / "hf"
    with hub_stand_in.hub(hub_stand_in.serving(copy_of_base)) as url:
        source, revision, folder = find_in_another_process(HF_ENDPOINT=url, HF_HOME=str(home)).split()
    assert (source, revision) == ("hub", COMMIT)
    assert (Path(folder) / weights).read_bytes() == (copy_of_base / weights).read_bytes()

    gone = find_in_another_process(HF_ENDPOINT=hub_stand_in.closed_port(), HF_HOME=str(home)).split()
    assert gone == ["cache", COMMIT, folder]
    located = BaseLocation(REPOSITORY, Path(folder), "cache", COMMIT)
    assert load_base(located).num_parameters() == load_base(folder_location(copy_of_base)).num_parameters()
    assert load_tokenizer(located.folder).encode("O Louco") == load_tokenizer(copy_of_base).encode("O Louco")


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


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_offline_switch_asks_nobody(switch: str, tiny_base: Path, tmp_path: Path) -> None:
    log: list[str] = []
    with hub_stand_in.hub(hub_stand_in.serving(tiny_base, log)) as url:
        said = find_in_another_process(HF_ENDPOINT=url, HF_HOME=str(tmp_path), **{switch: "1"})
    assert said.startswith("BaseUnreachable")
    assert "o modo sem rede está ligado (HF_HUB_OFFLINE)" in said
    assert log == []


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
        ({"model_type": "gpt2", "is_encoder_decoder": False}, "é um modelo gpt2, que não é codificador-decodificador"),
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


def test_the_fingerprint_is_that_of_the_weights_that_are_loaded(copy_of_base: Path, tiny_base: Path) -> None:
    original = folder_location(tiny_base).fingerprint()
    assert len(original) == 16
    (copy_of_base / "pytorch_model.bin").write_bytes(b"not loaded: safetensors come first")
    assert folder_location(copy_of_base).fingerprint() == original
    weights = bytearray((copy_of_base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy_of_base / "model.safetensors").write_bytes(weights)
    assert folder_location(copy_of_base).fingerprint() != original


def test_quantization_auto_means_cuda_only() -> None:
    assert choose_quantization(settings(quantization="auto"), "cpu", "bfloat16") is None
    assert choose_quantization(settings(quantization="false"), "cuda", "bfloat16") is None
    assert choose_quantization(settings(quantization="true"), "cpu", "float32") == Quantization("nf4", True, "float32")
    chosen = choose_quantization(settings(double_quantization=False), "cuda", "bfloat16")
    assert chosen == Quantization("nf4", False, "bfloat16")
    assert chosen.description == "4-bit (nf4, cálculo em bfloat16)"


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
