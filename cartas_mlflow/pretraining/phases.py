"""The phases of a pre-training: machine, vocabulary, corpus, model, learning."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

from cartas_mlflow.console import say
from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.hardware import inspect_hardware
from cartas_mlflow.modeling.interruption import Interruption
from cartas_mlflow.pretraining.base_card import Source, read_sources
from cartas_mlflow.pretraining.corpus import (
    HELD_OUT_DOMAIN_PER_MILLE,
    PretrainingCorpus,
    is_held_out,
    load_corpus,
    read_paragraphs,
)
from cartas_mlflow.pretraining.essays import read_essays
from cartas_mlflow.pretraining.machine import Machine, choose_machine, time_cpu_step
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.objective import Objective
from cartas_mlflow.pretraining.record import Watch, stop_when
from cartas_mlflow.pretraining.session import PretrainingSession
from cartas_mlflow.pretraining.start import mix_weights, take_vocabulary, take_weights
from cartas_mlflow.pretraining.training import Pretraining, WeightAverage, read_machine
from cartas_mlflow.pretraining.vocabulary import padded_vocabulary_size, train_vocabulary
from cartas_mlflow.pretraining.words import describe_words
from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPILERS = ("g++", "clang++", "c++")


def prepare_machine(config: ExperimentConfig) -> None:
    """Set the number of cores, and see that there is a compiler where one is asked for.

    Raises:
        SettingError: there is nothing to compile with.
    """
    import torch

    settings = config.pretrain
    if isinstance(settings.threads, int):
        torch.set_num_threads(settings.threads)
    if settings.compile and not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise SettingError(
            "pretrain.compile=true precisa de um compilador de C++, e este computador não tem; instale o g++ ou use "
            "pretrain.compile=false."
        )


def read_origins(config: ExperimentConfig, session: PretrainingSession) -> tuple[Source, ...]:
    """Where the texts come from, for the card; and say which weights are for texts that are not there.

    Raises:
        DataError: ``sources.json`` of the corpus is not as it should be.
    """
    unknown = sorted(config.pretrain.source_weights.keys() - {path.stem for path in session.texts})
    if unknown:
        say(f"Pesos sem arquivo no corpus, sem efeito: {', '.join(unknown)}")
    return read_sources(session.texts[0].parent)


def load_domain(session: PretrainingSession) -> list[str]:
    """The essays' paragraphs, as prose."""
    domain = read_essays(session.essays)
    say(f"Ensaios: {len(session.essays)} arquivos, {len(domain)} parágrafos")
    return domain


def prepare_tokenizer(
    config: ExperimentConfig, session: PretrainingSession, domain: list[str]
) -> PreTrainedTokenizerBase:
    """Train the vocabulary; or load that of the pre-training that goes on.

    It is trained on the corpus without what is held out, and on the domain's texts four times over, so that the
    domain's words get pieces of their own.
    """
    from transformers import AutoTokenizer

    if session.run_id is None and config.pretrain.start is not None:
        take_vocabulary(config.pretrain.start, session.tokenizer)
    elif session.run_id is None:
        paragraphs = [text for text, _ in read_paragraphs(session.texts, {}) if not is_held_out(text)]
        ours = [text for text in domain if not is_held_out(text, HELD_OUT_DOMAIN_PER_MILLE)]
        train_vocabulary([*paragraphs, *ours * 4], session.tokenizer, config.pretrain.vocabulary)
    say(f"Vocabulário: {config.pretrain.vocabulary} peças, em {session.tokenizer}")
    return AutoTokenizer.from_pretrained(session.tokenizer)


def read_corpus(
    config: ExperimentConfig,
    session: PretrainingSession,
    tokenizer: PreTrainedTokenizerBase,
    domain: list[str],
) -> PretrainingCorpus:
    """Cut the texts into documents, and tell their figures."""
    settings = config.pretrain
    corpus = load_corpus(session.texts, tokenizer, settings.document_tokens, settings.source_weights, domain)
    tokens = sum(map(len, corpus.general))
    say(
        f"Corpus: {len(corpus.general)} trechos, {tokens / 1e6:.2f} milhões de tokens; validação: "
        f"{len(corpus.general_held_out)} trechos"
    )
    if domain:
        say(f"Ensaios: {len(corpus.domain)} trechos; validação: {len(corpus.domain_held_out)}")
    return corpus


