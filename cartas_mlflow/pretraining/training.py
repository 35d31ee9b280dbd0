"""Pre-training of a small T5 from scratch: schedule, batches, loop, averaged weights, checkpoints.

A run goes on at its last checkpoint with the same batches and the same number format; on the same machine, exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

import numpy as np
import torch

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.pretrain_settings import PretrainSettings
from cartas_mlflow.pretraining.corpus import PretrainingCorpus
from cartas_mlflow.pretraining.loss import PLAIN, Kernels, compute_loss
from cartas_mlflow.pretraining.machine import CPU_ROWS, PLAIN_CPU, Machine
from cartas_mlflow.pretraining.objective import (
    EOS,
    IGNORED,
    Batch,
    Objective,
    PackShape,
    make_batches,
    make_example,
)
from cartas_mlflow.pretraining.optimizers import build_optimizers

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

_CHUNK = 4096  # documents drawn, sorted by length and cut into batches together


@dataclass
class Progress:
    """Where the run stands: steps, tokens, seconds of training, and the next batch as (chunk, batch in the chunk).

    ``chunk_tokens``: the tokens seen before the chunk. What the chunk draws from depends on it, and a run that goes on
    in its middle has to draw the same.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    chunk: int = 0
    batch: int = 0
    chunk_tokens: int = 0


def schedule_factor(tokens: int, settings: PretrainSettings) -> float:
    """Return the share of the full step size after ``tokens``: warm-up, plateau, linear decay to 2 %."""
    warmup = min(1.0, (tokens + 1) / max(1, settings.warmup_tokens))
    left = max(0, settings.total_tokens - tokens) / max(1, settings.decay_tokens)
    return warmup * max(0.02, min(1.0, left))


def draw_chunk(
    corpus: PretrainingCorpus,
    objective: Objective,
    settings: PretrainSettings,
    progress: Progress,
    rows: int = CPU_ROWS,
) -> list[Batch]:
    """Return the batches of chunk ``progress.chunk``: a pure function of seed, chunk and part of the run."""
    rng = np.random.default_rng([settings.seed, progress.chunk])
    chances = corpus.weights / corpus.weights.sum()
    in_domain_part = progress.chunk_tokens >= settings.total_tokens - settings.domain_tokens and corpus.domain
    from_domain = round(_CHUNK * settings.domain_share) if in_domain_part else 0
    documents = [corpus.general[i] for i in rng.choice(len(chances), size=_CHUNK - from_domain, p=chances)]
    documents += [corpus.domain[i] for i in rng.integers(0, max(1, len(corpus.domain)), size=from_domain)]
    strangers = documents[1:] + documents[:1]
    examples = [
        make_example(document, objective, rng, stranger)
        for document, stranger in zip(documents, strangers, strict=True)
    ]
    return list(make_batches(examples, PackShape(rows=rows), rng))


class WeightAverage:
    """Running average of a model's weights; stands in for a decayed step size while the run goes on."""

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
        self.updates = 0

    @torch.no_grad()
    def update(self, model: T5ForConditionalGeneration, decay: float) -> None:
        """Move the average a step towards the model; young averages move faster."""
        self.updates += 1
        decay = min(decay, self.updates / (self.updates + 10))
        for name, tensor in model.named_parameters():
            self.weights[name].lerp_(tensor, 1 - decay)

    @torch.no_grad()
    def swap(self, model: T5ForConditionalGeneration) -> None:
        """Exchange the model's weights with the average; a second call brings them back."""
        for name, tensor in model.named_parameters():
            kept = tensor.detach().clone()
            tensor.copy_(self.weights[name])
            self.weights[name] = kept


