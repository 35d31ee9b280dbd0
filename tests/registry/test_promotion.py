"""Who is the champion: decided on a real registry, between texts whose worth is known."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from trainings import Trainings

from cartas_mlflow.errors import RegistryError
from cartas_mlflow.evaluation.confidence import MIN_RECORDS, Answers
from cartas_mlflow.registry.promotion import (
    ANNOUNCEMENT,
    ANNOUNCEMENT_LIFE,
    Contest,
    Decision,
    champion_of,
    promote,
    register,
    roll_back,
    version_number,
)
from cartas_mlflow.settings import RegistrySettings


@pytest.fixture
def client(trainings: Trainings) -> MlflowClient:
    return MlflowClient()


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> RegistrySettings:
    """A registered model of this test's own, decided by the texts."""
    return RegistrySettings(name=f"modelo-{abs(hash(request.node.nodeid))}", metric="chrf")


@pytest.fixture
def versions(client: MlflowClient, trainings: Trainings, settings: RegistrySettings) -> list[ModelVersion]:
    """Three versions of it; the first is the champion."""
    (output,) = client.get_run(trainings.runs["good"]).outputs.model_outputs
    made = [register(client, output.model_id, settings.name) for _ in range(3)]
    promote(client, made[0], settings, never)
    return made


@pytest.fixture
def readings(bundled_rows: list[dict[str, str]]) -> list[str]:
    return [row["texto"] for row in bundled_rows[:40]]


def never(champion: ModelVersion) -> Contest:
    raise AssertionError("nothing to compare with")


def contest(challenger: Sequence[str], champion: Sequence[str], real: Sequence[str]) -> Callable[..., Contest]:
    return lambda version: meeting(challenger, champion, real)


def meeting(
    challenger: Sequence[str], champion: Sequence[str], real: Sequence[str], remark: str | None = None
) -> Contest:
    return Contest(Answers(challenger), Answers(champion), real, remark)


def worse(texts: Sequence[str], seed: int = 0) -> list[str]:
    """The texts with half of their words gone."""
    chooser = random.Random(seed)
    return [" ".join(word for word in text.split() if chooser.random() < 0.5) for text in texts]


def held_by(client: MlflowClient, settings: RegistrySettings) -> str:
    return str(champion_of(client, settings.name).version)


