"""Which runs a person means: by id or its beginning, by name, the newest, a study's best, the champion's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from cartas_mlflow.console import say
from cartas_mlflow.errors import TrackingError
from cartas_mlflow.settings import LOWER_IS_BETTER
from cartas_mlflow.tracking.metric_names import TRIAL_VALUE, logged
from cartas_mlflow.tracking.run import FINISHED_OUTCOMES, OUTCOME_TAG, STATE_TAG, STUDY_TAG, UTILITY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

MOST_RUNS = 8
"""More columns than that nobody reads side by side."""
BEST_TRIALS = 3
"""Trials of a study that are taken."""
SHOWN = 3
"""Runs that a sentence names."""
HOW_TO_NAME = "ids (ou o começo deles), nomes, last:3, study:NOME ou champion, separados por vírgulas"
TRAINED = "derived.trainable_params"
"""A parameter that only trainings have, a search's trials among them."""
_PARENT = "mlflow.parentRunId"
_ID, _PREFIX = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{4,31}")


@dataclass(frozen=True)
class ExperimentRuns:
    """The runs of one experiment, as they are asked for.

    ``champion``: gives the run id of the registry's champion, whatever its experiment; called only where it is meant.
    """

    client: MlflowClient
    experiment: Experiment
    champion: Callable[[], str]

    def choose(self, words: str) -> list[Run]:
        """The runs that the words mean, each once, in their order; ``last:N``: the oldest of them first.

        Raises:
            TrackingError: a run, study or number that does not exist, a name that several runs have, a run of another
                experiment or a deleted one, fewer than two runs, or more than :data:`MOST_RUNS`.
            RegistryError: there is no champion.
        """
        chosen: dict[str, Run] = {}
        for word in filter(None, map(str.strip, words.split(","))):
            for run in self._meant(word):
                chosen.setdefault(run.info.run_id, run)
        if not chosen:
            raise TrackingError(f"Diga em runs quais execuções comparar: {HOW_TO_NAME}.")
        if len(chosen) == 1:
            (run,) = chosen.values()
            raise TrackingError(
                f"runs={words} é uma execução só ({_shown(run)}), e são precisas duas ou mais; acrescente outra: "
                f"{HOW_TO_NAME}."
            )
        if len(chosen) > MOST_RUNS:
            raise TrackingError(
                f"runs={words} são {len(chosen)} execuções, e cabem {MOST_RUNS} lado a lado; escolha menos."
            )
        return list(chosen.values())

    def _meant(self, word: str) -> Sequence[Run]:
        kind, colon, rest = word.partition(":")
        if word == "champion":
            return [self.client.get_run(self.champion())]
        if colon and kind == "last":
            return self._newest(rest)
        if colon and kind == "study":
            return self._best_trials(self._study(rest))
        run = self._one(word)
        return self._best_trials(run) if STUDY_TAG in run.data.tags else [run]

    def _newest(self, number: str) -> Sequence[Run]:
        if not number.isascii() or not number.isdigit() or int(number) == 0:
            raise TrackingError(f"last:{number} não serve; escreva quantas execuções, por exemplo last:3.")
        found = list(islice(self._trainings(), int(number)))
        if not found:
            raise TrackingError(
                f"O experimento {self.experiment.name} não tem treinamento concluído; treine antes, ou indique outro "
                "em tracking.experiment (no mlflow run, --experiment-name)."
            )
        if 1 < len(found) < int(number):
            say(f"O experimento {self.experiment.name} tem só {len(found)} treinamentos concluídos.")
        return found[::-1]

    def _trainings(self) -> Iterator[Run]:
        """Finished trainings, the newest first; a search's trials and its own run are not among them."""
        for run in self._search(order_by=["attributes.start_time DESC"]):
            if _is_finished_training(run) and _PARENT not in run.data.tags:
                yield run

    def _study(self, name: str) -> Run:
        known = list(self._search(f"tags.`{STUDY_TAG}` LIKE '%'"))
        studies = [run for run in known if run.data.tags[STUDY_TAG] == name]
        if not studies:
            names = ", ".join(sorted({run.data.tags[STUDY_TAG] for run in known}))
            raise TrackingError(
                f"O experimento {self.experiment.name} não tem o estudo {name}; "
                + (f"tem: {names}." if names else "não há busca nele: indique outro em tracking.experiment.")
            )
        return self._only(studies, f"study:{name}")

    def _best_trials(self, study: Run) -> Sequence[Run]:
        name = study.data.tags[STUDY_TAG]
        sign = 1 if study.data.params.get("search.metric") in LOWER_IS_BETTER else -1
        complete = [
            (sign * value, run.info.start_time, run)
            for run in self._search(f"tags.`{_PARENT}` = '{study.info.run_id}'")
            if run.data.tags.get(STATE_TAG) == "complete"
            and (value := logged(run.data.metrics, TRIAL_VALUE)) is not None
        ]
        ranking = [run for *_, run in sorted(complete, key=lambda entry: entry[:2])]
        kept = list(islice((run for run in ranking if self._has_texts(run)), BEST_TRIALS))
        if not kept:
            raise TrackingError(
                f"O estudo {name} não tem nenhuma tentativa completa que guardou as leituras (samples/final.csv); "
                "espere uma terminar, ou compare outras execuções."
            )
        return kept

    def _has_texts(self, run: Run) -> bool:
        return any(item.path == "samples/final.csv" for item in self.client.list_artifacts(run.info.run_id, "samples"))

    def _one(self, word: str) -> Run:
        """The run of this experiment that has this id, this beginning of it, or this name."""
        found = self._named(word, [self.experiment.experiment_id])
        if found:
            usable = [run for run in found if _is_finished_training(run) or STUDY_TAG in run.data.tags]
            return self._only(usable or found, word)
        others = {place.experiment_id: place.name for place in self.client.search_experiments()}
        elsewhere = self._named(word, [place for place in others if place != self.experiment.experiment_id])
        if elsewhere:
            other = others[elsewhere[0].info.experiment_id]
            raise TrackingError(
                f"A execução {word} é do experimento {other}, e a comparação é no {self.experiment.name}; indique "
                f"tracking.experiment={other} (no mlflow run, --experiment-name), ou outra execução."
            )
        if _ID.fullmatch(word) and self._is_deleted(word):
            raise TrackingError(
                f"A execução {word} foi apagada; recupere-a com mlflow runs restore --run-id {word}, ou indique outra."
            )
        newest = "; ".join(map(_shown, islice(self._trainings(), SHOWN)))
        raise TrackingError(
            f"A execução {word} não existe no experimento {self.experiment.name}; "
            + (f"confira o nome ou o id (os treinamentos mais novos: {newest})." if newest else "ele está vazio.")
        )

    def _named(self, word: str, experiments: Sequence[str]) -> list[Run]:
        if not experiments:
            return []
        if _ID.fullmatch(word):
            return list(self._search(f"attributes.run_id = '{word}'", experiments))
        # A name may hold either quote: as a pattern, with any character in the place of one, it holds none.
        pattern = word.replace("'", "_")
        named = self._search(f"attributes.run_name LIKE '{pattern}'", experiments)
        found = [run for run in named if run.info.run_name == word]
        if found or not _PREFIX.fullmatch(word):
            return found
        return list(self._search(f"attributes.run_id LIKE '{word}%'", experiments))

    def _only(self, runs: Sequence[Run], word: str) -> Run:
        if len(runs) > 1:
            ids = ", ".join(run.info.run_id[:12] for run in runs[:SHOWN]) + (", …" if len(runs) > SHOWN else "")
            raise TrackingError(f"{word} serve a {len(runs)} execuções ({ids}); use o id de uma delas.")
        return runs[0]

    def _search(
        self, where: str = "", experiments: Sequence[str] | None = None, order_by: Sequence[str] | None = None
    ) -> Iterator[Run]:
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                list(experiments or [self.experiment.experiment_id]),
                filter_string=where,
                order_by=list(order_by or ()),
                max_results=100,
                page_token=page.token if page else None,
            )
            yield from page

    def _is_deleted(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "deleted"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False


def _is_finished_training(run: Run) -> bool:
    tags = run.data.tags
    return tags.get(OUTCOME_TAG) in FINISHED_OUTCOMES and UTILITY_TAG not in tags and TRAINED in run.data.params


def _shown(run: Run) -> str:
    return f"{run.info.run_name}, {run.info.run_id[:12]}"