def prepare_model(config: ExperimentConfig, session: PretrainingSession) -> Pretraining:
    """A new T5; or the one of the checkpoint, with everything that goes on with it."""
    settings = config.pretrain
    rows = padded_vocabulary_size(settings.vocabulary)
    machine = _find_machine(config, session, rows)
    training = Pretraining(build_model(settings.shape, rows, settings.seed), settings, machine, settings.compile)
    say(f"T5 de {sum(weights.numel() for weights in training.model.parameters()) / 1e6:.1f} milhões de pesos")
    if session.run_id is None and settings.start is not None:
        take_weights(training.model, settings.start, settings.start_keeps)
        training.average = WeightAverage(training.model)
        kept = {"all": "todos os pesos", "language": "embeddings e decodificador"}[settings.start_keeps]
        say(f"De {settings.start}: o vocabulário e {kept}")
    if session.run_id is not None:
        training.load(session.checkpoint)
        say(f"Continuando do passo {training.progress.step} ({training.progress.tokens} tokens)")
    return training


def _find_machine(config: ExperimentConfig, session: PretrainingSession, vocabulary_rows: int) -> Machine:
    settings = config.pretrain
    machine = choose_machine(
        settings,
        inspect_hardware(settings.device if settings.device == "cpu" else "auto"),
        # A format that a checkpoint has settled is not timed again
        partial(time_cpu_step, settings, vocabulary_rows) if session.run_id is None else lambda precision: 0.0,
    )
    if session.run_id is not None:
        machine = read_machine(session.checkpoint, machine.device)
    where = "GPU" if machine.device == "cuda" else "CPU"
    say(f"{where}, {machine.precision}, {machine.rows} linhas por passo")
    return machine


def learn(
    config: ExperimentConfig,
    training: Pretraining,
    corpus: PretrainingCorpus,
    tokenizer: PreTrainedTokenizerBase,
    watch: Watch,
) -> bool:
    """Train until the last token, the end of the time, or an interruption; whether it was the latter.

    The checkpoint is saved in any case.
    """
    if is_complete(config, training):
        say("O pré-treino já está completo; o base é gravado de novo. Para ir além, aumente pretrain.total_tokens.")
        return False
    settings = config.pretrain
    if training.progress.step == 0:
        watch.measure()
    objective = Objective(
        settings.prefix_share,
        settings.span_share,
        settings.reword_share,
        tokenizer.convert_tokens_to_ids("<extra_id_0>"),
        describe_words(tokenizer, padded_vocabulary_size(settings.vocabulary)),
    )
    if settings.compile:
        say("Compilando o passo (um minuto ou mais, sem notícias)...")
    interruption = Interruption()
    with interruption.listen():
        training.run(corpus, objective, stop_when(watch, lambda: interruption.requested))
        watch.save()
    return interruption.requested and not is_complete(config, training)


def measure_ending(config: ExperimentConfig, training: Pretraining, watch: Watch) -> dict[str, float]:
    """The held-out losses of what will be written: the averaged weights, or their mean with those of the start.

    Raises:
        SettingError: the base of the start is gone.
    """
    metrics, settings = watch.measure(), config.pretrain
    if settings.start is None or not settings.start_weight:
        return metrics
    mix_weights(training.average.weights, settings.start, settings.start_weight)
    say(f"Média com os pesos de {settings.start} ({100 * settings.start_weight:.0f} % deles):")
    return watch.measure(mixed=True)


def is_complete(config: ExperimentConfig, training: Pretraining) -> bool:
    """Whether all tokens have been seen."""
    return training.progress.tokens >= config.pretrain.total_tokens
