"""The search: trials of one study, on this machine or many; then its pictures, its best adapter and its settings."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import resolve_aliases, vary
from cartas_mlflow.console import duration, keep_log, say
from cartas_mlflow.errors import RunInterrupted
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.contest import promote_model
from cartas_mlflow.search import record
from cartas_mlflow.search.known_settings import known_settings
from cartas_mlflow.search.local_workers import LocalWorkers, threads_per_worker
from cartas_mlflow.search.run import SearchRun, close_dead_run, open_search_run, take_over_run
from cartas_mlflow.search.space import Space, is_searchable
from cartas_mlflow.search.space_file import SEARCH_CONFIG, load_search, read_space
from cartas_mlflow.search.storage import find_storage
from cartas_mlflow.search.study import SharedStudy, facts_of
from cartas_mlflow.search.trial import Bench, deliver_leftovers, try_settings
from cartas_mlflow.settings import ExperimentConfig, TrackingSettings
from cartas_mlflow.tracking.failures import failures_told, lost_connection, reason_of
from cartas_mlflow.tracking.run import STUDY_TAG
from cartas_mlflow.tracking.store import store_folder, told_keeps_models
from cartas_mlflow.training import preparation
from cartas_mlflow.training.folder import new_folder
from cartas_mlflow.training.preparation import SettledBase

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class SearchResult:
    """``trials``: those that count; ``best_value``: of ``search.metric``, None as long as no trial is complete."""

    run_id: str
    study: str
    trials: int
    best_value: float | None


@failures_told()
def tune(config_path: str = SEARCH_CONFIG, overrides: Mapping[str, Any] | None = None) -> SearchResult:
    """Search, or go on searching, until the study has its trials.

    Raises:
        UserError: anything that the user can mend.
        RunInterrupted: Ctrl+C or SIGTERM; the trial went back in line, and the same command goes on.
    """
    say("=== BUSCA DE HIPERPARÂMETROS ===")
    say("1. Carregando configurações e o espaço da busca...")
    given = resolve_aliases(overrides or {})
    requested, space = load_search(config_path, given)
    folder = new_folder(Path(requested.tracking.output_dir))
    with keep_log(folder / "busca.log", from_the_start=True), _sigterm_interrupts(), _open_storage(requested) as study:
        settled = _settle_on_the_metric(requested, config_path, given)
        config = settled.config
        source = Path(config_path).name
        if settled.requested is not None:
            space = read_space(config_path, config, given)  # its dimensions have to suit this base
            source = f"{source} + {Path(str(requested.model.fallback)).name}"
        for name, where in space.described().items():
            say(f"  {name}: {where}")

        say("2. Carregando e dividindo os dados...")
        data = preparation.split_data(config, preparation.load_data(config))

        say("3. Carregando modelo base...")
        base = preparation.load_model(settled)
        bench = Bench(settled, data, base)

        say("4. Abrindo o estudo...")
        run = _join(study, bench, space, source)
        with_model = told_keeps_models()

        say("5. Buscando...")
        workers = LocalWorkers(folder)
        with _ending_told(study, run, workers, config.tracking):
            if config.search.workers > 1:
                _share_cores(config.search.workers)
                workers.start(config.search.workers - 1, config_path, {**given, "search.study": study.name})
            complete = _work(study, run, space, bench, folder)
            workers.wait()

        if not complete and study.running():
            say("⏳ Tempo esgotado neste processo; outros seguem no estudo.")
        else:
            say("6. Reunindo os resultados...")
            deliver_leftovers(folder)
            record.close_study(study, run, space, bench, folder, with_model=with_model)
            if config.registry.register_model and with_model:
                say("7. Registrando o melhor adaptador e comparando com o campeão...")
                promote_model(candidates.connect(), run.id, config.registry)
        say(f"🔎 Estudo {study.name}, execução {run.id}; veja em: {run.page}")
        best = study.best()
        return SearchResult(run.id, study.name, len(study.trials()), best.value if best else None)


def _settle_on_the_metric(config: ExperimentConfig, config_path: str, given: Mapping[str, Any]) -> SettledBase:
    """The metric of the search also chooses each trial's best epoch, on any base, unless the user wants another."""
    firm = {"early_stopping.metric": config.search.metric, **given}
    chosen = vary(config, {"early_stopping.metric": firm["early_stopping.metric"]}, "search.metric")
    return preparation.settle_base(chosen, config_path, firm)


