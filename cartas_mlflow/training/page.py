"""The verdict on a training, and its report as a page to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cartas_mlflow.console import decimal, duration, pointed, say
from cartas_mlflow.evaluation.confidence import BITS, Answers
from cartas_mlflow.evaluation.verdict import Verdict, judge
from cartas_mlflow.files import write_text
from cartas_mlflow.settings import setting_names
from cartas_mlflow.tracking.html_report import MetricRow, PageFacts, render_page
from cartas_mlflow.tracking.metric_names import final
from cartas_mlflow.tracking.parameters import in_effect
from cartas_mlflow.tracking.plots import plot_losses, plot_metrics
from cartas_mlflow.tracking.report import METRIC_TITLES, ReportFacts, metric_text, summarise_result
from cartas_mlflow.tracking.run import TrackedRun, param_text
from cartas_mlflow.training.fitting import look_up_texts
from cartas_mlflow.training.preparation import Setup
from cartas_mlflow.training.record import run_name, sample_columns
from cartas_mlflow.training.session import Session

UNTUNED, LOOKUP = "o modelo sem ajuste", "a consulta"
SAID_METRICS = (BITS, "rougeL", "chrf")
"""How the real readings surprise the model, and how near its own come. chrF forgives excess (it weighs recall twice),
and an untuned base writes too much."""


def log_page(
    run: TrackedRun,
    session: Session,
    setup: Setup,
    facts: ReportFacts,
    answers: Answers,
    untuned: Answers,
) -> None:
    """Say the verdict, and write ``relatorio.html``, in the training's folder and on the run.

    Args:
        answers: the best epoch's adapter's, in the order of the validation records.
        untuned: the same of the untuned base.
    """
    verdict = judge_answers(setup, answers, untuned)
    for metric in SAID_METRICS:
        for sentence in verdicts(verdict, metric):
            say(f"⚖️ {METRIC_TITLES[metric]} {pointed(sentence)}")
    page = session.folder / "relatorio.html"
    shown = describe_training(session, setup, facts, verdict, answers)
    write_text(page, render_page(shown))
    if run.logs_texts:
        run.log_file(page, "report")
    else:
        run.log_text(render_page(replace(shown, samples={})), "report/relatorio.html")
    run.log_metrics({final(BITS, over="base"): verdict.against[UNTUNED][BITS].difference.value})
    config = setup.config
    run.name(run_name(config, facts.final_metrics["loss"]), instead_of=run_name(config))
    run.describe(summarise_result(facts, verdict.sentence(UNTUNED, BITS)))
    say(f"📄 Relatório para ler e mandar: {page}")


def headline(verdict: Verdict) -> str:
    """The verdict in a sentence without its full stop."""
    return "; ".join(f"{METRIC_TITLES[metric]} {' e '.join(verdicts(verdict, metric))}" for metric in SAID_METRICS)


def verdicts(verdict: Verdict, metric: str) -> list[str]:
    """The metric against each rival that has it, in words."""
    return [verdict.sentence(rival, metric) for rival in (UNTUNED, LOOKUP) if metric in verdict.against[rival]]


def judge_answers(setup: Setup, answers: Answers, untuned: Answers) -> Verdict:
    """Hold the model's answers against the untuned base's and the looked-up ones."""
    settings = setup.config.registry
    rivals = {UNTUNED: untuned, LOOKUP: Answers(look_up_texts(setup.data))}
    references = [record.texto for record in setup.data.measured]
    return judge(answers, rivals, references, resamples=settings.resamples, seed=settings.seed)


def describe_training(
    session: Session, setup: Setup, facts: ReportFacts, verdict: Verdict, answers: Answers
) -> PageFacts:
    """Everything that the page shows."""
    data, config = setup.data, setup.config
    baselines = list(facts.baselines.values())
    settings = in_effect({**config.flat(), "derived.quantization": facts.model["quantization"]})
    return PageFacts(
        title=f"Treinamento {run_name(config)}",
        subtitle=(
            f"{facts.timestamp}; {facts.dataset['total_samples']} leituras de {config.data.path} "
            f"({facts.dataset['train_samples']} de treino, {facts.dataset['val_samples']} de validação); melhor época: "
            f"{facts.best_epoch} de {facts.model['epochs_completed']}"
        ),
        headline=f"O modelo ajustado: {headline(verdict)}.",
        findings=facts.findings,
        rivals=list(facts.baselines),
        metrics=[_row(name, facts, verdict, baselines) for name in METRIC_TITLES if name in facts.final_metrics],
        figures={
            "Perda por época": plot_losses(facts.history, facts.best_epoch, facts.baselines),
            "Medidas por época": plot_metrics(facts.history, facts.baselines, facts.best_epoch),
        },
        samples=sample_columns(data, answers),
        command=f"python -m cartas_mlflow train --config {session.resolved}",
        details={
            "Máquina e tempo": {
                **facts.hardware,
                "treino com avaliações": duration(facts.training["train_runtime"]).replace(".", ","),
            },
            "Modelo": facts.model,
            "Configurações": {key: param_text(value) for key, value in settings.items() if key in setting_names()},
        },
    )


def _row(name: str, facts: ReportFacts, verdict: Verdict, baselines: Sequence[Mapping[str, float]]) -> MetricRow:
    interval = verdict.intervals.get(name)
    return MetricRow(
        title=METRIC_TITLES[name],
        value=metric_text(name, facts.final_metrics[name]),
        interval=None if interval is None else f"{decimal(interval.low, 3)} a {decimal(interval.high, 3)}",
        band=facts.quality.get(name),
        rivals=[metric_text(name, values[name]) if name in values else "n/d" for values in baselines],
        verdicts=verdicts(verdict, name) if interval is not None else [],
    )
