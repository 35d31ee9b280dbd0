"""What is used instead of a base that cannot be had, and how plainly it is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import hub_stand_in
import pytest
import yaml
from finished import Trained
from mlflow import MlflowClient

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.base import BaseUnreachable
from cartas_mlflow.pipelines.train import train
from cartas_mlflow.training.preparation import SettledBase, settle_base

ASKED = "unicamp-dl/ptt5-base-portuguese-vocab"


@pytest.fixture
def fallback(tiny_base: Path, tmp_path: Path) -> str:
    """A fallback file over a base that is here."""
    content = {
        "extends": DEFAULT_CONFIG,
        "model": {"name": str(tiny_base), "fallback": None},
        "lora": {"r": 4, "target_modules": ["all-linear"]},
        "training": {"learning_rate": 1e-3},
    }
    file = tmp_path / "reserva.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)


@pytest.fixture(autouse=True)
def no_hub(hub_at: Callable[[str], None]) -> None:
    """Neither a cache nor a hub."""
    hub_at(hub_stand_in.closed_port())


def settle(**overrides: object) -> SettledBase:
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return settle_base(load_config(DEFAULT_CONFIG, dotted), DEFAULT_CONFIG, dotted)


def test_without_a_hub_the_fallback_s_settings_hold(fallback: str, tiny_base: Path) -> None:
    settled = settle(model__fallback=fallback)
    assert settled.requested == ASKED
    assert settled.location.folder == tiny_base
    assert settled.config.model.name == str(tiny_base)
    assert settled.config.training.learning_rate == 1e-3
    assert settled.config.lora.target_modules == ("all-linear",)


def test_the_user_s_own_values_win_over_the_fallback_s(fallback: str, tiny_base: Path) -> None:
    settled = settle(model__fallback=fallback, training__learning_rate="7e-4", epochs="3", lora__dropout="0")
    assert (settled.config.training.learning_rate, settled.config.training.epochs) == (7e-4, 3)
    assert (settled.config.lora.dropout, settled.config.lora.r) == (0, 4)


def test_a_model_name_that_the_user_asked_for_does_not_win_over_the_fallback_s(fallback: str, tiny_base: Path) -> None:
    settled = settle(model__fallback=fallback, model__name="unicamp-dl/ptt5-v2-small", model__revision="v2")
    assert settled.requested == "unicamp-dl/ptt5-v2-small"
    assert (settled.config.model.name, settled.config.model.revision) == (str(tiny_base), None)


def test_the_fallback_is_announced_in_a_box(fallback: str, tiny_base: Path, said: list[str]) -> None:
    settle(model__fallback=fallback)
    box = said[said.index(next(line for line in said if line.startswith("┌"))) :]
    assert box[-1].startswith("└")
    assert len({len(line) for line in box}) == 1
    for words in (
        "AVISO: o modelo base pedido não está sendo usado.",
        f"Pedido: {ASKED}",
        "Motivo: não há conexão com o hub (ConnectError)",
        f"Em uso: pasta local {tiny_base}",
        f"Configuração: {fallback}",
        "-P model.fallback=none",
    ):
        assert any(words in line for line in box), words


def test_the_strict_form_is_an_error_that_names_the_base(said: list[str]) -> None:
    with pytest.raises(BaseUnreachable, match=f"O modelo base {ASKED} não está neste computador"):
        settle(model__fallback="none")
    assert not any("AVISO" in line for line in said)


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        (hub_stand_in.no_such_model, "não existe ou exige acesso"),
        (hub_stand_in.gated, "só entrega"),
        (hub_stand_in.saying(500), "HTTP 500"),
        (hub_stand_in.login_page, "página de login"),
    ],
)
def test_a_hub_that_answers_otherwise_is_an_error_even_with_a_fallback(
    manners: hub_stand_in.Answer, words: str, fallback: str, hub_at: Callable[[str], None], said: list[str]
) -> None:
    with hub_stand_in.hub(manners) as url:
        hub_at(url)
        with pytest.raises(BaseModelError, match=words):
            settle(model__fallback=fallback)
    assert said == []


def test_a_black_hole_delays_the_fallback_by_the_timeout_and_no_more(
    fallback: str, hub_at: Callable[[str], None]
) -> None:
    with hub_stand_in.black_hole() as url:
        hub_at(url)
        started = time.monotonic()
        settled = settle(model__fallback=fallback, model__hub_timeout="0.5")
    assert settled.requested == ASKED
    assert 0.5 <= time.monotonic() - started < 1.5


def test_a_base_that_is_here_needs_no_fallback(fallback: str, tiny_base: Path, said: list[str]) -> None:
    settled = settle(model__name=str(tiny_base), model__fallback=fallback)
    assert settled.requested is None
    assert settled.config.training.learning_rate == 2e-5
    assert said == [f"Modelo base encontrado: pasta local {tiny_base}"]


def test_the_box_lists_each_setting_that_changes_and_fits_a_terminal(
    tiny_base: Path, tmp_path: Path, said: list[str]
) -> None:
    path = write(tmp_path / "eu.yaml", {"generation": {"do_sample": True}, "model": {"fallback": "configs/mini.yaml"}})
    config = load_config(path)
    settled = settle_base(config, path, {})
    box = [line.strip("│ ") for line in said]
    before, after = config.flat(), settled.config.flat()
    changed = [name for name in before if before[name] != after[name]]
    assert [line.partition(":")[0] for line in box if line.partition(":")[0] in before] == changed
    assert "training.learning_rate: 2e-05 → 0.0006" in box
    assert "Fica o seu, porque não combina com mini.yaml: generation.num_beams" in box
    assert max(map(len, said)) <= 80


def test_what_a_fallback_says_of_anything_but_the_base_is_not_taken_and_said(
    fallback: str, tmp_path: Path, said: list[str]
) -> None:
    content = yaml.safe_load(Path(fallback).read_text(encoding="utf-8"))
    content["training"]["epochs"], content["data"] = 50, {"path": "outra.csv"}
    settled = settle(model__fallback=write(tmp_path / "larga.yaml", content))
    assert (settled.config.training.epochs, settled.config.data.path) == (20, "data/cartas.csv")
    sentence = "Fica o seu, porque não depende do modelo base: data.path, training.epochs"
    assert sentence in "\n".join(said)


def test_a_training_that_goes_on_never_does_so_on_another_base(fallback: str, said: list[str]) -> None:
    config = load_config(DEFAULT_CONFIG, {"model.fallback": fallback})
    with pytest.raises(BaseModelError) as error:
        settle_base(config, "results/x/config_resolved.yaml", {}, resumed=True)
    assert str(error.value) == (
        f"O treinamento de results/x/config_resolved.yaml usa o modelo base {ASKED}, que não está neste computador, e "
        "não há conexão com o hub (ConnectError); conecte-se à rede e repita o comando."
    )
    assert said == []


@pytest.fixture
def own_training(fallback: str, small_table: Path, tracking_store: str, tmp_path: Path) -> Trained:
    """A finished training with a file of one's own, on the fallback's base."""
    own = {
        "extends": DEFAULT_CONFIG,
        "data": {"path": str(small_table)},
        "model": {"fallback": fallback},
        "training": {"epochs": 2, "precision": "float32"},
        "generation": {"max_new_tokens": 8},
        "tracking": {"experiment": "minhas", "system_metrics": False},
    }
    return Trained(train(write(tmp_path / "minha.yaml", own)), MlflowClient(tracking_store))


def test_a_file_of_one_s_own_trains_its_epochs_on_its_table_without_a_hub(
    own_training: Trained, small_table: Path, tiny_base: Path
) -> None:
    params, tags = own_training.run.data.params, own_training.run.data.tags
    assert (params["data.path"], params["training.epochs"]) == (str(small_table), "2")
    assert (params["derived.train_records"], params["derived.validation_records"]) == ("35", "7")
    assert (params["model.resolved"], params["training.learning_rate"]) == (str(tiny_base), "0.001")
    assert len(own_training.series("eval/loss")) == 2
    assert tags["base_model.fallback"] == "true"
    assert own_training.client.get_experiment(own_training.run.info.experiment_id).name == "minhas"


@pytest.mark.slow
def test_a_training_on_the_fallback_s_base_goes_on_there(own_training: Trained) -> None:
    resumed = Trained(train(overrides={"training.resume": str(own_training.folder)}), own_training.client)
    assert resumed.result.run_id == own_training.result.run_id
    assert resumed.run.data.tags["base_model.fallback"] == "true", "under its own name, but still not the one asked for"


def write(file: Path, content: dict[str, object]) -> str:
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(file)
