"""One trial of a search: a training on the base that its worker has in memory, as a run under the study's."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.config import vary
from cartas_mlflow.console import decimal, hushed, keep_log, say
from cartas_mlflow.data.encoding import EncodedTexts
from cartas_mlflow.data.prompts import prompt_template
from cartas_mlflow.errors import RunInterrupted, TrainingError, Undelivered
from cartas_mlflow.evaluation.confidence import Answers
from cartas_mlflow.modeling.hardware import is_lack_of_memory
from cartas_mlflow.modeling.lora import detach_adapter, save_adapter
from cartas_mlflow.modeling.validation import Evaluation
from cartas_mlflow.search.pruning import Pruning
from cartas_mlflow.search.study import Claimed
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.leftovers import is_delivered, run_folders, send, told_run
from cartas_mlflow.tracking.metric_names import EVALUATED, TRIAL_VALUE
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.run import OUTCOME_TAG, STATE_TAG, TrackedRun
from cartas_mlflow.training import fitting, preparation
from cartas_mlflow.training import record as training_record
from cartas_mlflow.training.preparation import EncodedSplit, LoadedBase, PreparedData, SettledBase, Setup
from cartas_mlflow.training.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

OVERHEAD_TAG = "trial.overhead_seconds"
Baselines = Mapping[str, Mapping[str, float]]


@dataclass
class Bench:
    """What a worker loads once for all its trials: data, base, tokenizer; texts and baselines as they come up."""

    settled: SettledBase
    data: PreparedData
    base: LoadedBase
    encoded: dict[tuple[str, int], tuple[EncodedTexts, EncodedTexts]] = field(default_factory=dict)
    baselines: dict[str, tuple[Baselines, Answers]] = field(default_factory=dict)
    last_end: float = field(default_factory=time.perf_counter)
    """When the last trial ended (seconds of the process's clock)."""

    @contextmanager
    def set_up(self, config: ExperimentConfig) -> Iterator[Setup]:
        """A fresh adapter on the base; the base is bare again afterwards."""
        data = replace(self.data, template=prompt_template(config.data))
        train, validation = self._tokenize(config, data)
        plan = preparation.cut_batches(config, self.base, train.longest)
        model, count = preparation.attach_lora(config, self.base)
        try:
            encoded = EncodedSplit(train, validation, plan)
            yield Setup(replace(self.settled, config=config), data, self.base, model, count, encoded)
        finally:
            detach_adapter(model)

    def _tokenize(self, config: ExperimentConfig, data: PreparedData) -> tuple[EncodedTexts, EncodedTexts]:
        """Both sides; a limit that cuts no text gives the same as another that cuts none."""
        limit = config.data.max_length
        for (template, _), sides in self.encoded.items():
            whole = all(side.truncated == 0 and max(side.longest) <= limit for side in sides)
            if template == data.template and whole:
                return sides
        key = data.template, limit
        if key not in self.encoded:
            self.encoded[key] = preparation.tokenize_data(config, self.base.tokenizer, data)
        return self.encoded[key]

    def measure_baselines(self, setup: Setup, score: fitting.Score) -> tuple[Baselines, Answers]:
        """What a trial has to beat, and the untuned base's answers; measured once per way of asking and answering."""
        texts = setup.encoded.validation
        limit = setup.config.data.max_length if texts.truncated else None
        key = json.dumps([setup.data.template, limit, setup.config.generation.model_dump()])
        if key not in self.baselines:
            untuned = fitting.evaluate(setup, score, "Base sem ajuste")  # a fresh adapter changes nothing yet
            values = {"Base sem ajuste": untuned.metrics, "Consulta": fitting.score_lookup(setup.data, score)}
            self.baselines[key] = values, untuned.answers
        return self.baselines[key]


def try_settings(bench: Bench, claimed: Claimed, folder: Path, study_run_id: str) -> float:
    """Train with the trial's settings; the best epoch's value of ``search.metric``.

    Everything that a training logs goes to a run of its own; its folder is emptied afterwards.

    Raises:
        TrialPruned: the study cut it.
        RunInterrupted: Ctrl+C or SIGTERM; the run ends KILLED.
        UserError: settings that do not go together, a loss that is no number, too little memory.
    """
    from optuna import TrialPruned

    base_config = bench.settled.config
    name = f"tentativa {claimed.number:03d}" + (f" · {claimed.label}" if claimed.label else "")
    session = Session(folder / f"tentativa-{claimed.number:03d}", base_config, "")
    session.folder.mkdir(parents=True, exist_ok=True)
    tracking = base_config.tracking.model_copy(update={"run_name": name})
    tags = {"trial.number": str(claimed.number), "trial.label": claimed.label or "amostrador", STATE_TAG: "running"}
    metric = base_config.search.metric
    try:
        with (
            _undelivered_told(claimed.number),
            hushed(),
            keep_log(session.log_file),
            open_run(tracking, folder=session.folder, parent_run_id=study_run_id, log_file=session.log_file) as run,
        ):
            claimed.remember_run(run.id)
            run.set_tags(tags)
            with _state_told(run), bench.set_up(vary(base_config, claimed.values, name)) as setup:
                pruning = Pruning(claimed.trial, metric, spared=claimed.label is not None)
                evaluation = _train(bench, run, session, setup, pruning)
                value = evaluation.metrics[metric]
                claimed.remember(copied_share=evaluation.metrics["copied_share"])
                run.log_metrics({TRIAL_VALUE: value})
        claimed.remember_run(told_run(session.folder) or run.id)
        if pruning.pruned:
            raise TrialPruned
        return value
    finally:
        # What MLflow has not got stays for sync.
        shutil.rmtree(session.checkpoints if not is_delivered(session.folder) else session.folder, ignore_errors=True)
        bench.last_end = time.perf_counter()


def _train(bench: Bench, run: TrackedRun, session: Session, setup: Setup, pruning: Pruning) -> Evaluation:
    """Fit, and log what a training logs; the evaluation of the epoch that counts (the last one, if it was cut)."""
    validation = training_record.log_start(run, session, setup)
    score = fitting.reading_score(setup.data, setup.config.evaluation.copied_words)
    baselines, untuned = bench.measure_baselines(setup, score)
    training_record.log_baselines(run, baselines)
    training_record.log_samples(run, setup.data, untuned, "base")
    answered: dict[int, Answers] = {}

    def on_answers(epoch: int, answers: Answers) -> None:
        answered[epoch] = answers
        training_record.log_samples(run, setup.data, answers, f"epoch-{epoch:03d}")

    result = fitting.fit(
        setup,
        score,
        run=run,
        folder=session.checkpoints,
        resume=None,
        on_answers=on_answers,
        callbacks=[pruning, _FirstStep(run, bench.last_end)],
    )
    if result.interrupted:
        raise RunInterrupted("A tentativa volta para a fila do estudo.")
    epoch = round(result.history[-1]["epoch"]) if pruning.pruned else result.best_epoch
    row = next(row for row in result.history if row["epoch"] == epoch)
    metrics = {key.removeprefix(EVALUATED): value for key, value in row.items() if key.startswith(EVALUATED)}
    final = Evaluation(metrics, answered[epoch], 0.0)
    if pruning.pruned:
        training_record.log_curves(run, result, baselines)
        run.describe(
            f"**Cortada** na época {epoch} de {setup.config.training.epochs}: {pruning.metric} "
            f"{decimal(metrics[pruning.metric], 4)}, menos do que outras tentativas tinham ali."
        )
        run.set_tags({OUTCOME_TAG: "pruned", STATE_TAG: "pruned"})
        return final
    training_record.log_samples(run, setup.data, final.answers, "final")
    save_adapter(setup.model, setup.base.tokenizer, session.adapter, setup.base.location)
    training_record.save_served(session, setup)
    # The model that carries the base is logged once, for the best trial, on the study's run.
    training_record.log_result(run, session, setup, result, final, baselines, validation, with_model=False)
    run.set_tags({STATE_TAG: "complete"})
    return final


def deliver_leftovers(folder: Path) -> None:
    """Deliver what trials of this process left undelivered, so that the best one can be fetched.

    Raises:
        TrackingError: MLflow is still away.
    """
    for left in run_folders(folder):
        if left != folder and not is_delivered(left):
            send(left, None)
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _undelivered_told(number: int) -> Iterator[None]:
    """A trial is no less done because MLflow has not got all that it said."""
    try:
        yield
    except Undelivered as left:
        say(f"📦 Tentativa {number}: {left}")


@contextmanager
def _state_told(run: TrackedRun) -> Iterator[None]:
    """A trial that fails says so in its state; too little memory is a sentence like any other reason."""
    try:
        yield
    except BaseException as error:
        run.set_tags({STATE_TAG: "failed"})
        if is_lack_of_memory(error):
            raise TrainingError(
                "A memória não bastou para estas configurações; use um lora.r ou um modelo base menor."
            ) from error
        raise


class _FirstStep(TrainerCallback):
    """Notes how long it took from the end of the last trial to the first step of this one."""

    def __init__(self, run: TrackedRun, since: float) -> None:
        self.run, self.since = run, since

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            self.run.set_tags({OVERHEAD_TAG: f"{time.perf_counter() - self.since:.3f}"})
