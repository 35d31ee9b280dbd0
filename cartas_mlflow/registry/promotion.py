"""Register a run's model, hold it against the champion, move the alias or not; and give it back."""

from __future__ import annotations

import io
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cartas_mlflow.console import decimal
from cartas_mlflow.errors import RegistryError
from cartas_mlflow.evaluation.confidence import BITS, MIN_RECORDS, Answers, Comparison, paired_bootstrap
from cartas_mlflow.settings import RegistrySettings
from cartas_mlflow.tracking.report import METRIC_TITLES

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS_TAG = "previous_champion"
SAME_MODEL = (
    "As duas versões têm os mesmos pesos, e só a maneira de gerar difere; para comparar o que escrevem, "
    "-P registry.metric=rougeL."
)
ATTEMPTS = 5
"""How often a decision is taken again because another promotion moved the alias meanwhile."""
ANNOUNCEMENT = "promoting."
ANNOUNCEMENT_LIFE = 60
"""Seconds after which an announcement is that of a process that was killed; moving an alias takes far less."""

DESCRIPTION = (
    "Gera leituras de cartas: recebe `carta`, `evento`, `secao` e `tema`, devolve `texto`. A descrição de cada versão "
    "diz por que ela é, foi ou não foi a campeã (alias `champion`)."
)


@dataclass(frozen=True)
class Contest:
    """What both models make of the same records, which neither was trained on; no records where that cannot be told.

    ``remark``: a Portuguese sentence on how the records were chosen, or None.
    """

    challenger: Answers = field(default_factory=Answers)
    champion: Answers = field(default_factory=Answers)
    references: Sequence[str] = ()
    remark: str | None = None


@dataclass(frozen=True)
class Decision:
    """``reason``: one Portuguese sentence; ``comparison``: None where nothing could be, or needed to be, compared."""

    promoted: bool
    reason: str
    comparison: Comparison | None = None
    remark: str | None = None


def register(client: MlflowClient, model_id: str, name: str) -> ModelVersion:
    """Register a logged model as the next version of ``name``."""
    import mlflow

    with redirect_stderr(io.StringIO()):  # MLflow's own account of it, in English
        version = mlflow.register_model(f"models:/{model_id}", name)
    if not client.get_registered_model(name).description:
        client.update_registered_model(name, DESCRIPTION)
    return version


def version_number(version: ModelVersion | None) -> str | None:
    """Its number as text: the SQL store gives an int, the server a text."""
    return None if version is None else str(version.version)


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that holds the alias; None if none does, or the model is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def promote(
    client: MlflowClient,
    challenger: ModelVersion,
    settings: RegistrySettings,
    contest: Callable[[ModelVersion], Contest],
    *,
    force: bool = False,
) -> Decision:
    """Give the alias to the challenger if it is better than the champion at the chosen confidence.

    The decision, the interval and the reason become tags and the description of the challenger's version. If another
    promotion has moved the alias during the comparison, the new champion is compared with.

    Args:
        contest: makes the challenger and the given champion answer the same records.

    Raises:
        RegistryError: the comparison cannot be made (with ``force``, that is no obstacle), or the champion changed
            during each of :data:`ATTEMPTS` comparisons.
    """
    for _ in range(ATTEMPTS):
        champion = champion_of(client, settings.name)
        if version_number(champion) == version_number(challenger):
            return Decision(True, "Esta versão já é a campeã.")
        decision = _decide(challenger, champion, settings, contest, force)
        with _alone(client, settings.name):
            if version_number(champion_of(client, settings.name)) != version_number(champion):
                continue
            if decision.promoted:
                client.set_registered_model_alias(settings.name, CHAMPION, challenger.version)
                if champion is not None:
                    previous = version_number(champion)
                    client.set_model_version_tag(settings.name, challenger.version, PREVIOUS_TAG, previous)
        _write_down(client, challenger, champion, settings, decision)
        return decision
    raise RegistryError(f"O campeão de {settings.name} mudou {ATTEMPTS} vezes durante a comparação; tente de novo.")


