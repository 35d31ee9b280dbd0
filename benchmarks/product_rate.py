"""How much of the rate at which this machine multiplies matrices a training step keeps.

    python benchmarks/product_rate.py BASE [--precisions float32 bfloat16] [--rounds 3] [--steps 4]

BASE: a folder with config.json and tokenizer; without weights it gets random ones, right for speed. A step (forward,
backward, optimizer) on the same eight readings, by this project's trainer and by plain PEFT (``loss.backward()``, the
library's loss, dropout and AdamW; bfloat16 by autocast), and the bare product of the readings' tokens with a
feed-forward matrix, all three in turns; medians over the rounds. The step's operations are those that PyTorch's
``FlopCounterMode`` counts in plain PEFT's. The share: operations per second of the step to those of the bare product.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from original_way import our_trainer, seconds_of
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from true_size import with_weights

from cartas_mlflow.config import load_config
from cartas_mlflow.console import open_console
from cartas_mlflow.modeling.likelihood import reading_collator
from cartas_mlflow.training import preparation

BATCH = 8
PRODUCT_SECONDS = 2.0
CONFIG = "configs/default.yaml"


class Clock(TrainerCallback):
    """Seconds of each step, from its beginning to the next one's."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]


def main() -> None:
    options = _options()
    open_console()
    print("| precision | step | seconds | operations (10^9) | per second (10^9) | bare product (10^9/s) | share |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        base = with_weights(options.base, Path(scratch))
        for precision in options.precisions:
            measure(base, precision, options.rounds, options.steps)


def measure(folder: Path, precision: str, rounds: int, steps: int) -> None:
    """One precision: print a row for each way."""
    overrides = {
        "model.name": str(folder),
        "model.quantization": "false",
        "training.precision": precision,
        "training.batch_size": BATCH,
        "training.micro_batch_size": BATCH,
    }
    config = load_config(CONFIG, overrides)
    settled = preparation.settle_base(config, CONFIG, overrides)
    data = preparation.split_data(config, preparation.load_data(config))
    base = preparation.load_model(settled)
    model, _ = preparation.attach_lora(config, base)
    encoded = preparation.encode_data(config, base, data)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def ours() -> float:
        clock = Clock()
        our_trainer(config, base, model, encoded, data, lambda texts: {}, BATCH, steps + 2, [clock]).train()
        return statistics.median(clock.seconds()[1:])  # the first step prepares the kernels

    plain_model, batch = _plain(settled, config, base, encoded.train.dataset.select(range(BATCH)))
    optimizer = torch.optim.AdamW([weight for weight in plain_model.parameters() if weight.requires_grad], 1e-4)

    def plain_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = plain_model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain_model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    tokens = batch["input_ids"].numel()
    given = torch.randn(tokens, plain_model.config.d_model, dtype=dtype)
    matrix = torch.randn(plain_model.config.d_ff, plain_model.config.d_model, dtype=dtype)

    def product() -> float:
        """Operations per second, held for about as long as a step takes."""
        times, started = 0, time.perf_counter()
        with torch.no_grad():
            while (seconds := time.perf_counter() - started) < PRODUCT_SECONDS:
                torch.nn.functional.linear(given, matrix)
                times += 1
        return 2 * given.numel() * len(matrix) * times / seconds

    with FlopCounterMode(display=False) as counter:
        plain_step()
    operations = counter.get_total_flops()
    taken: dict[str, list[float]] = {"plain PEFT": [], "this project": []}
    rates = []
    for _ in range(rounds):
        rates.append(product())
        taken["this project"].append(ours())
        rates.append(product())
        taken["plain PEFT"].append(statistics.median(seconds_of(plain_step) for _ in range(steps)))
    rate = statistics.median(rates)
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        figures = f"{middle:.2f} | {operations / 1e9:.0f} | {operations / middle / 1e9:.0f} | {rate / 1e9:.0f}"
        print(f"| {precision} | {way} | {figures} | {operations / middle / rate:.0%} |", flush=True)


def _plain(settled: object, config: object, base: preparation.LoadedBase, rows: object) -> tuple:
    """Another copy of the base with the same LoRA, and the batch padded to its longest text."""
    other = preparation.load_model(settled)
    model, _ = preparation.attach_lora(config, other)
    collate = reading_collator(base.tokenizer, model)
    collate.pad_to_multiple_of = None
    columns = ("input_ids", "attention_mask", "labels")
    batch = collate([{name: row[name] for name in columns if name in row} for row in rows])
    return model.train(), dict(batch)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
