"""Beams, or sampling with the best of n: how adapters' validation readings come out of each.

    python benchmarks/decoding.py results/…/adapter [results/…/adapter …] [--penalties 1 1.1 1.3 1.5]
        [--best-of 8 16] [--temperatures 0.6 0.8] [--rivals 3] [--show 3]

The readings are those of each adapter's own validation side; of one trained on another split, without those that the
settings file's split holds back, so that a way of decoding can be chosen before they are looked at. Of n drawn readings
one is taken: the first; the likeliest per token; the one whose likelihood under its own prompt is furthest above the
mean of that under other cards' prompts; or the best in the sum of both. Prints a Markdown table, means over the
adapters: metrics against the real readings, the share of the written readings that fit their prompt
(``generated_prompt_fit``), that copy twelve words, the share of their longer words that come back within a reading, how
many are distinct, characters of a reading, seconds of generation.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.config import load_config
from cartas_mlflow.console import hushed, open_console
from cartas_mlflow.data.records import Record
from cartas_mlflow.data.splitting import split_records
from cartas_mlflow.evaluation.baselines import longest_copied_runs
from cartas_mlflow.evaluation.metrics import score_texts, split_words
from cartas_mlflow.modeling.engine import FastEngine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import log_likelihoods, prompt_fit
from cartas_mlflow.registry.model import ReadingGenerator, open_folder
from cartas_mlflow.settings import GenerationSettings
from cartas_mlflow.training import preparation

AT_ONCE, SCORED_AT_ONCE = 64, 32
LONG, COPIED = 4, 12
"""Letters of a word that has a meaning of its own, and words in a row that are copied."""
COLUMNS = ("chrF", "ROUGE-L", "BLEU", "fit", "copy", "words again", "distinct", "characters", "s")


@dataclass(frozen=True)
class Subject:
    """An adapter and what it is asked."""

    generator: ReadingGenerator
    engine: FastEngine
    prompts: Sequence[str]
    rivals: Sequence[Sequence[str]]
    real: Sequence[str]
    known: Sequence[str]
    """The texts that it was trained on."""
    limit: int

    def beams(self, settings: GenerationSettings) -> list[str]:
        model, tokenizer = self.generator.model, self.generator.tokenizer
        sizes = {"batch_size": AT_ONCE, "max_length": self.limit}
        return generate_texts(model, tokenizer, self.prompts, settings, engine=self.engine, **sizes)

    def likelihoods(self, pairs: list[tuple[str, str]]) -> list[float]:
        model, tokenizer = self.generator.model, self.generator.tokenizer
        return log_likelihoods(model, tokenizer, pairs, batch_size=SCORED_AT_ONCE, max_length=self.limit)

    def measure(self, texts: list[str], seconds: float) -> list[float]:
        """The figures of :data:`COLUMNS`."""
        found = score_texts(texts, self.real)
        sizes = {"batch_size": SCORED_AT_ONCE, "max_length": self.limit}
        fit = prompt_fit(self.generator.model, self.generator.tokenizer, texts, self.prompts, self.rivals, **sizes)
        copied = statistics.mean(run >= COPIED for run in longest_copied_runs(texts, self.known))
        again = statistics.mean(map(words_again, texts))
        length = statistics.mean(map(len, texts))
        return [found["chrf"], found["rougeL"], found["bleu"], fit, copied, again, len(set(texts)), length, seconds]


def main() -> None:
    options = _options()
    open_console()
    with hushed():
        subjects = [open_subject(adapter) for adapter in options.adapters]
    usual = load_config("configs/mini.yaml").generation
    examples: dict[str, list[str]] = {}
    print(f"| decoding | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")

    def show(ways: Sequence[tuple[str, Sequence[list[str]], float]]) -> None:
        for name, texts, seconds in ways:
            rows = [subject.measure(own, seconds) for subject, own in zip(subjects, texts, strict=True)]
            means = [statistics.mean(values) for values in zip(*rows, strict=True)]
            cells = [f"{value:.4f}" for value in means[:6]] + [f"{value:.0f}" for value in means[6:]]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            examples[name] = texts[0][: options.show]

    for beams in (1, 2, 4):
        for penalty in options.penalties:
            began = time.perf_counter()
            settings = usual.model_copy(update={"num_beams": beams, "repetition_penalty": penalty})
            texts = [subject.beams(settings) for subject in subjects]
            name = "greedy" if beams == 1 else f"{beams} beams"
            show([(f"{name}, penalty {penalty:g}", texts, (time.perf_counter() - began) / len(subjects))])
    for temperature in options.temperatures:
        for count in options.best_of:
            drawn = [list(best_of(subject, usual, temperature, count, options.rivals)) for subject in subjects]
            show([(ways[0][0], [texts for _, texts, _ in ways], ways[0][2]) for ways in zip(*drawn, strict=True)])
    for name, texts in examples.items():
        print(f"\n**{name}**\n" + "".join(f"\n- {text}" for text in texts))


def open_subject(adapter: Path) -> Subject:
    """An adapter's folder, beside which its training left its settings."""
    config, generator = load_config(adapter.parent / "config_resolved.yaml"), open_folder(adapter)
    records = preparation.load_data(config)
    data = preparation.split_data(config, records)
    usual = load_config("configs/mini.yaml").data
    held_back: set[Record] = set()
    if config.data.split_seed != usual.split_seed:
        held_back = set(split_records(records, usual.validation_fraction, usual.split_seed).validation)
    asked = tuple(record for record in data.split.validation if record not in held_back)
    return Subject(
        generator,
        FastEngine(generator.model, generator.tokenizer),
        data.prompts(asked),
        data.rivals(asked),
        [record.texto for record in asked],
        [record.texto for record in data.split.train],
        config.data.max_length,
    )


def words_again(text: str) -> float:
    """Share of a text's longer words that have stood in it before."""
    words = [word for word in split_words(text) if len(word) >= LONG]
    return 1 - len(set(words)) / len(words) if words else 0.0


def best_of(
    subject: Subject, usual: GenerationSettings, temperature: float, count: int, tried: int
) -> Iterator[tuple[str, list[str], float]]:
    """Name, texts and seconds of each way to choose among ``count`` drawn readings."""
    began = time.perf_counter()
    drawn = {"num_beams": 1, "do_sample": True, "temperature": temperature, "top_p": 0.92, "length_penalty": 1.0}
    texts = generate_texts(
        subject.generator.model,
        subject.generator.tokenizer,
        subject.prompts,
        usual.model_copy(update=drawn),
        batch_size=AT_ONCE // 2,
        max_length=subject.limit,
        sequences=count,
    )
    own = subject.likelihoods([(subject.prompts[number // count], text) for number, text in enumerate(texts)])
    lengths = [len(ids) for ids in subject.generator.tokenizer(texts)["input_ids"]]
    contrasts = contrast(texts, own, subject.rivals, tried, subject.likelihoods)
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
        yield f"best of {count} at {temperature}: {name}", [texts[row] for row in best], seconds


def contrast(
    texts: list[str],
    own: list[float],
    rivals: Sequence[Sequence[str]],
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
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument(
        "--penalties", type=float, nargs="+", default=[1.0, 1.3], help="repetition_penalty of the beams"
    )
    parser.add_argument("--best-of", type=int, nargs="+", default=[8])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.6, 0.8])
    parser.add_argument("--rivals", type=int, default=3, help="other cards' prompts that a reading is tried under")
    parser.add_argument("--show", type=int, default=3, help="readings shown of each decoding")
    return parser.parse_args()


if __name__ == "__main__":
    main()
