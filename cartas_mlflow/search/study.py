"""A study that any number of processes share: the exact number of trials, who does which, what dead workers leave.

Trials are claimed one process at a time, under a lock of the study: whoever holds it counts the trials, lets Optuna
create one (or take one that waits) and chooses its values. The count is therefore exact, and no two workers choose
without seeing each other's choice. A trial that was interrupted, or whose process died, is marked failed and waits in
line again with the same values; it and its retries count as one.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cartas_mlflow.errors import BaseModelError, DataError, SearchError, SettingError, TrainingError
from cartas_mlflow.search.choosing import choose_pruner, choose_sampler
from cartas_mlflow.search.space import Known, Space
from cartas_mlflow.search.storage import StorageAddress, one_at_a_time, open_storage, unusable
from cartas_mlflow.settings import LOWER_IS_BETTER, ExperimentConfig, SearchSettings

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

TRIAL_ERRORS = (SettingError, DataError, BaseModelError, TrainingError)
"""What fails a trial; anything else, a tracking server that is gone for one, would fail all the others too."""
MAX_RETRIES = 3
"""Times that a trial is done again; one that kills its process each time is then left failed."""
POLL_SECONDS = 2.0
"""Time between looks at the others' last trials, which may still have to be done again."""

_TERMS, _PARENT, _WORKERS, _SHOWN, _CLOSED = "terms", "parent_run", "workers", "shown", "closed"
_LABEL, _GIVEN, _RUN, _WORKER, _REASON = "label", "settings", "run", "worker", "reason"


@dataclass(frozen=True)
class Claimed:
    """A trial to be done: ``values`` are all the settings that it changes."""

    trial: Trial
    label: str | None
    """The known settings that it stands for."""
    values: Mapping[str, Any]

    @property
    def number(self) -> int:
        return self.trial.number

    def remember_run(self, run_id: str) -> None:
        self.trial.set_user_attr(_RUN, run_id)

    def remember(self, **facts: float) -> None:
        """Figures for the table of trials."""
        for name, value in facts.items():
            self.trial.set_user_attr(name, value)


@dataclass(frozen=True)
class Finished:
    """A trial that ended. ``best``: the best value until then, None as long as no trial was complete."""

    place: int
    """In the order of the ends, from 1."""
    trial: FrozenTrial
    best: float | None
    first: bool
    """No other process was told of it before."""


