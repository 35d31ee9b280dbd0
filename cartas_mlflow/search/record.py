"""What a search writes down on its study's run: at the start, after each trial, at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cartas_mlflow.config import vary
from cartas_mlflow.console import decimal, duration, hushed, pointed, say
from cartas_mlflow.errors import SearchError
from cartas_mlflow.files import write_text
from cartas_mlflow.registry.logged import log_entry, model_entry
from cartas_mlflow.registry.model import open_folder
from cartas_mlflow.search.figures import StudyView, draw_study, importances, interactive_page, standing
from cartas_mlflow.search.run import SearchRun
from cartas_mlflow.search.space import Space
from cartas_mlflow.search.study import SharedStudy, facts_of
from cartas_mlflow.search.trial import Bench
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking import metric_names
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.report import LINE, METRIC_TITLES
from cartas_mlflow.tracking.run import OUTCOME_TAG, TrackedRun, param_text
from cartas_mlflow.tracking.telling import JOURNAL_TAG
from cartas_mlflow.training import fitting
from cartas_mlflow.training import record as training_record

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "completa", "PRUNED": "cortada", "FAIL": "falhou", "RUNNING": "em curso"}
TRAINING_SECTIONS = ("data", "model", "lora", "training", "early_stopping", "generation", "evaluation")
"""What ``best.yaml`` holds: how to train, not where to log."""
BUDGET = "search.trials"
"""A tag, not a parameter: a study that goes on may be given more."""
SHOWN_ROWS, SHOWN_SHARES = 10, 3
NO_SERIES_STEP = 10**9
"""MLflow links to a logged model whatever the run logged at the model's step: a step that no series has."""


def log_search(run: SearchRun, study: SharedStudy, space: Space, bench: Bench) -> None:
    """The settings of the search, its space, and what every trial has alike."""
    config, location = bench.settled.config, bench.base.location
    run.log_params(
        {
            **{name: value for name, value in config.flat().items() if name.startswith("search.") and name != BUDGET},
            **{f"space.{name}": where for name, where in space.described().items()},
            "model.resolved": location.name,
            "model.fingerprint": location.fingerprint(),
            "data.path": config.data.path,
            "derived.train_records": len(bench.data.split.train),
            "derived.validation_records": len(bench.data.measured),
            "search.storage": study.address.url.get_backend_name(),
        }
    )
    run.set_tag(BUDGET, study.settings.trials)


def log_progress(study: SharedStudy, run: SearchRun, since: datetime) -> None:
    """Tell of the trials that ended, whoever did them, and add them to the series of the best value.

    Args:
        since: when this process began to search; the time that is left is told at the pace since then.
    """
    metric = study.settings.metric
    news = study.newly_finished()
    if not news:
        return
    trials = study.trials()
    counted = {trial.number for trial in trials}
    for end in news:
        if end.first and end.best is not None:
            run.log_metric(f"search/best_{metric}", end.best, end.place)
        number = end.trial.number
        account = _account(end.trial, metric) if number in counted else f"Tentativa {number}: será refeita"
        say(pointed(f"{account} · melhor até aqui: {_value(end.best)}"))
    say(_pace(trials, study.settings.trials, since))


def _pace(trials: Sequence[FrozenTrial], wanted: int, since: datetime) -> str:
    """How many trials are done, and the time that is left at the pace of all processes since then."""
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete is not None]
    lately = [end for end in ends if end >= since]
    left = wanted - len(ends)
    done = f"  {len(ends)} de {wanted} tentativas prontas"
    if not lately or left <= 0:
        return done
    return f"{done}; restam cerca de {duration((max(lately) - since).total_seconds() / len(lately) * left)}"


def close_study(
    study: SharedStudy, run: SearchRun, space: Space, bench: Bench, folder: Path, *, with_model: bool = True
) -> None:
    """Pictures, table, best settings and best adapter on the study's run; once for the trials that there are.

    Raises:
        SearchError: no trial came to its end.
    """
    if not study.close_once(lambda: _close(study, run, space, bench, folder, with_model)):
        run.end("FINISHED", "finished")  # another process, or an earlier command, has written it all down
    ranking = _ranking(study)
    for trial in ranking[:SHOWN_ROWS]:
        say(f"  {pointed(_account(trial, study.settings.metric))}")
    title = _title(study.settings.metric)
    say(f"🏆 Melhor tentativa: {ranking[0].number}, {title} {pointed(_value(ranking[0].value))}")
    say("📁 Para treinar com ela: search/best.yaml, nos artefatos do estudo (-P config=best.yaml)")


