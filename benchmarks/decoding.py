"""Beams, or sampling with the best of n: how an adapter's validation readings come out of each.

    python benchmarks/decoding.py results/…/adapter [--best-of 8 16] [--temperatures 0.6 0.8] [--rivals 3] [--show 3]

The readings are those of the bundled table's validation side. Of n drawn readings one is taken: the first; the
likeliest per token; the one whose likelihood under its own prompt is furthest above the mean of that under other cards'
prompts; or the best in the sum of both. Prints a Markdown table: metrics against the real readings, the share of the
written readings that fit their prompt (``generated_prompt_fit``), how many are distinct, seconds of generation.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from cartas_mlflow.config import load_config
from cartas_mlflow.console import open_console
from cartas_mlflow.modeling.engine import FastEngine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import log_likelihoods, prompt_fit
from cartas_mlflow.registry.model import open_folder
from cartas_mlflow.training import fitting, preparation

AT_ONCE, SCORED_AT_ONCE = 64, 32


def main() -> None:
    options = _options()
    open_console()
    config = load_config("configs/mini.yaml")
    data = preparation.split_data(config, preparation.load_data(config))
    records = data.split.validation
    prompts, rivals = data.prompts(records), data.rivals(records)
    generator = open_folder(options.adapter)
    model, tokenizer, limit = generator.model, generator.tokenizer, config.data.max_length
    score = fitting.reading_score(data, config.evaluation.copied_words)
    engine = FastEngine(model, tokenizer)

    def likelihoods(pairs: list[tuple[str, str]]) -> list[float]:
        return log_likelihoods(model, tokenizer, pairs, batch_size=SCORED_AT_ONCE, max_length=limit)

    def show(name: str, texts: list[str], seconds: float) -> None:
        found = score(texts)
        fit = prompt_fit(model, tokenizer, texts, prompts, rivals, batch_size=SCORED_AT_ONCE, max_length=limit)
        figures = (found["chrf"], found["rougeL"], fit, found["copied_share"])
        cells = " | ".join(f"{value:.4f}" for value in figures)
        print(f"| {name} | {cells} | {len(set(texts))} | {seconds:.0f} |", flush=True)
        examples[name] = texts[: options.show]

    examples: dict[str, list[str]] = {}
    print(
        "| decoding | chrF | ROUGE-L | fit | copy | distinct | s |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for beams in (1, 2, 4):
        began = time.perf_counter()
        settings = config.generation.model_copy(update={"num_beams": beams})
        texts = generate_texts(model, tokenizer, prompts, settings, batch_size=AT_ONCE, max_length=limit, engine=engine)
        show(f"{beams} beams" if beams > 1 else "greedy", texts, time.perf_counter() - began)
    for temperature in options.temperatures:
        for count in options.best_of:
            began = time.perf_counter()
            drawn = {
                "num_beams": 1,
                "do_sample": True,
                "temperature": temperature,
                "top_p": 0.92,
                "length_penalty": 1.0,
            }
            settings = config.generation.model_copy(update=drawn)
            texts = generate_texts(
                model, tokenizer, prompts, settings, batch_size=AT_ONCE // 2, max_length=limit, sequences=count
            )
            own = likelihoods([(prompts[number // count], text) for number, text in enumerate(texts)])
            lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
            contrasts = contrast(texts, own, rivals, options.rivals, likelihoods)
            seconds = time.perf_counter() - began
            rows = range(len(texts))
            ways = {
                "first": [0.0] * len(texts),
                "likeliest": [own[row] / lengths[row] for row in rows],
                "contrast": contrasts,
                "both": [(own[row] + contrasts[row]) / lengths[row] for row in rows],
            }
            for name, values in ways.items():
                best = [max(rows[start : start + count], key=values.__getitem__) for start in rows[::count]]
                show(f"best of {count} at {temperature}: {name}", [texts[row] for row in best], seconds)
    for name, texts in examples.items():
        print(f"\n**{name}**\n" + "".join(f"\n- {text}" for text in texts))


def contrast(
    texts: list[str],
    own: list[float],
    rivals: list[list[str]],
    tried: int,
    likelihoods: Callable[[list[tuple[str, str]]], list[float]],
) -> list[float]:
    """log p(text | its prompt) less the mean of log p(text | prompt with another card), over a few drawn cards."""
    chance, count = random.Random(1), len(texts) // len(rivals)
    asked = [(prompt, text) for row, text in enumerate(texts) for prompt in chance.sample(rivals[row // count], tried)]
    found = likelihoods(asked)
    return [own[row] - statistics.mean(found[row * tried : (row + 1) * tried]) for row in range(len(texts))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--best-of", type=int, nargs="+", default=[8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.6, 0.8])
    parser.add_argument("--rivals", type=int, default=3, help="other cards' prompts that a reading is tried under")
    parser.add_argument("--show", type=int, default=3, help="readings shown of each decoding")
    return parser.parse_args()


if __name__ == "__main__":
    main()