class SharedStudy:
    """One study as one process sees it; used ``with``, its connections are closed at the end.

    Args:
        name: processes that use the same name in the same storage share the study.
        on_death: told of a trial whose process died, before it waits in line again.

    Raises:
        SearchError: the storage cannot be used.
    """

    def __init__(
        self, address: StorageAddress, name: str, settings: SearchSettings, on_death: Callable[[FrozenTrial], None]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        self.address, self.name, self.settings, self.on_death = address, name, settings, on_death
        self.storage = open_storage(address, settings.heartbeat)
        self.storage.heartbeat_stale_trial_callback = self._revive
        self.study: Study | None = None
        self.worker = 0
        self._heard = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the connections. What the database refused meanwhile becomes one sentence, without its password."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        self.storage.remove_session()
        self.storage.engine.dispose()
        if isinstance(error, (StorageInternalError, SQLAlchemyError)):
            raise unusable(self.address, error) from None

    def alone(self) -> AbstractContextManager[None]:
        """No other process claims a trial of this study meanwhile."""
        return one_at_a_time(self.address, f"study {self.name}")

    def join(
        self,
        terms: Mapping[str, Any],
        space: Space,
        config: ExperimentConfig,
        known: Sequence[Known],
        open_parent: Callable[[], str],
    ) -> str:
        """Create the study, or join it; gives the id of its MLflow run, which is opened once per study.

        Args:
            terms: what must be the same for everybody who works on the study.
            known: settings to be tried before the sampler chooses.
            open_parent: opens the study's run, gives its id.

        Raises:
            SearchError: the study was begun on other terms.
        """
        import optuna

        settings = self.settings
        with self.alone():
            self.study = optuna.create_study(
                study_name=self.name,
                storage=self.storage,
                direction="minimize" if self.minimizes else "maximize",
                load_if_exists=True,
            )
            attributes = self.study.user_attrs
            if _TERMS in attributes:
                self._check_terms(attributes[_TERMS], terms)
            else:
                # Each step can be done again: a process may die between any two of them.
                if _PARENT not in attributes:
                    self.study.set_user_attr(_PARENT, open_parent())
                self._enqueue(space, config, known)
                self.study.set_user_attr(_TERMS, dict(terms))
            self.worker = attributes.get(_WORKERS, 0) + 1
            self.study.set_user_attr(_WORKERS, self.worker)
            self._heard = len(attributes.get(_SHOWN, []))
        epochs = space.largest("training.epochs", config)
        self.study.pruner = choose_pruner(settings, config.evaluation.every_epochs, int(epochs))
        # The same seed in two workers, or in the same one started again, would repeat the same choices.
        self.study.sampler = choose_sampler(settings, settings.seed + self.worker)
        return str(self.study.user_attrs[_PARENT])

    def work(
        self,
        space: Space,
        config: ExperimentConfig,
        objective: Callable[[Claimed], float],
        *,
        before: Callable[[], bool] = lambda: True,
        after: Callable[[], None] = lambda: None,
        on_wait: Callable[[int], None] = lambda others: None,
    ) -> bool:
        """Do trials until the study has as many as it is to have; then wait for the others' last ones.

        Args:
            objective: does a trial, gives its value; one of :data:`TRIAL_ERRORS` is a failed trial with its reason.
            before: asked before each trial whether to go on.
            after: told after each trial.
            on_wait: told how many trials of others are waited for, once.

        Returns:
            Whether the study is complete.
        """
        # What is loaded stays: the collector, which runs after each trial, would look through it for most of a second.
        gc.collect()
        gc.freeze()
        waited = False
        while before():
            with ExitStack() as turn:
                turn.enter_context(self.alone())
                self._bury_the_dead()
                trials = self.trials()
                if len(trials) < self.settings.trials:
                    self._do_one(space, config, objective, turn)
                    after()
                    continue
            running = self.running()
            if not running:
                return True
            if not waited:
                on_wait(running)
            waited = True
            time.sleep(min(POLL_SECONDS, self.settings.heartbeat))
        return False

    def trials(self) -> list[FrozenTrial]:
        """The trials that count, in order of number: begun or done, and not done again as another."""
        begun = self.all_trials()
        replaced = {number for trial in self._stored() for number in trial.system_attrs.get("retry_history", ())}
        return [trial for trial in begun if trial.number not in replaced]

    def all_trials(self) -> list[FrozenTrial]:
        """The trials that were begun, those too that were done again."""
        from optuna.trial import TrialState

        return [trial for trial in self._stored() if trial.state != TrialState.WAITING]

    def running(self) -> int:
        """Trials that some process is at."""
        return sum(not trial.state.is_finished() for trial in self.trials())

    def close_once(self, close: Callable[[], None]) -> bool:
        """Let one of the processes that see the study as it stands now close it; whether this one did.

        Others wait meanwhile. A study that went on since is closed again.
        """
        with one_at_a_time(self.address, f"end {self.name}"):
            state = sorted(trial.number for trial in self.trials() if trial.state.is_finished())
            if self._open_study().user_attrs.get(_CLOSED) == state:
                return False
            close()
            self._open_study().set_user_attr(_CLOSED, state)
        return True

    @property
    def minimizes(self) -> bool:
        """Whether the smaller value of two trials is the better one."""
        return self.settings.metric in LOWER_IS_BETTER

    def best(self) -> FrozenTrial | None:
        """The complete trial with the best value; the earlier one of two that are alike."""
        sign = 1 if self.minimizes else -1
        complete = [trial for trial in self.trials() if is_complete(trial)]
        return min(complete, key=lambda trial: (sign * trial.value, trial.number), default=None)

    def newly_finished(self) -> list[Finished]:
        """The trials that ended since this process asked last (or joined), in the order of their ends."""
        with self.alone():
            finished = {trial.number: trial for trial in self.all_trials() if trial.state.is_finished()}
            shown = self._open_study().user_attrs.get(_SHOWN, [])
            new = sorted(finished.keys() - set(shown), key=lambda number: finished[number].datetime_complete)
            if new:
                self._open_study().set_user_attr(_SHOWN, [*shown, *new])
        choose = min if self.minimizes else max
        told: list[Finished] = []
        best = None
        for place, number in enumerate([*shown, *new], start=1):
            if is_complete(finished[number]):
                value = finished[number].value
                best = value if best is None else choose(best, value)
            told.append(Finished(place, finished[number], best, first=place > len(shown)))
        heard, self._heard = self._heard, len(told)
        return told[heard:]

    def _do_one(
        self, space: Space, config: ExperimentConfig, objective: Callable[[Claimed], float], turn: ExitStack
    ) -> None:
        """Claim a trial, let the others in, do it."""
        begun: list[Trial] = []

        def run(trial: Trial) -> float:
            begun.append(trial)
            given = trial.user_attrs.get(_GIVEN, {})
            values = space.suggest(trial, config, given)
            # From here on somebody answers for the trial: a process that dies leaves it with a last sign of life.
            self.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr(_WORKER, self.worker)
            turn.close()
            try:
                return objective(Claimed(trial, trial.user_attrs.get(_LABEL), values))
            except TRIAL_ERRORS as error:
                trial.set_user_attr(_REASON, str(error))
                raise

        study = self._open_study()
        try:
            study.optimize(run, n_trials=1, catch=TRIAL_ERRORS, gc_after_trial=True)
        except (ValueError, AssertionError):
            # Optuna's refusals of an end of a trial that another process has taken for dead (a laptop that slept).
            if not begun or not self._was_replaced(begun[0].number):
                raise
        except BaseException:
            if begun:
                self._stand_in_line_again(study.trials[begun[0].number])
            raise

    def _was_replaced(self, number: int) -> bool:
        return number not in {trial.number for trial in self.trials()}

    def _bury_the_dead(self) -> None:
        import optuna

        study = self._open_study()
        for trial in self.all_trials():
            # Under the lock nobody is between creating a trial and answering for it: such a process died there.
            if not trial.state.is_finished() and _WORKER not in trial.user_attrs:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                self._revive(study, study.trials[trial.number])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)

    def _revive(self, study: Study, trial: FrozenTrial) -> None:
        self.on_death(trial)
        self._stand_in_line_again(trial)

    def _stand_in_line_again(self, trial: FrozenTrial) -> None:
        import optuna

        history = [*trial.system_attrs.get("retry_history", ()), trial.number]
        if len(history) > MAX_RETRIES:
            return
        kept = {key: value for key, value in trial.user_attrs.items() if key in {_LABEL, _GIVEN}}
        # Optuna's own names (RetryHeartbeatStaleTrialCallback), so that its tools know a retry when they see one.
        system = {**trial.system_attrs, "failed_trial": history[0], "retry_history": history}
        self._open_study().add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=kept,
                system_attrs=system,
            )
        )

    def _enqueue(self, space: Space, config: ExperimentConfig, known: Sequence[Known]) -> None:
        study = self._open_study()
        there = {trial.user_attrs.get(_LABEL) for trial in self._stored()}
        for settings in known:
            if settings.label not in there:
                params, rest = space.enqueued(settings, config)
                study.enqueue_trial(params, user_attrs={_LABEL: settings.label, _GIVEN: rest})

    def _check_terms(self, agreed: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
        for key in {**agreed, **mine}:
            if agreed.get(key) != mine.get(key):
                raise SearchError(
                    f"O estudo {self.name} ({self.address}) foi aberto com {key}={agreed.get(key)}, e este comando tem "
                    f"{mine.get(key)}; use o mesmo valor, ou outro nome de estudo (-P study=NOME)."
                )

    def _stored(self) -> list[FrozenTrial]:
        return self._open_study().get_trials(deepcopy=False)

    def _open_study(self) -> Study:
        if self.study is None:
            raise RuntimeError("join() comes first")
        return self.study


def is_complete(trial: FrozenTrial) -> bool:
    """It was done to its end and has a value."""
    from optuna.trial import TrialState

    return trial.state == TrialState.COMPLETE


def facts_of(trial: FrozenTrial) -> dict[str, Any]:
    """What the workers noted on a trial: label, settings, run, worker, reason, copied_share; None where nothing was."""
    return {key: trial.user_attrs.get(key) for key in (_LABEL, _GIVEN, _RUN, _WORKER, _REASON, "copied_share")}
