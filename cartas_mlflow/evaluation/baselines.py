"""What a reading has to beat: looking one up; and what it must not do: recite."""

from __future__ import annotations

from collections.abc import Sequence

from cartas_mlflow.evaluation.metrics import split_words


def look_up(prompts: Sequence[tuple[str, ...]], known: Sequence[tuple[tuple[str, ...], str]]) -> list[str]:
    """For each prompt the known text that shares the most fields with it; ties go to the earlier one.

    Args:
        prompts: fields of each prompt, as (carta, evento, secao, tema).
        known: (fields, text) of each training record.
    """

    def shared(prompt: tuple[str, ...], fields: tuple[str, ...]) -> int:
        return sum(a == b for a, b in zip(prompt, fields, strict=True))

    return [max(known, key=lambda record: shared(prompt, record[0]))[1] for prompt in prompts]


def longest_copied_runs(texts: Sequence[str], sources: Sequence[str]) -> list[int]:
    """For each text, the length in words of its longest run that stands word for word in one of the sources."""
    source_words = [split_words(source) for source in sources]
    places: dict[str, list[tuple[int, int]]] = {}
    for number, words in enumerate(source_words):
        for position, word in enumerate(words):
            places.setdefault(word, []).append((number, position))
    return [_longest_run(split_words(text), places) for text in texts]


def _longest_run(words: list[str], places: dict[str, list[tuple[int, int]]]) -> int:
    best = 0
    ending_at: dict[tuple[int, int], int] = {}
    for word in words:
        ending_at = {
            (number, position): ending_at.get((number, position - 1), 0) + 1
            for number, position in places.get(word, ())
        }
        best = max(best, *ending_at.values(), 0)
    return best
