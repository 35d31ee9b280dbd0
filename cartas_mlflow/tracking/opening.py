"""Open the run that a command works in, and close it with the truth, however it ends."""

from __future__ import annotations

import os
import platform
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.console import say
from cartas_mlflow.errors import RunInterrupted, TrackingError, Undelivered, UserError, first_line
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.courier import Courier
from cartas_mlflow.tracking.delivery import Delivery
from cartas_mlflow.tracking.failures import cause_of, failures_told, is_passing, reason_of, store_name
from cartas_mlflow.tracking.journal import FOLDER, Journal
from cartas_mlflow.tracking.leftovers import held
from cartas_mlflow.tracking.machine import machine_watched
from cartas_mlflow.tracking.orphans import end_superseded, end_unborn
from cartas_mlflow.tracking.places import check_experiment, check_place
from cartas_mlflow.tracking.run import FAILURE_TAG, OUTCOME_TAG, TrackedRun, sync_command
from cartas_mlflow.tracking.standing import Standing
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, quiet_mlflow
from cartas_mlflow.tracking.telling import JOURNAL_TAG, LogModel

LAST_WAIT = 10.0
"""Seconds that a run that failed or was interrupted waits at most for a store that is away: its user is waiting."""
_CAN_BE_UNDONE = (UserError, RunInterrupted, KeyboardInterrupt)
"""What may end a resumption before its first step as if it had not been tried."""


@dataclass(frozen=True)
class _Opening:
    """Which run is to be opened; see :func:`open_run`."""

    settings: TrackingSettings
    journal: Journal
    resumed: str | None
    parent: str | None
    log_model: LogModel | None
    inherited: str | None
    """The run that ``mlflow run`` created."""

    @property
    def journal_id(self) -> str:
        first = self.journal.first
        return uuid.uuid4().hex if first is None else first.body["journal"]

    def begin(self) -> None:
        """Write down that the run is open, and everything that it takes to make it."""
        from mlflow.tracking.context.registry import resolve_tags

        settings, name = self.settings, self.settings.run_name
        journal_id, own = self.journal_id, {OUTCOME_TAG: "running"}  # a tag that the run has from its first moment
        if self.parent is not None:
            own["mlflow.parentRunId"] = self.parent
        marks = {OUTCOME_TAG: "running"}
        if self.inherited is not None and name is not None:
            marks["mlflow.runName"] = name
        if self.inherited is not None and self.resumed not in {None, self.inherited}:
            marks["resumed_from"] = self.resumed
        named = {} if name is None else {"mlflow.runName": name}
        body: Mapping[str, Any] = {
            "journal": journal_id,
            "host": platform.node(),
            "experiment": settings.experiment,
            "parent": self.parent,
            "tags": {key: str(value) for key, value in resolve_tags({**own, **named, JOURNAL_TAG: journal_id}).items()},
            "marks": marks,
        }
        self.journal.write("open", body)


@contextmanager
def open_run(
    settings: TrackingSettings,
    *,
    folder: Path | None = None,
    resume_run_id: str | None = None,
    parent_run_id: str | None = None,
    log_file: Path | None = None,
    log_model: LogModel | None = None,
) -> Iterator[TrackedRun]:
    """Open the run that ``mlflow run`` created, or the one to resume, or a new one; close it with the truth.

    What it is told goes to the journal in its folder, and a thread tells it to MLflow. An exception ends it FAILED and
    its reason stands in the tag ``failure``; an interruption ends it KILLED. A resumption that is refused, or stopped
    before its first step, leaves the run as it was.

    Args:
        folder: the run's; None: what it says is nowhere but in MLflow.
        parent_run_id: the new run is nested under this one, in its experiment; MLflow may be away when it opens.
        log_file: logged under ``report/`` when the run ends, however it ends.
        log_model: logs the models of :meth:`~cartas_mlflow.tracking.run.TrackedRun.log_model`.

    Raises:
        TrackingError: the tracking server does not answer at the start, or the experiment cannot be used.
        Undelivered: everything stands in the folder, and MLflow has not got all of it.
    """
    quiet_mlflow()
    with _place(folder) as place, held(place), failures_told():
        journal = Journal(place / FOLDER)
        inherited = os.environ.get("MLFLOW_RUN_ID")
        opening = _Opening(settings, journal, resume_run_id, parent_run_id, log_model, inherited)
        before = None if inherited not in {None, resume_run_id} else Standing.of(journal)
        run, courier = _open_offline(opening, folder) if settings.offline else _open_online(opening)
        try:
            check_experiment(settings, run, resume_run_id)
            with machine_watched(run, settings.system_metrics_interval) if settings.system_metrics else nullcontext():
                yield run
            _log_log(run, log_file)
        except BaseException as error:
            if before is not None and before.is_still_so(journal) and isinstance(error, _CAN_BE_UNDONE):
                before.restore(journal)
            else:
                _write_ending(run, error, log_file)
            if not _close(courier, run, min(settings.wait, LAST_WAIT)) and folder is not None:
                say(f"📦 {_what_is_left(run, courier)}")
            raise
        journal.write("end", {"status": "FINISHED"})
        if not _close(courier, run, settings.wait):
            if folder is None:
                _give_up(run, courier)
            if courier is not None:
                raise Undelivered(_what_is_left(run, courier))
            say(f"📦 {_what_is_left(run, courier)}")


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as passing:
        yield Path(passing)