def _close(study: SharedStudy, run: SearchRun, space: Space, bench: Bench, folder: Path, with_model: bool) -> None:
    base_config = bench.settled.config
    tracking = base_config.tracking.model_copy(update={"experiment": run.experiment, "system_metrics": False})
    with open_run(tracking, resume_run_id=run.id, log_file=folder / "busca.log", log_model=log_entry) as tracked:
        view = StudyView(study.name, _title(study.settings.metric), not study.minimizes, study.trials())
        _log_trials(tracked, study, space)
        best = study.best()
        if best is None:
            _log_pictures(tracked, view, study.settings.seed)
            reasons = [facts_of(trial)["reason"] for trial in study.trials() if facts_of(trial)["reason"]]
            raise SearchError(
                f"Nenhuma tentativa do estudo {study.name} chegou ao fim; "
                + (f"a última falhou assim: {reasons[-1]}" if reasons else "aumente trials, ou use search.pruner=none.")
            )
        config = vary(base_config, values_of(best, space), f"tentativa {best.number}")
        _log_best_settings(tracked, study, best, config, folder)
        final, untuned = _log_best_adapter(tracked, best, config, bench, folder, with_model)
        view = replace(view, untuned=untuned[study.settings.metric])
        shares = _log_pictures(tracked, view, study.settings.seed)
        values = values_of(best, space)
        varied = {dimension.name: values[dimension.name] for dimension in space.dimensions if dimension.name in values}
        tracked.describe(_description(view, best, final, varied, shares))
        tracked.set_tags(
            {
                OUTCOME_TAG: "finished",
                "best.trial": best.number,
                "best.run": _run_of(best, tracked),
                **{f"best.{name}": value for name, value in values.items()},
            }
        )


def values_of(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """All settings that a trial changed."""
    return {**(facts_of(trial)["settings"] or {}), **space.constants, **trial.params}


def _log_trials(run: TrackedRun, study: SharedStudy, space: Space) -> None:
    trials, counted = study.all_trials(), {trial.number for trial in study.trials()}
    facts = [facts_of(trial) for trial in trials]
    columns: dict[str, list[Any]] = {
        "trial": [trial.number for trial in trials],
        "state": [trial.state.name.lower() for trial in trials],
        "value": [trial.value for trial in trials],
        "label": [fact["label"] for fact in facts],
    }
    for dimension in space.dimensions:
        columns[dimension.name] = [values_of(trial, space).get(dimension.name) for trial in trials]
    columns |= {
        "copied_share": [fact["copied_share"] for fact in facts],
        "epochs": [trial.last_step for trial in trials],
        "seconds": [trial.duration.total_seconds() if trial.duration else None for trial in trials],
        "done_again": [trial.number not in counted for trial in trials],
        "reason": [fact["reason"] for fact in facts],
        "worker": [fact["worker"] for fact in facts],
        "run_id": [fact["run"] for fact in facts],
    }
    run.log_csv(columns, "search/trials.csv")


def _log_pictures(run: TrackedRun, view: StudyView, seed: int) -> Mapping[str, float]:
    """The pictures that there is something to draw for; gives each setting's share in the differences."""
    shares = importances(view, seed)
    for name, figure in draw_study(view, shares).items():
        run.log_figure(figure, f"search/{name}.png")
    page = interactive_page(view, shares, seed)
    if page is not None:
        run.log_text(page, "search/study.html")
    return shares


def _log_best_settings(
    run: TrackedRun, study: SharedStudy, best: FrozenTrial, config: ExperimentConfig, folder: Path
) -> None:
    tree = config.model_dump(mode="json", include=set(TRAINING_SECTIONS))
    head = (
        f"# Best trial of study {study.name}: number {best.number}, {study.settings.metric} {best.value:.4f}.\n"
        "# Train with it: mlflow run . -P config=best.yaml\n"
    )
    write_text(folder / "best.yaml", head + yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))
    write_text(folder / "config_resolved.yaml", config.to_yaml())
    run.log_file(folder / "best.yaml", "search")
    run.log_file(folder / "config_resolved.yaml", "config")