def roll_back(client: MlflowClient, name: str) -> tuple[str, str]:
    """Give the alias back to the previous champion; (version that loses it, version that gets it).

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    if champion_of(client, name) is None:
        raise RegistryError(f"O modelo {name} não tem campeão; promova um antes: mlflow run . -e promote.")
    with _alone(client, name):
        champion = champion_of(client, name)
        previous = champion.tags.get(PREVIOUS_TAG)
        if previous is None:
            raise RegistryError(
                f"A versão {champion.version} de {name} não sucedeu a nenhuma; não há a quem devolver o posto."
            )
        if not any(version_number(version) == previous for version in _versions(client, name)):
            raise RegistryError(
                f"A versão {previous} de {name}, campeã antes da {champion.version}, foi apagada; promova outra: "
                "mlflow run . -e promote -P run_id=… -P force=true."
            )
        client.set_registered_model_alias(name, CHAMPION, previous)
        client.delete_model_version_tag(name, champion.version, PREVIOUS_TAG)
        client.set_model_version_tag(name, champion.version, "decision", "rolled_back")
    return str(champion.version), previous


@contextmanager
def _alone(client: MlflowClient, name: str) -> Iterator[None]:
    """Let one process at a time, on whatever machine, look at the alias and move it.

    MLflow cannot set an alias on condition. So each announces itself in a tag of the registered model, and then looks
    for others: of two, at least one sees the other. Who sees a lower token takes its own announcement back and tries
    again; who has the lowest waits until the others have done so, or are through.
    """
    token = secrets.token_hex(8)
    tag = f"{ANNOUNCEMENT}{token}"
    while True:
        client.set_registered_model_tag(name, tag, str(time.time()))
        others = _announced(client, name) - {token}
        if not others:
            break
        if min(others) < token:
            client.delete_registered_model_tag(name, tag)
        time.sleep(random.uniform(0.05, 0.2))
    try:
        yield
    finally:
        client.delete_registered_model_tag(name, tag)


def _announced(client: MlflowClient, name: str) -> set[str]:
    oldest = time.time() - ANNOUNCEMENT_LIFE
    tags = client.get_registered_model(name).tags
    return {
        key.removeprefix(ANNOUNCEMENT)
        for key, value in tags.items()
        if key.startswith(ANNOUNCEMENT) and float(value) > oldest
    }


def _decide(
    challenger: ModelVersion,
    champion: ModelVersion | None,
    settings: RegistrySettings,
    contest: Callable[[ModelVersion], Contest],
    force: bool,
) -> Decision:
    if champion is None:
        return Decision(True, "Primeira campeã: o posto estava vago.")
    forced = "promovida por force=true."
    try:
        outcome = contest(champion)
    except RegistryError as error:
        if not force:
            raise
        return Decision(True, f"Sem comparação com a versão {champion.version}: {forced}", None, str(error))
    records = len(outcome.references)
    if records < MIN_RECORDS:
        reason = (
            f"Só {records} leituras servem para comparar com a versão {champion.version}, e são precisas {MIN_RECORDS}"
        )
        return Decision(force, f"{reason}: {forced if force else 'fica como está.'}", None, outcome.remark)
    comparison = paired_bootstrap(
        settings.metric,
        outcome.challenger,
        outcome.champion,
        outcome.references,
        resamples=settings.resamples,
        seed=settings.seed,
        level=settings.confidence,
    )
    better = comparison.confidence >= settings.confidence
    difference, sure = comparison.difference.value, decimal(100 * comparison.confidence, 1)
    reason = (
        f"{METRIC_TITLES[settings.metric]} {decimal(abs(difference), 4)} {'acima' if difference >= 0 else 'abaixo'} da "
        f"versão {champion.version} em {records} leituras; melhor em {sure} % das reamostragens (exigido: "
        f"{decimal(100 * settings.confidence, 1)} %)"
    )
    verdict = "promovida." if better else forced if force else "fica como está."
    remarks = [outcome.remark, SAME_MODEL if settings.metric == BITS and difference == 0 else None]
    return Decision(better or force, f"{reason}: {verdict}", comparison, " ".join(filter(None, remarks)) or None)


def _write_down(
    client: MlflowClient,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    settings: RegistrySettings,
    decision: Decision,
) -> None:
    tags = {"decision": "promoted" if decision.promoted else "rejected", "decision.reason": decision.reason}
    lines = [f"**{'Campeã' if decision.promoted else 'Não promovida'}.** {decision.reason}"]
    if champion is not None:
        tags["decision.champion"] = str(champion.version)
    if decision.comparison is not None:
        interval = decision.comparison.difference
        tags |= {
            "decision.metric": settings.metric,
            "decision.difference": f"{interval.value:.6f}",
            "decision.low": f"{interval.low:.6f}",
            "decision.high": f"{interval.high:.6f}",
            "decision.confidence": f"{decision.comparison.confidence:.4f}",
            "decision.records": str(decision.comparison.records),
        }
        lines.append(
            f"Diferença de {METRIC_TITLES[settings.metric]}: {decimal(interval.value, 4)}; intervalo de "
            f"{decimal(100 * settings.confidence, 0)} %: {decimal(interval.low, 4)} a {decimal(interval.high, 4)} "
            f"(bootstrap pareado, {settings.resamples} reamostragens de {decision.comparison.records} leituras, "
            f"semente {settings.seed})."
        )
    if decision.remark:
        lines.append(decision.remark)
    for key in challenger.tags:
        if key.startswith("decision") and key not in tags:  # of an earlier comparison
            client.delete_model_version_tag(settings.name, challenger.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(settings.name, challenger.version, key, value)
    client.update_model_version(settings.name, challenger.version, description="\n\n".join(lines))


def _versions(client: MlflowClient, name: str) -> Sequence[ModelVersion]:
    return client.search_model_versions(f"name = '{name}'")