def _open_offline(opening: _Opening, folder: Path | None) -> tuple[TrackedRun, None]:
    if folder is None or opening.parent is not None:
        raise TrackingError(
            "tracking.offline=true vale para train e pretrain; este comando precisa do MLflow: inicie-o, ou corrija "
            "MLFLOW_TRACKING_URI."
        )
    journal = opening.journal
    if opening.inherited is not None:
        Delivery(journal.folder, None).go_on(opening.inherited, "")
    opening.begin()
    name = opening.settings.experiment
    inside, texts = opening.inherited is not None, opening.settings.log_texts
    return TrackedRun(journal.first.body["journal"], name, inside, journal, logs_texts=texts), None


def _open_online(opening: _Opening) -> tuple[TrackedRun, Courier]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if opening.parent is None:
        check_tracking_server()
    with one_at_a_time():  # the first client makes the store
        delivery = Delivery(opening.journal.folder, MlflowClient(), opening.log_model)
    courier = Courier(opening.journal, delivery)
    try:
        run = _connect(opening, delivery)
    except TrackingError as error:
        # A trial need not wait for what may be back before it ends.
        if opening.parent is None or not is_passing(error.__cause__):
            courier.let_go()
            raise
        if opening.journal.first is None:
            opening.begin()
        settings, journal = opening.settings, opening.journal
        run = TrackedRun(opening.journal_id, settings.experiment, False, journal, logs_texts=settings.log_texts)
    except MlflowException as error:
        courier.let_go()
        raise TrackingError(
            f"{store_name()} não abriu a execução ({first_line(error)}); confira o experimento e "
            "MLFLOW_TRACKING_URI (dentro de mlflow run, um sqlite precisa do caminho absoluto)."
        ) from None
    except BaseException:
        courier.let_go()
        raise
    courier.start()
    return run, courier


def _connect(opening: _Opening, delivery: Delivery) -> TrackedRun:
    """Find or make the run in MLflow, and tell it that it is open."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client, wanted = delivery.client, opening.inherited or opening.resumed
    last = opening.journal.last
    try:
        with failures_told(), one_at_a_time():
            if wanted is not None and wanted != (opening.journal.first and opening.journal_id):
                found = client.get_run(wanted)
                check_place(client.get_experiment(found.info.experiment_id), wanted)
                delivery.go_on(wanted, found.info.experiment_id)
            else:
                delivery.find_run()
                if delivery.told is None and opening.parent is None:
                    check_place(mlflow.set_experiment(opening.settings.experiment), None)
            opening.begin()
            if delivery.told is None:
                delivery.make_run()
        with failures_told():
            delivery.deliver()
            experiment = client.get_experiment(delivery.told.experiment_id).name
            if last is not None:
                end_superseded(delivery, last.time)
            if opening.parent is None:
                _say_unborn(end_unborn(client, delivery.told.experiment_id, delivery.told.run_id))
    except TrackingError as error:
        cause = error.__cause__
        if isinstance(cause, MlflowException) and cause.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise cause from None
        raise
    told = delivery.told
    return TrackedRun(
        told.run_id,
        experiment,
        opening.inherited is not None,
        opening.journal,
        told.experiment_id,
        opening.settings.log_texts,
    )


def _say_unborn(count: int) -> None:
    if count == 1:
        say("⚠️ Um mlflow run morreu antes de o programa começar; a sua execução está marcada como interrompida.")
    elif count:
        say(f"⚠️ {count} mlflow run morreram antes de o programa começar; estão marcados como interrompidos.")


def _write_ending(run: TrackedRun, error: BaseException, log_file: Path | None) -> None:
    """Write down the reason that came first; what fails on the way is noted on the error, and hides nothing."""
    if isinstance(error, (KeyboardInterrupt, RunInterrupted)):
        status, tags, words = "KILLED", {OUTCOME_TAG: "interrupted"}, f"**Interrompida.** {error}".strip()
    else:
        reason = reason_of(error, with_words=run.logs_texts)
        status, tags, words = "FAILED", {OUTCOME_TAG: "failed", FAILURE_TAG: reason}, f"**Falhou:** {reason}"
    try:
        run.set_tags(tags)
        run.describe(words)
        _log_log(run, log_file)
        run.journal.write("end", {"status": status})
    except OSError as second:
        error.add_note(f"Ao encerrar a execução: {type(second).__name__}: {first_line(second)}")


def _log_log(run: TrackedRun, log_file: Path | None) -> None:
    if log_file is not None and run.logs_texts:
        run.log_file(log_file, "report")


def _close(courier: Courier | None, run: TrackedRun, seconds: float) -> bool:
    """Wait for the delivery; whether everything got there. A Ctrl+C does not wait."""
    if courier is None:
        return False
    try:
        return courier.close(seconds)
    except KeyboardInterrupt:
        return False


def _what_is_left(run: TrackedRun, courier: Courier | None) -> str:
    command = sync_command(run.journal.root)
    if courier is None:
        return (
            f"Nada foi enviado ao MLflow (tracking.offline=true); está em {run.journal.root}. Para entregar: {command}"
        )
    refused = courier.delivery.refusals[:1] or ["não houve tempo"]
    problem = refused[0].rstrip(".") if courier.problem is None else cause_of(courier.problem)
    return (
        f"{store_name()} não recebeu tudo ({problem}). Nada se perdeu: está tudo em "
        f"{run.journal.root}. Para entregar: {command}"
    )


def _give_up(run: TrackedRun, courier: Courier) -> None:
    """The end of a run that is nowhere but in MLflow, which has not got all of it.

    Raises:
        TrackingError: always.
    """
    delivery = courier.delivery
    if courier.problem is None and delivery.refusals:
        error = TrackingError(delivery.refusals[0])
        _write_ending(run, error, None)
        delivery.deliver()
        raise error
    raise TrackingError(
        f"{store_name()} parou de responder, e a execução {run.id} ficou incompleta nele; com ele de volta, repita o "
        "comando."
    ) from courier.problem