@torch.no_grad()
def evaluate_continuation(
    model: T5ForConditionalGeneration,
    documents: list[np.ndarray],
    decode: Callable[[np.ndarray], str],
    kernels: Kernels = PLAIN,
) -> dict[str, float]:
    """Return ``nats_per_piece`` and ``bits_per_character`` of continuing held-out documents.

    The first quarter of a document (at least 2 pieces) is given; the rest is scored, end marker included.
    decode: token ids -> text, for counting characters.
    """
    examples, characters = [], 0
    for document in documents:
        cut = max(2, len(document) // 4)
        source, target = document[:cut], document[cut:]
        characters += len(decode(target))
        examples.append((np.append(source, EOS), np.append(target, EOS)))
    nats, pieces = 0.0, 0
    model.eval()
    for batch in make_batches(examples, PackShape(), None):
        count = int((batch.labels != IGNORED).sum())
        nats += float(compute_loss(model, batch, kernels)) * count
        pieces += count
    model.train()
    return {"nats_per_piece": nats / pieces, "bits_per_character": nats / characters / math.log(2)}


class Pretraining:
    """The state of a run: model, optimisers, average of the weights, progress; it trains, saves and loads itself."""

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        settings: PretrainSettings,
        machine: Machine = PLAIN_CPU,
        compiled: bool = False,
    ) -> None:
        """compiled: see ``Kernels.compile``."""
        self.model = model.to(machine.device)
        self.settings = settings
        self.machine = machine
        self.kernels = Kernels.compile(machine.dtype) if compiled else Kernels(dtype=machine.dtype)
        self.optimizers = build_optimizers(
            model, settings.matrix_lr, settings.embedding_lr, settings.weight_decay, machine.dtype
        )
        self.average = WeightAverage(model)
        self.progress = Progress()

    def step(self, batch: Batch) -> float:
        """Learn from one batch; return its loss in nats per target token."""
        started = time.perf_counter()
        factor = schedule_factor(self.progress.tokens, self.settings)
        loss = compute_loss(self.model, batch, self.kernels)
        loss.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model, self.settings.average)
        self.progress.step += 1
        self.progress.tokens += batch.tokens
        self.progress.seconds += time.perf_counter() - started
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"A perda deixou de ser um número no passo {self.progress.step}; apague a pasta e recomece com um "
                "pretrain.matrix_lr menor."
            )
        return value

    def run(self, corpus: PretrainingCorpus, objective: Objective, after_step: Callable[[float], bool]) -> None:
        """Train until ``total_tokens``, or until ``after_step(loss)`` returns True."""
        self.model.train()
        while self.progress.tokens < self.settings.total_tokens:
            batches = draw_chunk(corpus, objective, self.settings, self.progress, self.machine.rows)
            for batch in batches[self.progress.batch :]:
                loss = self.step(batch)
                self.progress.batch += 1
                if after_step(loss) or self.progress.tokens >= self.settings.total_tokens:
                    return
            self.progress.chunk += 1
            self.progress.batch = 0
            self.progress.chunk_tokens = self.progress.tokens

    def save(self, path: Path) -> None:
        """Write the checkpoint aside and rename it: a cut never leaves half a file under ``path``."""
        aside = path.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.weights,
            "average_updates": self.average.updates,
            "progress": asdict(self.progress),
            "machine": asdict(self.machine),
        }
        torch.save(state, aside)
        aside.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. Step sizes follow the settings, not the checkpoint.

        Raises:
            TrainingError: the file is no checkpoint.
        """
        _refuse_other_files(path)
        state = torch.load(path, map_location=self.machine.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            bases = [group["base_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                group["base_lr"] = base
        self.average.weights = state["average"]
        self.average.updates = state["average_updates"]
        self.progress = Progress(**state["progress"])


def read_machine(path: Path, device: str) -> Machine:
    """What the checkpoint at ``path`` was computed with, to go on with it on ``device``.

    Raises:
        TrainingError: the file is no checkpoint.
    """
    _refuse_other_files(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return replace(Machine(**state["machine"]), device=device)


def _refuse_other_files(path: Path) -> None:
    if not is_zipfile(path):  # what torch writes is one, and one that was cut short is not
        raise TrainingError(
            f"O checkpoint {path} não pôde ser lido; apague a pasta para recomeçar, ou indique outra em "
            "pretrain.output."
        )
