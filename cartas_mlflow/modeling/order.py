"""The order in which a training meets its readings, where batches are of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


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
