"""A training's model against the champion, on readings that neither was trained on; or the place given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from cartas_mlflow.console import pointed, say
from cartas_mlflow.evaluation.confidence import BITS, Answers
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.promotion import CHAMPION, Contest, Decision, promote, register, roll_back
from cartas_mlflow.registry.requests import RequestError
from cartas_mlflow.registry.texts import reading_id, trained_on, validation_table
from cartas_mlflow.settings import RECORD_FIELDS, RegistrySettings
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.utility_runs import tell_project_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry, and what became of it."""

    name: str
    version: str
    decision: Decision


def promote_model(
    client: MlflowClient, run_id: str, settings: RegistrySettings, *, force: bool = False
) -> RegisteredModel:
    """Register the run's model, unless it is registered already, and decide.

    Raises:
        RegistryError: no such run, no finished training, no model in it.
    """
    challenger = candidates.find_candidate(client, run_id)
    candidates.check_files(client, challenger)
    version = _registered(client, settings.name, challenger) or register(
        client, str(challenger.model_id), settings.name
    )
    say(f"Registrado: {settings.name}, versão {version.version}")

    def contest(champion: ModelVersion) -> Contest:
        return _hold(client, challenger, version, champion, settings.metric)

    decision = promote(client, version, settings, contest, force=force)
    say(("🏆 " if decision.promoted else "➖ ") + pointed(decision.reason))
    if decision.remark:
        say(pointed(decision.remark))
    if decision.promoted:
        say(f"Para servir: mlflow models serve -m models:/{settings.name}@{CHAMPION} --env-manager local")
    return RegisteredModel(settings.name, str(version.version), decision)


def give_back(name: str) -> tuple[str, str]:
    """Roll a model's champion back to the one before it; (version that loses the alias, version that gets it).

    Raises:
        RegistryError: there is no champion, or none before it.
        TrackingError: the tracking server does not answer.
    """
    client = candidates.connect()
    loser, winner = roll_back(client, name)
    outcome = f"{name}: a versão {loser} deixou o posto e a versão {winner} voltou a ser a campeã."
    say(f"↩️ {outcome}")
    tell_project_run(
        client,
        f"devolução do posto de {name}",
        outcome,
        command="promote",
        training=client.get_model_version(name, winner).run_id or None,
    )
    return loser, winner


def _registered(client: MlflowClient, name: str, candidate: candidates.Candidate) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.source == f"models:/{candidate.model_id}"), None)


def _hold(
    client: MlflowClient,
    challenger: candidates.Candidate,
    version: ModelVersion,
    champion: ModelVersion,
    metric: str,
) -> Contest:
    """Both models on those of the challenger's validation records that neither was trained on."""
    table = validation_table(str(challenger.run_id))
    rival = candidates.find_candidate(client, f"models:/{champion.name}/{champion.version}")
    own, known = trained_on(challenger), trained_on(rival)
    if known is None or own is None:
        who = champion.version if known is None else version.version
        return Contest(remark=f"Não se sabe mais com quais leituras a versão {who} treinou (data/split.csv).")
    readings = {reading_id(row["real"]) for row in table}
    rows = [row for row in table if reading_id(row["real"]) not in known.train | own.train]
    remark = None
    if len(rows) < len(table):
        remark = (
            f"As divisões diferem: {len(table) - len(rows)} das {len(table)} leituras de validação ficaram fora da "
            f"comparação, porque estavam no treino (a versão {champion.version} treinou com outra divisão)."
        )
    elif known.validation != readings:
        remark = f"As divisões diferem: a versão {champion.version} foi reavaliada nas leituras de validação desta."
    if not rows:
        return Contest(remark=remark)
    say(f"Comparando com a campeã (versão {champion.version}) em {len(rows)} leituras...")
    prompts, real = pd.DataFrame(rows)[list(RECORD_FIELDS)], [row["real"] for row in rows]
    both = []
    for candidate, number in ((challenger, version.version), (rival, champion.version)):
        generator = candidate.open()
        try:
            with progress_bar(len(rows), f"Versão {number}") as bar:
                if metric == BITS:
                    both.append(Answers(bits=generator.bits(prompts, real, on_progress=bar.update)))
                else:
                    both.append(Answers(generator.write(prompts, on_progress=bar.update)))
        except RequestError as error:
            return Contest(remark=f"A versão {number} não pode responder a estas leituras: {error.sentence}")
    return Contest(*both, real, remark)
