"""An epoch with its evaluation: this project against the stock Seq2SeqTrainer, and what tracking adds to each.

    python benchmarks/epoch.py [--rounds 3] [--epochs 2] [--ways ours/http stock/http]

Same base, LoRA, readings, batch, dynamic padding, decoding, metrics and checkpoints; the stock trainer evaluates in
batches of 64 and logs with its own MLflow callback. Each training is a process of its own that times ``train()`` alone;
the ways take turns, and each gets the median over the rounds. ``off`` is no tracking (this project's is offline: its
journal alone), ``sqlite`` a file, ``http`` a real ``mlflow server``; points are logged at every step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from outage import Server

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("ours/off", "ours/sqlite", "ours/http", "stock/off", "stock/sqlite", "stock/http")
CONFIG = "configs/mini.yaml"
EVALUATED_AT_ONCE = 64


def main() -> None:
    options = _options()
    if options.stock:
        train_stock(options.stock, options.epochs)
        return
    seconds: dict[str, list[float]] = {way: [] for way in options.ways}
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch))
        server.start()
        try:
            for number in range(options.rounds):
                for way in options.ways:
                    folder = Path(scratch) / f"{way.replace('/', '-')}-{number}"
                    seconds[way].append(train(way, folder, server.address, options.epochs) / options.epochs)
                    print(f"{way}: {seconds[way][-1]:.2f} s per epoch", file=sys.stderr)
        finally:
            server.process.terminate()
    print_table(seconds)


def train(way: str, folder: Path, address: str, epochs: int) -> float:
    """Train once, in a process of its own; the seconds of ``train()``."""
    kind, tracking = way.split("/")
    folder.mkdir()
    stores = {"http": address, "sqlite": f"sqlite:///{folder / 'mlflow.db'}", "off": f"sqlite:///{folder / 'none.db'}"}
    environment = {**os.environ, "MLFLOW_TRACKING_URI": stores[tracking], "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_RUN_ID", None)
    ours = [
        *("-m", "cartas_mlflow", "train", "--config", CONFIG, f"--training.epochs={epochs}"),
        *("--early_stopping.patience=0", "--tracking.log_every_steps=1", f"--tracking.output_dir={folder}"),
        f"--tracking.offline={str(tracking == 'off').lower()}",
    ]
    stock = [str(Path(__file__).resolve()), "--stock", f"{folder}:{tracking}", "--epochs", str(epochs)]
    words = [sys.executable, *(ours if kind == "ours" else stock)]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{way}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
    if kind == "stock":
        return float((folder / "seconds").read_text())
    (report,) = folder.glob("*/training_metrics.json")
    return json.loads(report.read_text(encoding="utf-8"))["training_metrics"]["train_runtime"]


def train_stock(where: str, epochs: int) -> None:
    """The stock trainer with the same pieces; writes its seconds into the folder."""
    import numpy as np
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    from cartas_mlflow.config import load_config
    from cartas_mlflow.modeling.generation import decoding_config
    from cartas_mlflow.training import fitting, preparation

    folder, tracking = where.rsplit(":", 1)
    config = load_config(CONFIG)
    data = preparation.split_data(config, preparation.load_data(config))
    base = preparation.load_model(preparation.settle_base(config, CONFIG, {}))
    model, _ = preparation.attach_lora(config, base)
    tokenizer, settings = base.tokenizer, config.training
    score = fitting.reading_score(data, config.evaluation.copied_words)
    for name, value in decoding_config(model, config.generation).to_diff_dict().items():
        setattr(model.generation_config, name, value)

    def rows(records: list) -> list[dict[str, list[int]]]:
        inputs = tokenizer(data.prompts(records), truncation=True, max_length=config.data.max_length)
        labels = tokenizer([record.texto for record in records], truncation=True, max_length=config.data.max_length)
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": wanted}
            for ids, mask, wanted in zip(
                inputs["input_ids"], inputs["attention_mask"], labels["input_ids"], strict=True
            )
        ]

    def metrics(prediction) -> dict[str, float]:
        ids = np.where(prediction.predictions < 0, tokenizer.pad_token_id, prediction.predictions)
        return score([text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)])

    arguments = Seq2SeqTrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=EVALUATED_AT_ONCE,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=base.precision.dtype == "bfloat16",
        use_cpu=base.hardware.device == "cpu",
        predict_with_generate=True,
        generation_max_length=config.generation.max_new_tokens + 1,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="chrf",
        logging_steps=1,
        seed=settings.seed,
        report_to="none" if tracking == "off" else "mlflow",
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=rows(data.split.train),
        eval_dataset=rows(data.measured),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=metrics,
    )
    began = time.perf_counter()
    trainer.train()
    Path(folder, "seconds").write_text(str(time.perf_counter() - began))


def print_table(seconds: dict[str, list[float]]) -> None:
    """Every way against the stock trainer and against itself without tracking."""
    medians = {way: statistics.median(rounds) for way, rounds in seconds.items()}

    def ratio(longer: str, shorter: str) -> str:
        if longer == shorter or not {longer, shorter} <= seconds.keys():
            return ""
        each = [first / second for first, second in zip(seconds[longer], seconds[shorter], strict=True)]
        return f"{statistics.median(each):.3f}"

    print("| trainer | tracking | s per epoch | times as fast as stock | times its own without tracking | rounds |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for way, rounds in seconds.items():
        kind, tracking = way.split("/")
        each = ", ".join(f"{value:.2f}" for value in rounds)
        than_stock, own = ratio(f"stock/{tracking}", way), ratio(way, f"{kind}/off")
        print(f"| {kind} | {tracking} | {medians[way]:.2f} | {than_stock} | {own} | {each} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--stock", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
