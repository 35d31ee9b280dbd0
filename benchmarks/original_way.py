"""Time per record, trained and evaluated: the original system's way against this project's, in turns.

    python benchmarks/original_way.py [--base FOLDER] [--rounds 3] [--records 32] [--evaluated 16]

Original way: micro-batches of 1 accumulated to 8, every text padded to 450 tokens, gradient checkpointing, float32,
evaluation by teacher-forced argmax at batch 1. This project's way: its own trainer with the settings of
configs/default.yaml on this machine, evaluation by real generation. Same model, same records, same LoRA, same process;
medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback, default_data_collator

from cartas_mlflow.config import load_config
from cartas_mlflow.console import open_console
from cartas_mlflow.modeling.trainer import ReadingTrainer, training_arguments
from cartas_mlflow.modeling.validation import ValidationSet, evaluate_model
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.training import fitting, preparation

ORIGINAL_LENGTH = 450


def main() -> None:
    options = _options()
    open_console()
    overrides = {"model.name": options.base, "lora.target_modules": "all-linear", "training.micro_batch_size": "auto"}
    config = load_config(options.config, overrides)
    settled = preparation.settle_base(config, options.config, overrides)
    data = preparation.split_data(config, preparation.load_data(config))
    base = preparation.load_model(settled)
    model, _ = preparation.attach_lora(config, base)
    encoded = preparation.encode_data(config, base, data)
    score = fitting.reading_score(data, config.evaluation.copied_words)

    def ours_train() -> None:
        our_trainer(config, base, model, encoded, data, score, options.records).train()

    def ours_evaluate() -> None:
        validation = ValidationSet(
            data.prompts(data.split.validation)[: options.evaluated],
            encoded.validation.dataset.select(range(options.evaluated)),
            [record.texto for record in data.split.validation[: options.evaluated]],
        )
        evaluate_model(
            model,
            base.tokenizer,
            validation,
            config,
            lambda texts: {},
            batch_size=encoded.plan.evaluation_batch,
        )

    padded = _padded(base, data, config)

    def original_train() -> None:
        _original_trainer(model, padded["train"][: options.records], []).train()
        model.gradient_checkpointing_disable()

    def original_evaluate() -> None:
        _original_trainer(model, [], padded["validation"][: options.evaluated]).evaluate()

    rows = {
        "trained record": (original_train, ours_train, options.records),
        "evaluated record": (original_evaluate, ours_evaluate, options.evaluated),
    }
    machine = f"{base.hardware.cpu}, {torch.get_num_threads()} threads, {base.precision.dtype}"
    print(f"\nmodel: {base.location.name}, {model.num_parameters():,} parameters with LoRA; {machine}\n")
    print("| | original way (s) | this project (s) | ratio | of each round |\n| --- | ---: | ---: | ---: | --- |")
    epoch = [0.0, 0.0]
    for (name, (original, ours, count)), records in zip(
        rows.items(), (data.split.train, data.split.validation), strict=True
    ):
        ours()
        pairs = [(seconds_of(original) / count, seconds_of(ours) / count) for _ in range(options.rounds)]
        ratios = [first / second for first, second in pairs]
        middle = [statistics.median(column) for column in zip(*pairs, strict=True)]
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(
            f"| per {name} | {middle[0]:.3f} | {middle[1]:.4f} | {statistics.median(ratios):.1f} | {each} |", flush=True
        )
        epoch = [total + len(records) * seconds for total, seconds in zip(epoch, middle, strict=True)]
    print(f"| an epoch of all records, evaluated | {epoch[0]:.0f} | {epoch[1]:.1f} | {epoch[0] / epoch[1]:.1f} | |")


def our_trainer(
    config: ExperimentConfig,
    base: preparation.LoadedBase,
    model: torch.nn.Module,
    encoded: preparation.EncodedSplit,
    data: preparation.PreparedData,
    score: fitting.Score,
    records: int,
    epochs: int = 1,
    callbacks: Sequence[TrainerCallback] = (),
) -> ReadingTrainer:
    """This project's trainer on the first records, without evaluations and checkpoints."""
    arguments = training_arguments(
        config,
        Path(tempfile.mkdtemp()),
        device=base.hardware.device,
        precision=base.precision.dtype,
        micro_batch_size=encoded.plan.micro_batch,
        checkpointing=encoded.plan.checkpointing,
        steps_per_epoch=records // config.training.batch_size,
    )
    arguments.num_train_epochs, arguments.eval_strategy, arguments.save_strategy = epochs, "no", "no"
    arguments.load_best_model_at_end = False
    return ReadingTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded.train.dataset.select(range(records)),
        config=config,
        validation=ValidationSet(
            data.prompts(data.split.validation),
            encoded.validation.dataset,
            [record.texto for record in data.split.validation],
        ),
        evaluation_batch=encoded.plan.evaluation_batch,
        score=score,
        tokenizer=base.tokenizer,
        callbacks=list(callbacks),
    )


def _padded(
    base: preparation.LoadedBase, data: preparation.PreparedData, config: ExperimentConfig
) -> dict[str, list[dict[str, torch.Tensor]]]:
    sides = {"train": data.split.train, "validation": data.split.validation}
    rows: dict[str, list[dict[str, torch.Tensor]]] = {}
    for side, records in sides.items():
        options = {"padding": "max_length", "truncation": True, "max_length": ORIGINAL_LENGTH, "return_tensors": "pt"}
        inputs = base.tokenizer(data.prompts(records), **options)
        labels = base.tokenizer(text_target=[record.texto for record in records], **options)["input_ids"]
        labels[labels == base.tokenizer.pad_token_id] = -100
        rows[side] = [
            {"input_ids": inputs["input_ids"][i], "attention_mask": inputs["attention_mask"][i], "labels": labels[i]}
            for i in range(len(records))
        ]
    return rows


def _original_trainer(model: torch.nn.Module, train: list, validation: list) -> Seq2SeqTrainer:
    arguments = Seq2SeqTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=8,
        activation_checkpointing=True,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    return Seq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=train or None,
        eval_dataset=validation or None,
        data_collator=default_data_collator,
        compute_metrics=lambda prediction: {"tokens": float(prediction.predictions.size)},
        preprocess_logits_for_metrics=lambda logits, labels: (
            logits[0] if isinstance(logits, tuple) else logits
        ).argmax(-1),
    )


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="data/base/cartas-t5-mini")
    parser.add_argument("--config", default="configs/default.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--evaluated", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