def tags_of(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    return client.get_model_version(version.name, version.version).tags


def test_a_model_that_nobody_registered_has_no_champion(client: MlflowClient) -> None:
    assert champion_of(client, "ninguem") is None


def test_the_first_version_becomes_the_champion(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings
) -> None:
    assert held_by(client, settings) == "1"
    first = client.get_model_version(settings.name, "1")
    assert first.description == "**Campeã.** Primeira campeã: o posto estava vago."
    assert first.tags == {"decision": "promoted", "decision.reason": "Primeira campeã: o posto estava vago."}


def test_a_better_challenger_takes_the_place(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    decision = promote(client, versions[1], settings, contest(readings, worse(readings), readings))
    assert decision.promoted
    assert held_by(client, settings) == "2"
    assert decision.comparison.confidence == 1
    assert decision.comparison.records == 40


@pytest.mark.parametrize(("change", "promoted"), [(-0.1, True), (0.0, False), (0.1, False)])
def test_the_fewer_bits_win_unless_the_user_wants_another_metric(
    client: MlflowClient,
    versions: list[ModelVersion],
    settings: RegistrySettings,
    readings: list[str],
    change: float,
    promoted: bool,
) -> None:
    champion = [1.5 + 0.1 * random.Random(place).random() for place in range(40)]
    outcome = Contest(Answers(bits=[bits + change for bits in champion]), Answers(bits=champion), readings)
    usual = RegistrySettings(name=settings.name)
    decision = promote(client, versions[1], usual, lambda version: outcome)
    assert decision.promoted == promoted
    assert decision.comparison.difference.value == pytest.approx(change)
    assert ("mesmos pesos" in (decision.remark or "")) == (change == 0)
    assert decision.reason.startswith(
        f"Bits por caractere {abs(change):.4f} {'abaixo' if change < 0 else 'acima'} da versão 1 em 40 leituras; "
        f"melhor em {'100,0' if promoted else '0,0'} % das reamostragens".replace("0.", "0,", 1)
    )


def test_the_decision_stands_on_the_version(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    remarked = meeting(readings, worse(readings), readings, "Uma observação.")
    decision = promote(client, versions[1], settings, lambda version: remarked)
    version = client.get_model_version(settings.name, "2")
    low, value, high = (f"{getattr(decision.comparison.difference, end):.6f}" for end in ("low", "value", "high"))
    assert version.tags == {
        "decision": "promoted",
        "decision.reason": decision.reason,
        "decision.champion": "1",
        "decision.metric": "chrf",
        "decision.difference": value,
        "decision.low": low,
        "decision.high": high,
        "decision.confidence": "1.0000",
        "decision.records": "40",
        "previous_champion": "1",
    }
    assert float(low) < float(value) < float(high)
    shown = [f"{float(number):.4f}".replace(".", ",") for number in (value, low, high)]
    assert decision.reason == (
        f"chrF {shown[0]} acima da versão 1 em 40 leituras; melhor em 100,0 % das reamostragens (exigido: 90,0 %): "
        "promovida."
    )
    assert version.description == (
        f"**Campeã.** {decision.reason}\n\nDiferença de chrF: {shown[0]}; intervalo de 90 %: {shown[1]} a {shown[2]} "
        "(bootstrap pareado, 10000 reamostragens de 40 leituras, semente 42).\n\nUma observação."
    )


def test_a_worse_challenger_stays_behind(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    decision = promote(client, versions[1], settings, contest(worse(readings), readings, readings))
    assert not decision.promoted
    assert held_by(client, settings) == "1"
    assert "abaixo da versão 1 em 40 leituras; melhor em 0,0 % das reamostragens" in decision.reason
    assert decision.reason.endswith("fica como está.")
    assert tags_of(client, versions[1])["decision"] == "rejected"
    assert client.get_model_version(settings.name, "2").description.startswith("**Não promovida.** chrF")


def test_an_equal_challenger_stays_behind(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    decision = promote(client, versions[1], settings, contest(worse(readings), worse(readings), readings))
    assert not decision.promoted
    assert held_by(client, settings) == "1"
    assert decision.comparison.confidence == 0


def test_a_challenger_that_is_better_by_chance_stays_behind(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    decision = promote(client, versions[1], settings, contest(worse(readings, 3), worse(readings, 1), readings))
    assert decision.comparison.difference.value > 0
    assert 0.5 < decision.comparison.confidence < 0.9
    assert not decision.promoted


def test_the_confidence_asked_for_decides(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    bold = settings.model_copy(update={"confidence": 0.5})
    assert promote(client, versions[1], bold, contest(worse(readings, 3), worse(readings, 1), readings)).promoted


@pytest.mark.parametrize("metric", ["chrf", "rougeL", "bleu"])
def test_each_metric_can_decide(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str], metric: str
) -> None:
    chosen = settings.model_copy(update={"metric": metric})
    assert promote(client, versions[1], chosen, contest(readings, worse(readings), readings)).promoted
    assert tags_of(client, versions[1])["decision.metric"] == metric


def test_a_better_challenger_on_too_few_readings_stays_behind(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    few = readings[: MIN_RECORDS - 1]
    decision = promote(client, versions[1], settings, contest(few, worse(few), few))
    assert decision == Decision(
        False, "Só 19 leituras servem para comparar com a versão 1, e são precisas 20: fica como está."
    )
    assert held_by(client, settings) == "1"
    enough = readings[:MIN_RECORDS]
    assert promote(client, versions[1], settings, contest(enough, worse(enough), enough)).promoted


def test_force_promotes_the_worse_one_and_says_so(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    worst = contest(worse(readings), readings, readings)
    decision = promote(client, versions[1], settings, worst, force=True)
    assert held_by(client, settings) == "2"
    assert decision.reason.endswith("melhor em 0,0 % das reamostragens (exigido: 90,0 %): promovida por force=true.")
    assert tags_of(client, versions[1])["decision"] == "promoted"


def test_force_does_without_a_comparison_that_cannot_be_made(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings
) -> None:
    def impossible(champion: ModelVersion) -> Contest:
        raise RegistryError("A campeã não abre.")

    with pytest.raises(RegistryError, match=r"A campeã não abre\."):
        promote(client, versions[1], settings, impossible)
    assert held_by(client, settings) == "1"
    decision = promote(client, versions[1], settings, impossible, force=True)
    assert decision.reason == "Sem comparação com a versão 1: promovida por force=true."
    assert decision.remark == "A campeã não abre."
    assert held_by(client, settings) == "2"


def test_the_champion_is_not_compared_with_itself(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings
) -> None:
    before = client.get_model_version(settings.name, "1")
    assert promote(client, versions[0], settings, never) == Decision(True, "Esta versão já é a campeã.")
    after = client.get_model_version(settings.name, "1")
    assert (after.description, after.tags) == (before.description, before.tags)


def test_a_second_decision_leaves_nothing_of_the_first(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    promote(client, versions[1], settings, contest(worse(readings), readings, readings))
    few = readings[:5]
    again = client.get_model_version(settings.name, "2")
    promote(client, again, settings, contest(few, worse(few), few))
    assert set(tags_of(client, again)) == {"decision", "decision.reason", "decision.champion"}


def test_rolling_back_goes_step_by_step_to_the_first(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    for version in versions[1:]:
        promote(client, version, settings, contest(readings, worse(readings), readings))
    assert roll_back(client, settings.name) == ("3", "2")
    assert held_by(client, settings) == "2"
    assert tags_of(client, versions[2])["decision"] == "rolled_back"
    assert roll_back(client, settings.name) == ("2", "1")
    with pytest.raises(RegistryError) as refused:
        roll_back(client, settings.name)
    assert str(refused.value) == (
        f"A versão 1 de {settings.name} não sucedeu a nenhuma; não há a quem devolver o posto."
    )
    assert held_by(client, settings) == "1"


def test_a_version_that_comes_back_is_rolled_back_only_once(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    better = contest(readings, worse(readings), readings)
    promote(client, versions[1], settings, better)
    promote(client, versions[0], settings, better)
    assert [roll_back(client, settings.name) for _ in range(2)] == [("1", "2"), ("2", "1")]
    with pytest.raises(RegistryError):
        roll_back(client, settings.name)


def test_rolling_back_without_a_champion_says_how_to_get_one(client: MlflowClient) -> None:
    with pytest.raises(RegistryError) as refused:
        roll_back(client, "ninguem")
    assert str(refused.value) == "O modelo ninguem não tem campeão; promova um antes: mlflow run . -e promote."


def test_rolling_back_to_a_version_that_is_gone_says_so(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    promote(client, versions[1], settings, contest(readings, worse(readings), readings))
    client.delete_model_version(settings.name, "1")
    with pytest.raises(RegistryError, match="campeã antes da 2, foi apagada"):
        roll_back(client, settings.name)
    assert held_by(client, settings) == "2"


def test_a_champion_that_came_meanwhile_is_compared_with(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    met = []

    def slow(champion: ModelVersion) -> Contest:
        met.append(str(champion.version))
        if met == ["1"]:
            promote(client, versions[2], settings, contest(readings, worse(readings), readings))
            return meeting(worse(readings), worse(worse(readings)), readings)
        return meeting(worse(readings), readings, readings)

    assert not promote(client, versions[1], settings, slow).promoted
    assert met == ["1", "3"]
    assert held_by(client, settings) == "3"
    assert tags_of(client, versions[1])["decision.champion"] == "3"


def test_a_champion_that_changes_without_end_is_given_up(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    def restless(champion: ModelVersion) -> Contest:
        other = "3" if version_number(champion) == "1" else "1"
        client.set_registered_model_alias(settings.name, "champion", other)
        return meeting(readings, worse(readings), readings)

    with pytest.raises(RegistryError) as refused:
        promote(client, versions[1], settings, restless)
    assert str(refused.value) == f"O campeão de {settings.name} mudou 5 vezes durante a comparação; tente de novo."


class Slow:
    """A client whose every answer takes a while, so that two promotions meet at every step."""

    def __init__(self, client: MlflowClient, seed: int) -> None:
        self.client, self.chooser = client, random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)

        def slowly(*words: Any, **named: Any) -> Any:
            time.sleep(self.chooser.uniform(0, 0.03))
            answer = call(*words, **named)
            time.sleep(self.chooser.uniform(0, 0.03))
            return answer

        return slowly


@pytest.mark.parametrize("round_", range(4))
def test_of_two_promotions_at_once_the_better_one_is_the_champion(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str], round_: int
) -> None:
    texts = {"1": worse(worse(readings)), "2": worse(readings), "3": readings}
    together = threading.Barrier(2)
    met: dict[str, list[str]] = {"2": [], "3": []}

    def compete(version: ModelVersion) -> None:
        def meet(champion: ModelVersion) -> Contest:
            mine, theirs = str(version.version), str(champion.version)
            met[mine].append(theirs)
            if theirs == "1":
                together.wait(30)
            return meeting(texts[mine], texts[theirs], readings)

        promote(Slow(client, round_), version, settings, meet)

    threads = [threading.Thread(target=compete, args=(version,)) for version in versions[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert held_by(client, settings) == "3"
    assert met in ({"2": ["1"], "3": ["1", "2"]}, {"2": ["1", "3"], "3": ["1"]})
    assert not [tag for tag in client.get_registered_model(settings.name).tags if tag.startswith(ANNOUNCEMENT)]


def test_a_killed_promotion_holds_nobody_up_for_long(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings, readings: list[str]
) -> None:
    died = time.time() - ANNOUNCEMENT_LIFE + 1
    client.set_registered_model_tag(settings.name, f"{ANNOUNCEMENT}0000", str(died))
    started = time.time()
    assert promote(client, versions[1], settings, contest(readings, worse(readings), readings)).promoted
    assert 0.5 < time.time() - started < 10


def test_an_alias_that_cannot_be_read_is_no_vacant_place(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: Any) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(client, "get_model_version_by_alias", fails)
    with pytest.raises(MlflowException, match="database is locked"):
        champion_of(client, "cartas-ptt5")


def test_the_registered_model_says_what_it_is(
    client: MlflowClient, versions: list[ModelVersion], settings: RegistrySettings
) -> None:
    assert client.get_registered_model(settings.name).description.startswith("Gera leituras de cartas: recebe `carta`")
    assert versions[0].source.startswith("models:/m-")
