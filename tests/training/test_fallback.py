"""What is used instead of a base that cannot be had, and how plainly it is said."""

from __future__ import annotations

import time
from pathlib import Path

import hub_stand_in
import pytest
import yaml

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.base import BaseUnreachable
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
def no_hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cache nor a hub."""
    use_hub(monkeypatch, hub_stand_in.closed_port())


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


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
        "Motivo: não há conexão com o hub (ConnectionError)",
        f"Em uso: pasta local {tiny_base}",
        f"Configuração: {fallback}",
        "-P model.fallback=none",
    ):
        assert any(words in line for line in box), words


def test_the_strict_form_is_an_error_that_names_the_base(said: list[str]) -> None:
    with pytest.raises(BaseUnreachable, match=f"O modelo base {ASKED} não está neste computador"):
        settle(model__fallback="none")
    assert not any("AVISO" in line for line in said)


def test_a_model_that_the_hub_denies_is_an_error_even_with_a_fallback(
    fallback: str, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with hub_stand_in.hub(hub_stand_in.no_such_model) as url:
        use_hub(monkeypatch, url)
        with pytest.raises(BaseModelError, match="não existe ou exige acesso"):
            settle(model__fallback=fallback)
    assert said == []


def test_a_hub_that_hangs_delays_the_fallback_by_the_timeout_and_no_more(
    fallback: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_stand_in.silent_hub() as url:
        use_hub(monkeypatch, url)
        started = time.monotonic()
        settled = settle(model__fallback=fallback, model__hub_timeout="0.5")
    assert settled.requested == ASKED
    assert 0.5 <= time.monotonic() - started < 1.5


def test_a_base_that_is_here_needs_no_fallback(fallback: str, tiny_base: Path, said: list[str]) -> None:
    settled = settle(model__name=str(tiny_base), model__fallback=fallback)
    assert settled.requested is None
    assert settled.config.training.learning_rate == 2e-5
    assert said == [f"Modelo base encontrado: pasta local {tiny_base}"]
