"""What a pre-training writes down while it goes on and at its end: curves, console lines, checkpoints, the base."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cartas_mlflow import __version__
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.console import decimal, duration, pointed, say
from cartas_mlflow.modeling.hardware import inspect_hardware
from cartas_mlflow.pretrain_settings import PretrainSettings
from cartas_mlflow.pretraining.base_card import CardFacts, Source, write_base_card
from cartas_mlflow.pretraining.base_folder import write_base_folder
from cartas_mlflow.pretraining.corpus import PretrainingCorpus
from cartas_mlflow.pretraining.session import PretrainingSession
from cartas_mlflow.pretraining.training import Pretraining, evaluate_continuation, schedule_factor
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.metric_names import STEP_SERIES, held_out
from cartas_mlflow.tracking.run import OUTCOME_TAG, TrackedRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_TITLES = {"eval": "validação", "domain_eval": "ensaios"}
"""Prefix of the metrics -> what they are measured on, as the console says it."""


class Watch:
    """Watches a training, step by step."""

    def __init__(
        self,
        run: TrackedRun,
        session: PretrainingSession,
        settings: PretrainSettings,
        training: Pretraining,
        corpus: PretrainingCorpus,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.run, self.session, self.settings, self.training = run, session, settings, training
        self.decode = tokenizer.decode
        held_out = list(corpus.general_held_out)
        random.Random(0).shuffle(held_out)
        self.held_out = {
            "eval": held_out[: settings.held_out],
            "domain_eval": corpus.domain_held_out,
        }
        self.started = self.saved = time.monotonic()
        self.measured: tuple[int, dict[str, float]] = (-1, {})
        self.losses: list[float] = []
        self.mark = (training.progress.tokens, training.progress.seconds)

    @property
    def time_is_up(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    def after_step(self, loss: float) -> None:
        """Take note of a step."""
        step = self.training.progress.step
        self.losses.append(loss)
        if step % self.settings.log_steps == 0:
            self._log_point()
        if step % self.settings.eval_steps == 0:
            self.measure()
        if time.monotonic() - self.saved > self.settings.save_minutes * 60:
            self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        self.training.save(self.session.checkpoint)
        self.saved = time.monotonic()

    def measure(self, mixed: bool = False) -> dict[str, float]:
        """Log the held-out losses of the averaged weights, and give them.

        mixed: they have since been averaged with those of the start: a point one step further in the curve.
        """
        training, metrics = self.training, {}
        step, (measured_at, measured) = self.training.progress.step + mixed, self.measured
        if step == measured_at:
            return measured
        training.average.swap(training.model)
        for name, documents in self.held_out.items():
            if documents:
                values = evaluate_continuation(training.model, documents, self.decode, training.kernels)
                metrics |= {f"{name}_{key}": value for key, value in values.items()}
        training.average.swap(training.model)
        self.measured = step, metrics
        self.run.log_metrics({held_out(name): value for name, value in metrics.items()}, step=step)
        say("  " + "; ".join(f"{title}: {pointed(_bits(metrics, name))}" for name, title in _measured(metrics).items()))
        return metrics

    def _log_point(self) -> None:
        progress, settings = self.training.progress, self.settings
        tokens, seconds = self.mark
        self.mark = (progress.tokens, progress.seconds)
        pace = (progress.tokens - tokens) / max(1e-9, progress.seconds - seconds)
        loss = sum(self.losses) / len(self.losses)
        self.losses = []
        self.run.log_metrics(
            {
                STEP_SERIES["loss"]: loss,
                STEP_SERIES["learning_rate"]: settings.matrix_lr * schedule_factor(progress.tokens, settings),
                "train/tokens": progress.tokens,
                "train/tokens_per_second": pace,
                "train/minutes": progress.seconds / 60,
            },
            step=progress.step,
        )
        done = min(100, 100 * progress.tokens // settings.total_tokens)
        say(
            f"Passo {progress.step} ({done} %): perda {loss:.3f}; {progress.tokens / 1e6:.2f} milhões "
            f"de tokens, {pace:.0f} por segundo; restam cerca de "
            f"{duration(max(0, settings.total_tokens - progress.tokens) / pace)}"
        )


def log_start(
    run: TrackedRun,
    session: PretrainingSession,
    config: ExperimentConfig,
    training: Pretraining,
    corpus: PretrainingCorpus,
) -> None:
    """Parameters, tags and the resolved settings; and what a resumption needs."""
    session.remember(run, config)
    run.name(run_name(config, training))
    run.describe(f"**Em pré-treino:** {run_name(config, training)}.")
    run.set_tags({"cartas_mlflow.version": __version__})
    settings = {key: value for key, value in config.flat().items() if key.startswith("pretrain.")}
    run.log_params(settings | _derived_params(session, training, corpus))
    run.log_file(session.resolved, "config")


def run_name(config: ExperimentConfig, training: Pretraining) -> str:
    """``pré-treino · 10,7 M parâmetros · 15,4 M tokens``."""
    millions = [decimal(count / 1e6, 1) for count in (_parameters(training), config.pretrain.total_tokens)]
    return f"pré-treino · {millions[0]} M parâmetros · {millions[1]} M tokens"


def save_base(
    run: TrackedRun,
    session: PretrainingSession,
    settings: PretrainSettings,
    training: Pretraining,
    domain: list[str],
    sources: tuple[Source, ...],
    metrics: Mapping[str, float],
) -> None:
    """Write the averaged weights, the tokenizer and the card, and log them."""
    progress = training.progress
    titles = {"eval": "held-out loss", "domain_eval": "held-out paragraphs of the essays"}
    figures = {
        "parameters": f"{_parameters(training):,}",
        "tokens seen": f"{progress.tokens:,} in {progress.step:,} steps, {progress.seconds / 60:.0f} minutes",
        **{
            titles[name]: f"{metrics[f'{name}_nats_per_piece']:.3f} nats per piece,"
            f" {metrics[f'{name}_bits_per_character']:.3f} bits per character"
            for name in _measured(metrics)
        },
    }
    if settings.start_weight:
        figures["weights"] = f"{settings.start_weight:.0%} those of {settings.start}, from which it learnt on (a mean)"
    card = write_base_card(
        CardFacts(
            session.folder.name,
            figures,
            settings.vocabulary,
            settings.prefix_share,
            settings.span_share,
            settings.reword_share,
            sources,
            _describe_essays(session, domain),
        )
    )
    training.average.swap(training.model)
    write_base_folder(training.model, session.tokenizer, session.base, card)
    training.average.swap(training.model)
    run.log_file(session.base, "base")


def log_ending(
    run: TrackedRun, session: PretrainingSession, training: Pretraining, metrics: Mapping[str, float], complete: bool
) -> None:
    """Say and write down how it ended."""
    progress = training.progress
    lines = [f"{title}: {_bits(metrics, name)}" for name, title in _measured(metrics).items()]
    ending = "**Concluído:**" if complete else "**Parou pelo tempo (pretrain.minutes):**"
    seen = f"{decimal(progress.tokens / 1e6, 2)} milhões de tokens em {duration(progress.seconds).replace('.', ',')}"
    run.describe(f"{ending} {seen}.\n\n" + "".join(f"- {line}\n" for line in lines) + f"\nBase em `{session.base}`.")
    run.set_tags({OUTCOME_TAG: "finished"})
    say(f"✅ Base gravada em: {session.base} ({pointed(seen)})")
    for line in lines:
        say(f"📊 {line[0].upper()}{line[1:]}")
    if not complete:
        say(f"⏱️ O tempo (pretrain.minutes) acabou antes do fim. {how_to_go_on(session)}")
    say(f"Para usá-la: python -m cartas_mlflow train --config configs/mini.yaml --model.name {session.base}")


def how_to_go_on(session: PretrainingSession) -> str:
    """What the user does to continue from the checkpoint."""
    return f"Para continuar: repita o comando com a mesma pasta (pretrain.output={session.folder})."


def stop_when(watch: Watch, interrupted: Callable[[], bool]) -> Callable[[float], bool]:
    """What the training asks after each step: whether to stop."""

    def after_step(loss: float) -> bool:
        watch.after_step(loss)
        return interrupted() or watch.time_is_up

    return after_step


def _describe_essays(session: PretrainingSession, domain: list[str]) -> Source | None:
    if not domain:
        return None
    ours = session.essays[0].resolve().is_relative_to(PROJECT_ROOT / "data" / "arcanos")
    return Source(
        name="essays on the 22 Major Arcana" if ours else "essays",
        licence="CC BY 4.0, written for this project" if ours else "not stated",
        characters=sum(map(len, domain)),
    )


def _measured(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: title for name, title in HELD_OUT_TITLES.items() if f"{name}_bits_per_character" in metrics}


def _bits(metrics: Mapping[str, float], name: str) -> str:
    return (
        f"{decimal(metrics[f'{name}_bits_per_character'], 3)} bits por caractere"
        f" ({decimal(metrics[f'{name}_nats_per_piece'], 3)} nats por peça)"
    )


def _parameters(training: Pretraining) -> int:
    return sum(parameter.numel() for parameter in training.model.parameters())


def _derived_params(session: PretrainingSession, training: Pretraining, corpus: PretrainingCorpus) -> dict[str, Any]:
    return {
        "derived.parameters": _parameters(training),
        "derived.corpus_documents": len(corpus.general),
        "derived.corpus_tokens": sum(map(len, corpus.general)),
        "derived.held_out_documents": len(corpus.general_held_out),
        "derived.domain_documents": len(corpus.domain),
        **{f"derived.{name}_digest": digest for name, digest in session.digests.items()},
        **{f"derived.{name}": value for name, value in asdict(training.machine).items()},
        **{f"hardware.{name}": value for name, value in inspect_hardware(training.machine.device).flat().items()},
    }
