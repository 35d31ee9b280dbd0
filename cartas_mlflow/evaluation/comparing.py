"""Several runs on the prompts that they share: how each stands against the first, and their texts side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cartas_mlflow.evaluation.confidence import BITS, MIN_RECORDS, Answers, Interval, bootstrap, paired_bootstrap
from cartas_mlflow.evaluation.differences import Piece, mark_differences
from cartas_mlflow.evaluation.metrics import chrf_of_pairs
from cartas_mlflow.evaluation.verdict import LEVEL
from cartas_mlflow.settings import RECORD_FIELDS

Row = Mapping[str, str]
"""A validation record with its text: the fields of :data:`RECORD_FIELDS`, ``real``, ``gerado``; earlier versions
wrote no :data:`BITS`."""
_KEY = (*RECORD_FIELDS, "real")


@dataclass(frozen=True)
class Standing:
    """One run's answers judged, and held against the first run's.

    ``values``: metric -> value with its 95 % interval, on all ``records`` of its own; ``over_first``: metric that both
    have -> paired difference, this run minus the first, on the ``shared`` records. That is empty for the first run
    itself, and where fewer than :data:`MIN_RECORDS` are shared.
    """

    values: Mapping[str, Interval]
    over_first: Mapping[str, Interval]
    records: int
    shared: int


@dataclass(frozen=True)
class Answer:
    """A text, and the places in the comparison of the runs that wrote it. ``score``: chrF against the real one, 0-1."""

    runs: tuple[int, ...]
    score: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class SharedPrompt:
    """What at least two runs were asked. ``asked``: the values of the fields; ``absent``: runs that were not asked."""

    asked: tuple[str, ...]
    real: str
    answers: tuple[Answer, ...]
    absent: tuple[int, ...]

    @property
    def spread(self) -> float:
        """How far the best text's score is from the worst one's, 0 to 1."""
        scores = [answer.score for answer in self.answers]
        return max(scores) - min(scores)


def judge_runs(tables: Sequence[Sequence[Row]], *, resamples: int, seed: int) -> list[Standing]:
    """Judge each run's table, and hold it against the first one's on the records that both have.

    Raises:
        ValueError: an empty table.
    """
    chance = {"resamples": resamples, "seed": seed, "level": LEVEL}
    first = _by_record(tables[0])
    standings = []
    for number, table in enumerate(tables):
        own = _by_record(table)
        shared = [key for key in first if key in own]
        answers, over_first = _answers(own.values()), {}
        if number > 0 and len(shared) >= MIN_RECORDS:
            both = [_answers(rows[key] for key in shared) for rows in (own, first)]
            over_first = {
                metric: paired_bootstrap(metric, *both, [key[-1] for key in shared], **chance).difference
                for metric in both[0].metrics
                if metric in both[1].metrics
            }
        values = {metric: bootstrap(metric, answers, [key[-1] for key in own], **chance) for metric in answers.metrics}
        standings.append(Standing(values, over_first, len(own), len(shared)))
    return standings


def pair_prompts(tables: Sequence[Sequence[Row]]) -> list[SharedPrompt]:
    """What at least two of the runs were asked; the prompts on which their scores differ most come first."""
    columns = [{key: row["gerado"] for key, row in _by_record(table).items()} for table in tables]
    scores = [
        dict(zip(own, chrf_of_pairs(list(own.values()), [key[-1] for key in own]), strict=True)) for own in columns
    ]
    prompts = []
    for key in dict.fromkeys(key for own in columns for key in own):
        runs = [number for number, own in enumerate(columns) if key in own]
        if len(runs) < 2:
            continue
        writers: dict[str, list[int]] = {}
        for number in runs:
            writers.setdefault(columns[number][key], []).append(number)
        answers = tuple(
            Answer(tuple(who), scores[who[0]][key], pieces)
            for who, pieces in zip(writers.values(), mark_differences(list(writers)), strict=True)
        )
        absent = tuple(number for number in range(len(tables)) if number not in runs)
        prompts.append(SharedPrompt(key[:-1], key[-1], answers, absent))
    return sorted(prompts, key=lambda prompt: -prompt.spread)


def _by_record(table: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    """By the fields and the real text: that is what makes two records the same one."""
    return {tuple(row[name] for name in _KEY): row for row in table}


def _answers(rows: Iterable[Row]) -> Answers:
    told = list(rows)
    bits = [float(row[BITS]) for row in told if row.get(BITS)]
    return Answers([row["gerado"] for row in told], bits if len(bits) == len(told) else ())
