"""How a process grows that trains in bfloat16 on a CPU: one kernel is kept for each matrix shape that it meets.

    python benchmarks/bfloat16_memory.py FOLDER [--lengths 1 8 16] [--steps 60]

FOLDER holds a ``config.json`` (PTT5's); the weights are random, of three layers each side. Batches of eight texts with
drawn lengths are padded to multiples of each of ``--lengths``, in a process each; one thread. Prints resident memory
(MiB) at four points and the thread's seconds, as a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

POINTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(" | ".join(train(options.folder, options.lengths[0], options.steps)))
        return
    points = [options.steps * number // POINTS for number in range(POINTS + 1)]
    print("| multiples of | " + " | ".join(f"step {point} (MiB)" for point in points) + " | seconds |")
    print("| ---: |" + " ---: |" * (len(points) + 1))
    for length in options.lengths:
        words = [str(options.folder), "--lengths", str(length), "--steps", str(options.steps), "--alone"]
        ended = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
        print(f"| {length} | {ended.stdout.splitlines()[-1]} |", flush=True)


def train(folder: Path, multiple: int, steps: int) -> list[str]:
    """Steps on random texts; memory at the points, and the seconds."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration

    torch.set_num_threads(1)
    config = T5Config.from_pretrained(folder)
    config.num_layers = config.num_decoder_layers = 3
    base = T5ForConditionalGeneration(config).requires_grad_(False)
    model = get_peft_model(base, LoraConfig(r=16, target_modules=["q", "k", "v", "o"]))
    drawn, process, found = random.Random(1), psutil.Process(), []
    began = time.thread_time()
    for step in range(steps + 1):
        lengths = (drawn.randint(28, 48), drawn.randint(25, 90))
        inputs, labels = (torch.randint(3, 1000, (8, -(-length // multiple) * multiple)) for length in lengths)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=inputs, labels=labels).loss
        loss.backward()
        model.zero_grad()
        if step % (steps // POINTS) == 0:
            found.append(f"{process.memory_info().rss / 2**20:.0f}")
    return [*found, f"{time.thread_time() - began:.1f}"]


if __name__ == "__main__":
    main()
