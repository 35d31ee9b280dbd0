"""From documents to batches: prefix continuation, span corruption, other wordings, keyword expansion.

No document has a request of its own, and nothing looks like a prompt of the fine-tuning: to write to order is learnt
from pieces of the text itself.

Every function takes its random generator: the same seed gives the same batches, so that a resumed run goes on exactly
where it was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from cartas_mlflow.pretraining.words import Lexicon

EOS = 1
IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """Shares of the objectives (what is left is keyword expansion) and what they need to know of the vocabulary.

    first_sentinel: id of ``<extra_id_0>``; the others count down from it (T5's order).
    """

    prefix_share: float
    span_share: float
    reword_share: float
    first_sentinel: int
    lexicon: Lexicon


@dataclass(frozen=True)
class PackShape:
    """A batch: ``rows`` rows of ``input_length`` input tokens and ``target_length`` target tokens, always the same.

    One shape lets the CPU's kernels be prepared once; several examples share a row and do not see each other.
    """

    rows: int = 32
    input_length: int = 96
    target_length: int = 160


@dataclass(frozen=True)
class Batch:
    """Packed examples, int64. ``inputs`` and ``input_segments`` [rows, input_length]; the rest [rows, target_length].

    A segment is the number of the example in its row, from 1; 0 is padding. ``labels`` are -100 where nothing is
    asked; ``decoder_inputs`` are the labels shifted right within their segment.
    """

    inputs: np.ndarray
    input_segments: np.ndarray
    decoder_inputs: np.ndarray
    labels: np.ndarray
    target_segments: np.ndarray

    @property
    def tokens(self) -> int:
        """Input and target tokens that are not padding."""
        return int((self.input_segments != 0).sum() + (self.target_segments != 0).sum())


def continue_prefix(tokens: np.ndarray, objective: Objective, rng: np.random.Generator):
    """Input: the first words (2 pieces to half of the text); target: the rest. Cuts between words where it can.

    One in four begins with the whole first half.
    """
    half = max(2, len(tokens) // 2)
    cut = half if rng.random() < 0.25 else int(rng.integers(2, half + 1))
    while cut < len(tokens) - 2 and not objective.lexicon.starts_word[tokens[cut]]:
        cut += 1
    return tokens[:cut], tokens[cut:]


def corrupt_spans(tokens: np.ndarray, objective: Objective, rng: np.random.Generator):
    """T5's span corruption (Raffel et al. 2020, section 3.1.4): 15 to 35 % noise in spans of 3 pieces on average."""
    length = len(tokens)
    noise = min(length - 1, max(1, round(length * rng.uniform(0.15, 0.35))))
    spans = min(max(1, round(noise / 3)), noise, length - noise)
    noise_lengths = _cut_randomly(noise, spans, rng)
    kept_lengths = _cut_randomly(length - noise, spans, rng)
    inputs, target, position = [], [], 0
    for index, (kept, lost) in enumerate(zip(kept_lengths, noise_lengths, strict=True)):
        sentinel = np.asarray([objective.first_sentinel - index], dtype=tokens.dtype)
        inputs += [tokens[position : position + kept], sentinel]
        target += [sentinel, tokens[position + kept : position + kept + lost]]
        position += kept + lost
    return np.concatenate(inputs), np.concatenate(target)


def reword(tokens: np.ndarray, objective: Objective, rng: np.random.Generator):
    """Input: the text in other, clumsier words: a third of them lost, neighbours exchanged; target: the text."""
    words = objective.lexicon.split(tokens)
    kept = [word for word in words if rng.random() > 1 / 3]
    if len(kept) < 2:
        return continue_prefix(tokens, objective, rng)
    order = np.argsort(np.arange(len(kept)) + rng.uniform(0, 3, len(kept)))
    return np.concatenate([kept[i] for i in order]), tokens


def expand_keywords(
    tokens: np.ndarray, objective: Objective, rng: np.random.Generator, stranger: np.ndarray | None = None
):
    """Input: one to eight of the text's words, none of them small, in any order and case; target: the whole text.

    In every second input small words and marks stand among them, and up to four words of ``stranger``, another text.
    Who asks writes "Família" at will, or "de uma família": to a base that has met only "família" alone, these are other
    words. And most of a request is not what the answer is about.
    """
    lexicon = objective.lexicon
    words = lexicon.keywords(tokens)
    if len(words) < 2:
        return continue_prefix(tokens, objective, rng)
    count = min(int(rng.integers(1, 9)), len(words))
    asked = [words[index] for index in rng.choice(len(words), size=count, replace=False)]
    swapped, mixed = rng.random(), 0.5 * (rng.random() < 0.5)
    strange = lexicon.keywords(stranger) if mixed and stranger is not None else []
    for _ in range(min(int(rng.integers(0, 5)), len(strange))):
        asked.insert(int(rng.integers(len(asked) + 1)), strange[rng.integers(len(strange))])
    parts: list[np.ndarray] = []
    for word in asked:
        if lexicon.small_words and rng.random() < mixed:
            parts.append(lexicon.small_words[rng.integers(len(lexicon.small_words))])
        parts.append(lexicon.other_case(word) if rng.random() < swapped else word)
        if lexicon.marks and rng.random() < mixed:
            parts.append(np.asarray([lexicon.marks[rng.integers(len(lexicon.marks))]]))
    keywords = np.concatenate(parts)
    return (keywords, tokens) if len(keywords) < len(tokens) else continue_prefix(tokens, objective, rng)


def make_example(
    document: np.ndarray, objective: Objective, rng: np.random.Generator, stranger: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (input, target), both closed by the end marker.

    stranger: another document, whose words may stand among the keywords.
    """
    draw = rng.random()
    made = partial(expand_keywords, stranger=stranger)
    for share, form in (
        (objective.prefix_share, continue_prefix),
        (objective.span_share, corrupt_spans),
        (objective.reword_share, reword),
    ):
        if draw < share:
            made = form
            break
        draw -= share
    source, target = made(document, objective, rng)
    return np.append(source, EOS), np.append(target, EOS)


def make_batches(
    examples: list[tuple[np.ndarray, np.ndarray]], shape: PackShape, rng: np.random.Generator | None
) -> Iterator[Batch]:
    """Pack examples into rows (first fit, longest targets first) and rows into batches of ``shape``.

    With a generator the rows are shuffled and the last, incomplete batch is left out; without, it is filled with
    padding. Raises ValueError for an example longer than a row.
    """
    rows = _pack(examples, shape)
    if rng is not None:
        rows = [rows[i] for i in rng.permutation(len(rows))]
    for start in range(0, len(rows), shape.rows):
        group = rows[start : start + shape.rows]
        if rng is None or len(group) == shape.rows:
            yield _fill([[examples[i] for i in row] for row in group], shape)


def _pack(examples: list[tuple[np.ndarray, np.ndarray]], shape: PackShape) -> list[list[int]]:
    room = np.empty((len(examples), 2), dtype=np.int64)
    rows: list[list[int]] = []
    for index in sorted(range(len(examples)), key=lambda i: -len(examples[i][1]) - len(examples[i][0])):
        size = np.asarray([len(examples[index][0]), len(examples[index][1])])
        fitting = np.flatnonzero((room[: len(rows)] >= size).all(axis=1))
        if len(fitting):
            row = int(fitting[0])
        else:
            row = len(rows)
            rows.append([])
            room[row] = shape.input_length, shape.target_length
            if (room[row] < size).any():
                raise ValueError(f"an example of {size[0]} + {size[1]} tokens does not fit a row of {shape}")
        rows[row].append(index)
        room[row] -= size
    return rows


def _fill(rows: list[list[tuple[np.ndarray, np.ndarray]]], shape: PackShape) -> Batch:
    inputs = np.zeros((shape.rows, shape.input_length), dtype=np.int64)
    input_segments = np.zeros_like(inputs)
    labels = np.full((shape.rows, shape.target_length), IGNORED, dtype=np.int64)
    decoder_inputs, target_segments = np.zeros_like(labels), np.zeros_like(labels)
    for row, examples in enumerate(rows):
        source_end = target_end = 0
        for segment, (source, target) in enumerate(examples, start=1):
            here = slice(source_end, source_end := source_end + len(source))
            inputs[row, here], input_segments[row, here] = source, segment
            there = slice(target_end, target_end := target_end + len(target))
            labels[row, there], target_segments[row, there] = target, segment
            decoder_inputs[row, there.start + 1 : there.stop] = target[:-1]
    return Batch(inputs, input_segments, decoder_inputs, labels, target_segments)


def _cut_randomly(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Cut ``total`` into ``parts`` positive lengths at random."""
    cuts = np.sort(rng.choice(np.arange(1, total), size=parts - 1, replace=False)) if parts > 1 else np.zeros(0, int)
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(int)
