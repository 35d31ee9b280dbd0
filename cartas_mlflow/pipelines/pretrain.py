"""Make a base from scratch: corpus folder in; vocabulary, T5 weights and model card out, as one MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartas_mlflow.config import load_config
from cartas_mlflow.console import keep_log, say
from cartas_mlflow.errors import RunInterrupted
from cartas_mlflow.pretraining import phases, record
from cartas_mlflow.pretraining.session import begin_pretraining
from cartas_mlflow.tracking.opening import open_run

CONFIG = "configs/pretrain.yaml"


def pretrain(config_path: str = CONFIG, overrides: Mapping[str, Any] | None = None) -> Path:
    """Pre-train, or go on with the pre-training in ``pretrain.output``; gives the folder of the base.

    A run that was cut off sees the batches that it would have seen, and ends with the weights that it would have had.

    Raises:
        UserError: anything that the user can mend; the MLflow run, where one was opened, ends FAILED.
        RunInterrupted: Ctrl+C or SIGTERM; a checkpoint was saved and the run ends KILLED.
    """
    say("=== INICIANDO PRÉ-TREINO DE UM MODELO BASE ===")
    say("1. Carregando configurações...")
    config = load_config(config_path, overrides)
    session = begin_pretraining(config)
    sources = phases.read_origins(config, session)
    phases.prepare_machine(config)
    with (
        keep_log(session.log_file),
        open_run(
            config.tracking, folder=session.folder, resume_run_id=session.run_id, log_file=session.log_file
        ) as run,
    ):
        say("2. Preparando o vocabulário...")
        domain = phases.load_domain(session)
        tokenizer = phases.prepare_tokenizer(config, session, domain)

        say("3. Lendo o corpus...")
        corpus = phases.read_corpus(config, session, tokenizer, domain)

        say("4. Criando o modelo...")
        training = phases.prepare_model(config, session)
        record.log_start(run, session, config, training, corpus)

        say("5. INICIANDO PRÉ-TREINO...")
        watch = record.Watch(run, session, config.pretrain, training, corpus, tokenizer)
        if phases.learn(config, training, corpus, tokenizer, watch):
            say(f"✅ Checkpoint salvo em: {session.checkpoint}")
            say(record.how_to_go_on(session))
            raise RunInterrupted(record.how_to_go_on(session))

        say("6. Avaliando e gravando o base...")
        metrics = phases.measure_ending(config, training, watch)
        record.save_base(run, session, config.pretrain, training, domain, sources, metrics)
        record.log_ending(run, session, training, metrics, phases.is_complete(config, training))
        say(f"🔎 Execução {run.id} no experimento {run.experiment}; veja em: {run.page}")
    return session.base
