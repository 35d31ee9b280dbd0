"""The main job: fine-tune the base on the readings, phase by phase, as one MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.config import DEFAULT_CONFIG
from cartas_mlflow.console import keep_log, say
from cartas_mlflow.errors import RunInterrupted
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.engine import check_engine
from cartas_mlflow.modeling.lora import save_adapter
from cartas_mlflow.modeling.memory import release_memory
from cartas_mlflow.registry.contest import promote_model
from cartas_mlflow.registry.logged import log_entry
from cartas_mlflow.tracking.callback import KeepCheckpoint
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.kept_checkpoint import drop_checkpoint, keep_checkpoint
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.store import told_keeps_models
from cartas_mlflow.training import fitting, page, preparation, record
from cartas_mlflow.training.disk import tell_disk
from cartas_mlflow.training.next_steps import say_next_steps
from cartas_mlflow.training.resumption import going_on_told, say_abandoned, say_interrupted
from cartas_mlflow.training.review import check_command
from cartas_mlflow.training.session import begin
from cartas_mlflow.training.together import as_launched, follow, leading


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves. ``metrics``: of the best epoch's adapter, names without prefix."""

    run_id: str
    adapter: Path
    best_epoch: int
    metrics: Mapping[str, float]


@failures_told()
def train(config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None) -> TrainingResult | None:
    """Train one adapter; gives None in a process that only takes part in another's training.

    Raises:
        UserError: anything that the user can mend; the MLflow run, where one was opened, ends FAILED.
        RunInterrupted: Ctrl+C or SIGTERM; a checkpoint was saved and the run ends KILLED.
    """
    from mlflow import MlflowClient

    overrides = as_launched(overrides)
    if not processes.leads():
        return follow(config_path, overrides)
    say("=== INICIANDO FINE-TUNING PTT5 - SISTEMA DE CARTAS ===")
    say("1. Carregando configurações de treinamento...")
    session = begin(config_path, overrides)
    check_engine(session.config.serving.engine)
    with (
        keep_log(session.log_file, from_the_start=True),
        open_run(
            session.config.tracking,
            folder=session.folder,
            resume_run_id=session.run_id,
            log_file=session.log_file,
            log_model=log_entry,
        ) as run,
        going_on_told(session.folder),
    ):
        say_abandoned(session.config, session.folder)
        settled = preparation.settle_base(
            session.config, session.config_path, overrides, resumed=session.checkpoint is not None
        )
        config = settled.config
        with_model = config.tracking.offline or told_keeps_models()
        say(f"Configurações carregadas para o modelo: {config.model.name}")

        say("2. Carregando e processando dataset...")
        records = preparation.load_data(config, check=check_command(config.data))

        say("3. Dividindo os dados...")
        data = preparation.split_data(config, records)

        say("4. Carregando modelo base e configurando quantização...")
        base = preparation.load_model(settled)

        say("5. Configurando LoRA...")
        model, count = preparation.attach_lora(config, base)

        say("6. Tokenizando dados...")
        encoded = preparation.encode_data(config, base, data)
        setup = preparation.Setup(settled, data, base, model, count, encoded)
        tell_disk(setup, session.folder, with_model=with_model)
        validation = record.log_start(run, session, setup)

        say("7. Medindo as referências: modelo base sem ajuste, e consulta aos textos de treino...")
        score = fitting.reading_score(data, config.evaluation.copied_words)
        untuned = fitting.evaluate_untuned(setup, score)
        baselines = {"Base sem ajuste": untuned.metrics, "Consulta": fitting.score_lookup(data, score)}
        record.log_baselines(run, baselines)
        record.log_samples(run, data, untuned.answers, "base")

        say("8. INICIANDO TREINAMENTO...")
        with leading(setup, session):
            result = fitting.fit(
                setup,
                score,
                run=run,
                folder=session.checkpoints,
                resume=session.checkpoint,
                on_answers=lambda epoch, answers: record.log_samples(run, data, answers, f"epoch-{epoch:03d}"),
                callbacks=[KeepCheckpoint(run, config.tracking.checkpoint_minutes)],
            )
        if result.interrupted:
            if result.checkpoint is not None and config.tracking.checkpoint_minutes > 0:
                keep_checkpoint(run, result.checkpoint)
            raise RunInterrupted(say_interrupted(result.checkpoint))

        say("9. Avaliando o melhor adaptador...")
        say("⏳ Salvando adaptadores LoRA e tokenizer...")
        save_adapter(model, base.tokenizer, session.adapter, base.location)
        record.save_served(session, setup)
        setup = setup.without_weights()
        del base, model
        release_memory()
        final = fitting.evaluate_served(setup, session.adapter, score)
        record.log_samples(run, data, final.answers, "final")

        say("10. Salvando modelo treinado...")
        facts = record.log_result(run, session, setup, result, final, baselines, validation, with_model=with_model)
        page.log_page(run, session, setup, facts, final.answers, untuned.answers)
        drop_checkpoint(run)
        say(f"🔎 Execução {run.id} no experimento {run.experiment}")

    with keep_log(session.log_file):
        if config.registry.register_model and with_model and not config.tracking.offline:
            say("11. Registrando o modelo e comparando com o campeão...")
            promote_model(MlflowClient(), run.id, config.registry)
        if not config.tracking.offline:
            say_next_steps(run, config, data)
    return TrainingResult(run.id, session.adapter, result.best_epoch, final.metrics)
