"""Which metric picks the epoch that is best on readings it has not seen?

    python benchmarks/epoch_choice.py [--splits 5] [--seeds 3] [--epochs 8] [setting=value ...]

The 70 validation readings of the bundled table stay out of it: each split draws a fold of a fifth from the training
part and halves it, card by card. After every epoch both halves are measured in everything; a metric picks the epoch
that is best in it on one half, and what that epoch is worth on the other half is what counts (both ways round). ``the
best`` would have known the other half, metric by metric; ``the last`` picks nothing. Prints a Markdown table of means
over splits x seeds x 2.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transformers import TrainerCallback

from cartas_mlflow.config import load_config, vary
from cartas_mlflow.console import hushed, open_console
from cartas_mlflow.data.records import Record
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.evaluation.metrics import score_texts
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.modeling.engine import FastEngine, evaluation_engine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import log_likelihoods, prompt_fit
from cartas_mlflow.search.trial import Bench
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.training import fitting, preparation
from cartas_mlflow.training.preparation import LoadedBase, PreparedData, SettledBase

AT_ONCE = 32
SHOWN = ("loss", "prompt_fit", "chrf", "rougeL")
METRICS = (*SHOWN, "fit_and_loss")
History = list[tuple[dict[str, float], dict[str, float]]]
"""The metrics of both halves, epoch after epoch."""


def main() -> None:
    options = _options()
    open_console()
    fixed = {"training.epochs": options.epochs, "early_stopping.patience": 0, "early_stopping.metric": "loss"}
    config = load_config(options.config, dict(pair.split("=", 1) for pair in options.settings) | fixed)
    runs: list[History] = []
    with hushed():
        settled = SettledBase(config, find_base(config.model))
        base = preparation.load_model(settled)
        whole = preparation.load_data(config)
        known = split_records(whole, config.data.validation_fraction, config.data.split_seed).train
    rows = replace(whole, rows=known, lines=tuple(range(2, len(known) + 2)))
    for split in range(1, options.splits + 1):
        fold = split_records(rows, 0.2, split)
        data = PreparedData(rows, fold, preparation.prompt_template(config.data), fold.validation[:4])
        bench = Bench(settled, data, base)
        for seed in range(1, options.seeds + 1):
            began = time.perf_counter()
            with hushed():
                runs.append(train(bench, vary(config, {"training.seed": seed}, f"seed {seed}")))
            print(f"split {split}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print_table(runs)


def train(bench: Bench, config: ExperimentConfig) -> History:
    """Both halves' metrics after each epoch."""
    watch = Watch(config, bench.base, bench.data)
    with bench.set_up(config) as setup, tempfile.TemporaryDirectory() as folder:
        result = fitting.fit(
            setup,
            fitting.reading_score(bench.data, config.evaluation.copied_words),
            run=None,
            folder=Path(folder),
            resume=None,
            callbacks=[watch],
        )
    if result.interrupted:
        sys.exit(1)
    return watch.epochs


@dataclass
class Watch(TrainerCallback):
    """Measures both halves of the fold whenever the trainer evaluates."""

    config: ExperimentConfig
    base: LoadedBase
    data: PreparedData
    epochs: History = field(default_factory=list)

    def on_evaluate(self, args, state, control, model, **kwargs) -> None:
        by_card = sorted(self.data.split.validation, key=lambda record: record.carta)
        engine = evaluation_engine(model, self.base.tokenizer, self.config)
        first, second = (self._measure(model, engine, by_card[side::2]) for side in (0, 1))
        self.epochs.append((first, second))

    def _measure(self, model, engine: FastEngine | None, records: Sequence[Record]) -> dict[str, float]:
        tokenizer, limit = self.base.tokenizer, self.config.data.max_length
        prompts, rivals = self.data.prompts(tuple(records)), self.data.rivals(tuple(records))
        real = [record.texto for record in records]
        at_once = {"batch_size": AT_ONCE, "max_length": limit}
        texts = generate_texts(model, tokenizer, prompts, self.config.generation, engine=engine, **at_once)
        pieces = sum(len(ids) for ids in tokenizer(text_target=real, truncation=True, max_length=limit)["input_ids"])
        loss = -sum(log_likelihoods(model, tokenizer, list(zip(prompts, real, strict=True)), **at_once)) / pieces
        fit = prompt_fit(model, tokenizer, real, prompts, rivals, **at_once)
        return {**score_texts(texts, real), "loss": loss, "prompt_fit": fit, "fit_and_loss": fit - loss}


def print_table(runs: Sequence[History]) -> None:
    print(f"\n| picks the epoch | epoch | {' | '.join(SHOWN)} |\n| --- | ---: |{' ---: |' * len(SHOWN)}")
    halves = [([epoch[side] for epoch in run], [epoch[1 - side] for epoch in run]) for run in runs for side in (0, 1)]
    for metric in METRICS:
        picked = [(best(seen, metric), unseen) for seen, unseen in halves]
        print_row(metric, picked)
    print_row("the last", [(len(unseen) - 1, unseen) for _, unseen in halves])
    cells = [f"{statistics.mean(unseen[best(unseen, metric)][metric] for _, unseen in halves):.4f}" for metric in SHOWN]
    print(f"| the best | | {' | '.join(cells)} |")


def best(epochs: Sequence[dict[str, float]], metric: str) -> int:
    """The first epoch (from 0) that is best in the metric."""
    sign = -1 if metric == "loss" else 1
    return max(range(len(epochs)), key=lambda epoch: sign * epochs[epoch][metric])


def print_row(name: str, picked: Sequence[tuple[int, Sequence[dict[str, float]]]]) -> None:
    cells = [f"{statistics.mean(unseen[epoch][metric] for epoch, unseen in picked):.4f}" for metric in SHOWN]
    print(f"| {name} | {statistics.mean(epoch + 1 for epoch, _ in picked):.1f} | {' | '.join(cells)} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--config", default="configs/mini.yaml")
    parser.add_argument("settings", nargs="*", metavar="setting=value")
    return parser.parse_args()


if __name__ == "__main__":
    main()
