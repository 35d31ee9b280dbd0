"""The order in which a training meets its readings: the same with one process and with several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL

if TYPE_CHECKING:
    from datasets import Dataset


class LengthGroupedOrder(LengthGroupedSampler):
    """Batches of similar length, in an order that hangs on the seed and the epoch alone.

    The library's own order hangs on the state of the global generator, which is another one when a training goes on in
    mid-epoch: it would meet some readings of that epoch twice and others never.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class RandomOrder(Sampler[int]):
    """At random, as the library's sampler of one process has it."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        yield from torch.randperm(self.count, generator=generator).tolist()


class FilledOrder(Sampler[int], TrainerCallback):
    """An order whose last batch is filled up, so that every process has as many passes; the filler teaches nothing.

    Args:
        filler: index of an example without a target token.
    """

    def __init__(self, order: LengthGroupedOrder | RandomOrder, batch_size: int, filler: int) -> None:
        self.order, self.filler = order, filler
        self.missing = -len(order) % batch_size

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The library does not reach the order where it skips what was trained before an interruption."""
        self.set_epoch(int(state.epoch or 0))

    def __len__(self) -> int:
        return len(self.order) + self.missing

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [self.filler] * self.missing


def with_filler(examples: Dataset) -> Dataset:
    """The examples, and at the end one without a target token: no loss, no gradient."""
    from datasets import Dataset, concatenate_datasets

    filler = {name: [[1]] for name in examples.column_names} | {"labels": [[IGNORED_LABEL]], "length": [1]}
    return concatenate_datasets([examples, Dataset.from_dict(filler, features=examples.features)])
