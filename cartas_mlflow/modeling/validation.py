"""An evaluation that really generates: loss over all target tokens, texts, and the metrics of the texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL
from cartas_mlflow.modeling.engine import evaluation_engine
from cartas_mlflow.modeling.generation import SMALLER_EVALUATION, generate_texts
from cartas_mlflow.modeling.likelihood import prompt_fit, reading_collator
from cartas_mlflow.modeling.memory import in_pieces
from cartas_mlflow.modeling.precision import exact_products
from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_FIT = "prompt_fit"
MODEL_INPUTS = ("input_ids", "attention_mask", "labels")
PASS = ("texto por vez na perda de validação", "textos por vez na perda de validação")
LOSS_BATCH = 16
"""Texts per forward pass of the validation loss, at most: 70 at once take 1.4 to 1.6 times as long on a CPU (with 9.4
and 222.9 million parameters) and a GiB more for their logits. Generation, which keeps none, likes larger batches."""


@dataclass(frozen=True)
class ValidationSet:
    """What an evaluation needs. ``encoded`` has the columns of :class:`~cartas_mlflow.data.encoding.EncodedTexts`."""

    prompts: Sequence[str]
    encoded: Dataset
    texts: Sequence[str] = ()
    """The real readings; needed with ``rivals``."""
    rivals: Sequence[Sequence[str]] = ()
    """For each prompt the same with each other card; none where there is nothing to tell apart."""


@dataclass(frozen=True)
class Evaluation:
    """``texts``: generated, in the order of the prompts; ``metrics``: without prefix, ``loss`` in nats per token."""

    metrics: dict[str, float]
    texts: tuple[str, ...]
    seconds: float


class TokenMean:
    """Running mean of a loss over tokens. Sums may be tensors: they stay on their device until the mean is taken."""

    def __init__(self) -> None:
        self.total: float | torch.Tensor = 0.0
        self.tokens: int | torch.Tensor = 0

    def add(self, total: float | torch.Tensor, tokens: int | torch.Tensor) -> None:
        self.total, self.tokens = self.total + total, self.tokens + tokens

    def mark(self) -> tuple[float | torch.Tensor, int | torch.Tensor]:
        """What :meth:`go_back` takes, to forget what was added since."""
        return self.total, self.tokens

    def go_back(self, mark: tuple[float | torch.Tensor, int | torch.Tensor]) -> None:
        self.total, self.tokens = mark

    def take(self) -> float:
        """The mean so far, in nats per token; starts anew."""
        mean = float(self.total) / int(self.tokens) if int(self.tokens) else math.nan
        self.total, self.tokens = 0.0, 0
        return mean


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy summed over the target tokens (nats), and their number; labels of -100 do not count."""
    total = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    return total, (labels != IGNORED_LABEL).sum()


def evaluate_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    validation: ValidationSet,
    config: ExperimentConfig,
    score: Callable[[Sequence[str]], dict[str, float]],
    *,
    batch_size: int,
    on_progress: Callable[[int], None] | None = None,
    final: bool = True,
    shared: bool = False,
) -> Evaluation:
    """Teacher-forced loss, generated texts and their metrics; with rivals ``prompt_fit`` too. Exact float32 products.

    Args:
        batch_size: texts generated at once.
        final: not one of many: ``evaluation.prompt_fit=final`` wants the fit then, and the generated readings' as well.
        shared: each of the processes that train together evaluates its share of the rows; all of them get the whole.
    """
    started = time.perf_counter()
    limit, total = config.data.max_length, len(validation.prompts)
    rows = processes.share(total) if shared else range(total)
    prompts = [validation.prompts[row] for row in rows]
    with exact_products():
        losses = validation_losses(model, tokenizer, validation.encoded.select(rows), min(batch_size, LOSS_BATCH))
        own = generate_texts(
            model,
            tokenizer,
            prompts,
            config.generation,
            batch_size=batch_size,
            max_length=limit,
            engine=evaluation_engine(model, tokenizer, config),
            on_progress=on_progress,
        )
        fits = {}
        for name in wanted_fits(config, final) if validation.rivals else ():
            texts = [validation.texts[row] for row in rows] if name == PROMPT_FIT else own
            rivals = [validation.rivals[row] for row in rows]
            sizes = {"batch_size": LOSS_BATCH, "max_length": limit}
            fits[name] = prompt_fit(model, tokenizer, texts, prompts, rivals, **sizes) * len(rows) if rows else 0.0
    if shared:
        losses, fits = processes.summed(*losses), dict(zip(fits, processes.summed(*fits.values()), strict=True))
        own = processes.collected(own, total)
    metrics = {"loss": losses[0] / losses[1], **score(own), **{name: fit / total for name, fit in fits.items()}}
    return Evaluation(metrics, tuple(own), time.perf_counter() - started)


def wanted_fits(config: ExperimentConfig, final: bool) -> list[str]:
    """Which fits an evaluation measures: a reading costs up to as many forward passes as there are cards."""
    asked = config.evaluation.prompt_fit
    chooses = config.early_stopping.metric == PROMPT_FIT
    if final and asked != "none":
        return [PROMPT_FIT, f"generated_{PROMPT_FIT}"]
    return [PROMPT_FIT] if chooses or asked == "epoch" else []


def validation_loss(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset, batch_size: int
) -> float:
    """Mean cross-entropy over all target tokens (nats per token), the same whatever the batch size."""
    total, tokens = validation_losses(model, tokenizer, encoded, batch_size)
    return total / tokens


def validation_losses(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset, batch_size: int
) -> tuple[float, float]:
    """Cross-entropy summed over all target tokens (nats), and how many they are.

    Always in float32, on the model inside the PEFT wrapper: once it has trained, the wrapper's ``forward`` computes in
    the training's precision, and the same adapter would have two losses.
    """
    from peft import PeftModel

    collator = reading_collator(tokenizer, model)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    sums, was_training = [0.0, 0.0], model.training
    lengths = list(encoded["length"])
    order = sorted(range(len(lengths)), key=lengths.__getitem__)

    def batch_loss(start: int, stop: int) -> tuple[float, int]:
        rows = [encoded[index] for index in order[start:stop]]
        batch = collator([{key: row[key] for key in MODEL_INPUTS} for row in rows]).to(model.device)
        labels = batch.pop("labels")
        total, tokens = summed_loss(inner(**batch).logits, labels)
        return total.item(), int(tokens)

    model.eval()
    with torch.no_grad():
        for total, tokens in in_pieces(len(order), batch_size, batch_loss, PASS, SMALLER_EVALUATION):
            sums = [sums[0] + total, sums[1] + tokens]
    model.train(was_training)
    return sums[0], sums[1]