def _log_best_adapter(
    run: TrackedRun, best: FrozenTrial, config: ExperimentConfig, bench: Bench, folder: Path, with_model: bool
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """The best trial's adapter as the study's own, evaluated as it is served; gives its metrics and the base's."""
    import mlflow.artifacts

    run_id = _run_of(best, run)
    adapter = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="adapter", dst_path=str(folder)))
    served = open_folder(adapter)
    with hushed(), bench.set_up(config) as setup:
        score = fitting.reading_score(setup.data, config.evaluation.copied_words)
        final = fitting.evaluate(replace(setup, model=served.model), score, "Melhor adaptador")
        baselines, _ = bench.measure_baselines(setup, score)
    training_record.log_baselines(run, baselines)
    run.log_readings(training_record.sample_columns(bench.data, final.answers), "samples/final.csv", folder=folder)
    write_text(folder / "split.csv", training_record.split_table(bench.data))
    run.log_file(folder / "split.csv", "data")
    run.log_file(adapter, "adapter")
    metrics = {metric_names.final(name): value for name, value in final.metrics.items()}
    run.log_metrics(metrics)
    validation = training_record.log_data(run, bench.data)
    untuned = baselines["Base sem ajuste"]
    if not with_model:
        return final.metrics, untuned
    model = model_entry(
        bench.base.location,
        config.serving,
        description=f"Melhor tentativa da busca ({best.number}).",
        embed_base=config.registry.embed_base,
        step=NO_SERIES_STEP,
    )
    run.log_model(model, adapter, metrics, validation)
    return final.metrics, untuned


def _run_of(trial: FrozenTrial, study_run: TrackedRun) -> str:
    """The run of a trial. MLflow may have been away as long as the trial went on, which then knew its journal's id."""
    from mlflow import MlflowClient

    told = facts_of(trial)["run"]
    found = MlflowClient().search_runs([study_run.experiment_id], f"tags.`{JOURNAL_TAG}` = '{told}'", max_results=1)
    return found[0].info.run_id if found else told


def _description(
    view: StudyView,
    best: FrozenTrial,
    final: Mapping[str, float],
    settings: Mapping[str, Any],
    shares: Mapping[str, float],
) -> str:
    """The study's description, in the lines that MLflow shows unfolded: result, settings, what weighed, where to go."""
    order = sorted(settings, key=lambda name: -shares.get(name, 0))
    lines = [
        f"**{view.metric} {_value(best.value)}**, a melhor de {len(view.trials)} tentativas (a {best.number}, "
        f"{facts_of(best)['label'] or 'do amostrador'}); modelo sem ajuste: {_value(view.untuned)}; leituras com "
        f"trecho copiado: {decimal(100 * final['copied_share'], 1)} %.",
        "*Configurações:* "
        + textwrap.shorten("; ".join(f"{name}={_cell(settings[name])}" for name in order), LINE, placeholder=" …"),
        f"*Pesaram:* {', '.join(f'{name} {100 * share:.0f} %' for name, share in list(shares.items())[:SHOWN_SHARES])} "
        f"(fANOVA, {standing(len(view.judged), view.common_epoch)})."
        if shares
        else None,
        "*Treinar com elas:* `-P config=best.yaml` (de `search/`); todas as tentativas em `search/trials.csv`.",
    ]
    return "  \n".join(filter(None, lines))


def _ranking(study: SharedStudy) -> list[FrozenTrial]:
    """Complete trials, the best first; then the others that have a value."""
    sign = 1 if study.minimizes else -1
    valued = [trial for trial in study.trials() if trial.value is not None]
    return sorted(valued, key=lambda trial: (trial.state.name != "COMPLETE", sign * trial.value, trial.number))


def _account(trial: FrozenTrial, metric: str) -> str:
    facts = facts_of(trial)
    who = f"Tentativa {trial.number}" + (f" ({facts['label']})" if facts["label"] else "")
    if trial.state.name == "FAIL":
        return f"{who}: falhou" + (f" ({facts['reason']})" if facts["reason"] else "")
    copied = facts["copied_share"]
    return (
        f"{who}: {STATES[trial.state.name]}"
        + (f" na época {trial.last_step}" if trial.state.name == "PRUNED" else "")
        + f", {_title(metric)} {_value(trial.value)}"
        + (f", {decimal(100 * copied, 0)} % com trecho copiado" if copied else "")
    )


def _title(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric)


def _value(value: float | None) -> str:
    return "n/d" if value is None else decimal(value, 4)


def _cell(value: Any) -> str:
    """A setting as it can be typed, in few figures."""
    return f"{value:.3g}" if isinstance(value, float) else param_text(value)