def _open_storage(config: ExperimentConfig) -> SharedStudy:
    """The study to be joined; a database that cannot be used shows before anything is loaded."""
    name = config.search.study or config.tracking.experiment
    return SharedStudy(find_storage(store_folder()), name, config.search, _close_run_of)


def _join(study: SharedStudy, bench: Bench, space: Space, source: str) -> SearchRun:
    config, name = bench.settled.config, study.name
    inherited, client = take_over_run(), candidates.connect()
    run_id = study.join(
        _terms(bench, space),
        space,
        config,
        known_settings(config, source, space, client, space.fixed),
        lambda: open_search_run(config.tracking, inherited, f"busca {name}", {STUDY_TAG: name}),
    )
    run = SearchRun.resume(run_id, name)
    if inherited not in {None, run_id}:
        run.adopt(inherited, name)
    record.log_search(run, study, space, bench)
    done = len(study.trials())
    say(f"Estudo {name} ({study.address}), trabalhador {study.worker}: {done} de {config.search.trials} tentativas")
    return run


def _work(study: SharedStudy, run: SearchRun, space: Space, bench: Bench, folder: Path) -> bool:
    config, started, since = bench.settled.config, time.monotonic(), datetime.now()  # Optuna's times have no zone

    def has_time() -> bool:
        return config.search.timeout is None or time.monotonic() - started < config.search.timeout

    complete = study.work(
        space,
        config,
        lambda claimed: try_settings(bench, claimed, folder, run.id),
        before=has_time,
        after=lambda: record.log_progress(study, run, since),
        on_wait=lambda others: say(f"⏳ Esperando {others} tentativas de outros processos..."),
    )
    record.log_progress(study, run, since)
    say(f"⏱️ {duration(time.monotonic() - started)} de busca neste processo")
    return complete


def _terms(bench: Bench, space: Space) -> dict[str, str]:
    """What all that work on a study must have alike; a value that differs names itself."""
    config, data = bench.settled.config, bench.data
    varied = {dimension.name for dimension in space.dimensions}
    settings = {
        name: value
        for name, value in config.flat().items()
        if (is_searchable(name) or name in {"early_stopping.metric", "training.seed", "evaluation.every_epochs"})
        and name not in varied
    }
    sides = [[(record.id, record.texto) for record in side] for side in (data.split.train, data.measured)]
    digest = hashlib.sha256()
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(sides):
        digest.update(part.encode())
    facts = {
        "search.metric": config.search.metric,
        "modelo base": f"{bench.base.location.name} ({bench.base.location.fingerprint()})",
        "leituras": f"{len(data.split.train)} + {len(data.measured)} ({digest.hexdigest()[:12]})",
        **{f"espaço de {name}": where for name, where in space.described().items()},
        **settings,
    }
    return {key: str(value) for key, value in facts.items()}


@contextmanager
def _ending_told(
    study: SharedStudy, run: SearchRun, workers: LocalWorkers, tracking: TrackingSettings
) -> Iterator[None]:
    """However this process stops early: its workers stop too, and the study's run says how, if nobody else goes on."""
    try:
        yield
    except (KeyboardInterrupt, RunInterrupted):
        say("⚠️ Busca interrompida: a tentativa em curso foi anotada e volta para a fila.")
        workers.interrupt()
        if not study.running():
            run.end("KILLED", "interrupted")
        say("Para continuar: o mesmo comando.")
        raise RunInterrupted("A busca continua com o mesmo comando.") from None
    except BaseException as error:
        workers.interrupt()
        if lost_connection(error) is None and lost_connection(error.__cause__) is None:  # else nowhere to say it
            run.end("FAILED", "failed", study.address.without_password(reason_of(error, with_words=tracking.log_texts)))
        raise


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM (``mlflow run`` sends it on Ctrl+C) ends the search as Ctrl+C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, where signals never arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _share_cores(workers: int) -> None:
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), threads_per_worker(workers)))
    say(f"{workers} trabalhadores neste computador, {torch.get_num_threads()} threads em cada um")


def _close_run_of(trial: FrozenTrial) -> None:
    run_id = facts_of(trial)["run"]
    if run_id is not None:
        close_dead_run(run_id)
    say(f"💀 O processo da tentativa {trial.number} morreu; ela será refeita")
