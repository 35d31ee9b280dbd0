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

from cartas_mlflow.config import load_config
from cartas_mlflow.console import hushed, open_console
from cartas_mlflow.data.records import Record
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.evaluation.metrics import score_texts
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.modeling.engine import evaluation_engine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import log_likelihoods, prompt_fit
from cartas_mlflow.modeling.lora import detach_adapter
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.training import fitting, preparation
from cartas_mlflow.training.preparation import LoadedBase, PreparedData, SettledBase, Setup

AT_ONCE = 32
METRICS = ("loss", "prompt_fit", "chrf", "rougeL", "fit_and_loss")
SHOWN = ("loss", "prompt_fit", "chrf", "rougeL")


def main() -> None:
    options = _options()
    open_console()
    fixed = {"training.epochs": options.epochs, "early_stopping.patience": 0, "early_stopping.metric": "loss"}
    config = load_config(options.config, dict(pair.split("=", 1) for pair in options.settings) | fixed)
    with hushed():
        settled = SettledBase(config, find_base(config.model))
        base = preparation.load_model(settled)
        whole = preparation.load_data(config)
        known = split_records(whole, config.data.validation_fraction, config.data.split_seed).train
    runs: list[list[tuple[dict[str, float], dict[str, float]]]] = []
    for split in range(1, options.splits + 1):
        rows = replace(whole, rows=known, lines=tuple(range(2, len(known) + 2)))
        fold = split_records(rows, 0.2, split)
        for seed in range(1, options.seeds + 1):
            began = time.perf_counter()
            training = config.training.model_copy(update={"seed": seed})
            with hushed():
                seeded = config.model_copy(update={"training": training})
                data = PreparedData(rows, fold, preparation.prompt_template(config.data), fold.validation[:4])
                runs.append(train(replace(settled, config=seeded), base, data))
            print(f"split {split}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print_table(runs)


def train(
    settled: SettledBase, base: LoadedBase, data: PreparedData
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Both halves' metrics after each epoch."""
    config = settled.config
    model, count = preparation.attach_lora(config, base)
    try:
        encoded = preparation.encode_data(config, base, data)
        watch = Watch(config, base, data)
        with tempfile.TemporaryDirectory() as folder:
            result = fitting.fit(
                Setup(settled, data, base, model, count, encoded),
                fitting.reading_score(data, config.evaluation.copied_words),
                run=None,
                folder=Path(folder),
                resume=None,
                callbacks=[watch],
            )
        if result.interrupted:
            sys.exit(1)
        return watch.epochs
    finally:
        detach_adapter(model)


@dataclass
class Watch(TrainerCallback):
    """Measures both halves of the fold whenever the trainer evaluates."""

    config: ExperimentConfig
    base: LoadedBase
    data: PreparedData
    epochs: list[tuple[dict[str, float], dict[str, float]]] = field(default_factory=list)

    def on_evaluate(self, args, state, control, model, **kwargs) -> None:
        by_card = sorted(self.data.split.validation, key=lambda record: record.carta)
        self.epochs.append((self._measure(model, by_card[::2]), self._measure(model, by_card[1::2])))

    def _measure(self, model, records: Sequence[Record]) -> dict[str, float]:
        tokenizer, limit = self.base.tokenizer, self.config.data.max_length
        prompts, rivals = self.data.prompts(tuple(records)), self.data.rivals(tuple(records))
        real = [record.texto for record in records]
        at_once = {"batch_size": AT_ONCE, "max_length": limit}
        engine = evaluation_engine(model, tokenizer, self.config)
        texts = generate_texts(model, tokenizer, prompts, self.config.generation, engine=engine, **at_once)
        pieces = sum(len(ids) for ids in tokenizer(text_target=real, truncation=True, max_length=limit)["input_ids"])
        loss = -sum(log_likelihoods(model, tokenizer, list(zip(prompts, real, strict=True)), **at_once)) / pieces
        fit = prompt_fit(model, tokenizer, real, prompts, rivals, **at_once)
        return {**score_texts(texts, real), "loss": loss, "prompt_fit": fit, "fit_and_loss": fit - loss}


def print_table(runs: Sequence[Sequence[tuple[dict[str, float], dict[str, float]]]]) -> None:
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
