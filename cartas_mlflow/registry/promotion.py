"""Register a run's model, hold it against the champion, move the alias or not; and give it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cartas_mlflow.console import decimal
from cartas_mlflow.errors import RegistryError
from cartas_mlflow.evaluation.confidence import Comparison, paired_bootstrap
from cartas_mlflow.settings import RegistrySettings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
PREVIOUS_TAG = "previous_champion"
MIN_RECORDS = 20
"""Records below which no difference is trusted: the percentile bootstrap is too narrow on few records."""
ATTEMPTS = 5
"""How often a decision is taken again because another promotion moved the alias meanwhile."""

METRIC_TITLES = {"chrf": "chrF", "rougeL": "ROUGE-L", "bleu": "BLEU"}


@dataclass(frozen=True)
class Contest:
    """Generated texts of both models for the same records, which neither was trained on.

    ``remark``: a Portuguese sentence on how the records were chosen, or None.
    """

    challenger: Sequence[str]
    champion: Sequence[str]
    references: Sequence[str]
    remark: str | None = None


@dataclass(frozen=True)
class Decision:
    """``reason``: one Portuguese sentence; ``comparison``: None where nothing could be, or needed to be, compared."""

    promoted: bool
    reason: str
    comparison: Comparison | None = None
    remark: str | None = None


def register(model_id: str, name: str) -> ModelVersion:
    """Register a logged model as the next version of ``name``."""
    import mlflow

    return mlflow.register_model(f"models:/{model_id}", name)


def champion_of(client: MlflowClient, name: str) -> ModelVersion | None:
    """The version that holds the alias; None if none does, or the model is not registered."""
    from mlflow.exceptions import MlflowException, RestException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except (MlflowException, RestException) as error:
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

    The decision, the interval and the reason become tags and the description of the challenger's version. A promotion
    by somebody else between comparison and move makes the comparison start again with the new champion.

    Args:
        contest: makes both models answer the same records.

    Raises:
        RegistryError: the champion changed at each of :data:`ATTEMPTS` attempts.
    """
    for _ in range(ATTEMPTS):
        champion = champion_of(client, settings.name)
        decision = _decide(challenger, champion, settings, contest, force)
        now = champion_of(client, settings.name)
        if _number(now) != _number(champion):
            continue
        if decision.promoted and _number(champion) != challenger.version:
            client.set_registered_model_alias(settings.name, CHAMPION, challenger.version)
            if champion is not None:
                client.set_model_version_tag(settings.name, challenger.version, PREVIOUS_TAG, champion.version)
        _write_down(client, challenger, champion, settings, decision)
        return decision
    raise RegistryError(f"O campeão de {settings.name} mudou {ATTEMPTS} vezes durante a comparação; tente de novo.")


def roll_back(client: MlflowClient, name: str) -> tuple[str, str]:
    """Give the alias back to the previous champion; (version that loses it, version that gets it).

    Raises:
        RegistryError: there is no champion, or none before it.
    """
    champion = champion_of(client, name)
    if champion is None:
        raise RegistryError(f"O modelo {name} não tem campeão; promova um antes: mlflow run . -e promote.")
    previous = champion.tags.get(PREVIOUS_TAG)
    if previous is None:
        raise RegistryError(
            f"A versão {champion.version} de {name} é a primeira campeã; não há a quem devolver o posto."
        )
    client.set_registered_model_alias(name, CHAMPION, previous)
    client.set_model_version_tag(name, champion.version, "rolled_back", "true")
    return champion.version, previous


def _decide(
    challenger: ModelVersion,
    champion: ModelVersion | None,
    settings: RegistrySettings,
    contest: Callable[[ModelVersion], Contest],
    force: bool,
) -> Decision:
    if champion is None:
        return Decision(True, "Primeira campeã: o posto estava vago.")
    if champion.version == challenger.version:
        return Decision(True, "Esta versão já é a campeã.")
    outcome = contest(champion)
    records = len(outcome.references)
    if records < MIN_RECORDS:
        reason = (
            f"Só {records} leituras servem para comparar com a versão {champion.version}, e são precisas {MIN_RECORDS}"
        )
        return Decision(force, f"{reason}{'; promovida por force=true.' if force else '.'}", None, outcome.remark)
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
    difference = comparison.difference.value
    reason = (
        f"{METRIC_TITLES[settings.metric]} {decimal(abs(difference), 4)} {'acima' if difference >= 0 else 'abaixo'} da "
        f"versão {champion.version} em {records} leituras, com {decimal(100 * comparison.confidence, 1)} % de confiança de "
        f"ser melhor (exigido: {decimal(100 * settings.confidence, 1)} %)"
    )
    if better:
        return Decision(True, f"{reason}: promovida.", comparison, outcome.remark)
    return Decision(
        force, f"{reason}: {'promovida por force=true' if force else 'fica como está'}.", comparison, outcome.remark
    )


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
        tags["decision.champion"] = champion.version
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
    for key, value in tags.items():
        client.set_model_version_tag(settings.name, challenger.version, key, value)
    client.update_model_version(settings.name, challenger.version, description="\n\n".join(lines))


def _number(version: ModelVersion | None) -> str | None:
    return None if version is None else version.version
