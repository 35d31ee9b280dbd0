"""An evaluation that really generates: loss over all target tokens, texts, and the metrics of the texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cartas_mlflow.evaluation.confidence import BITS, Answers
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.engine import evaluation_engine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import LOSS_BATCH, bits_per_character, prompt_fit, text_nats
from cartas_mlflow.modeling.precision import exact_products
from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_FIT = "prompt_fit"
MODEL_INPUTS = ("input_ids", "attention_mask", "labels")
PASS = ("texto por vez na perda de validação", "textos por vez na perda de validação")


@dataclass(frozen=True)
class ValidationSet:
    """What an evaluation needs. ``encoded`` has the columns of :class:`~cartas_mlflow.data.encoding.EncodedTexts`."""

    prompts: Sequence[str]
    encoded: Dataset
    texts: Sequence[str]
    """The real readings."""
    rivals: Sequence[Sequence[str]] = ()
    """For each prompt the same with each other card; none where there is nothing to tell apart."""


@dataclass(frozen=True)
class Evaluation:
    """``answers``: in the order of the prompts; ``metrics``: without prefix, ``loss`` in nats per token."""

    metrics: dict[str, float]
    answers: Answers
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
        encoded = validation.encoded.select(rows)
        nats = validation_losses(model, tokenizer, encoded, min(batch_size, LOSS_BATCH))
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
        fits = dict(zip(fits, processes.summed(*fits.values()), strict=True))
        own, nats = processes.collected(own, total), processes.collected(nats, total)
    targets = validation.encoded["labels"]
    answers = Answers(tuple(own), tuple(bits_per_character(tokenizer, nats, validation.texts, targets, limit)))
    metrics = {
        "loss": sum(nats) / sum(map(len, targets)),
        BITS: answers.bits_over(validation.texts),
        **score(own),
        **{name: fit / total for name, fit in fits.items()},
    }
    return Evaluation(metrics, answers, time.perf_counter() - started)


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
    nats = validation_losses(model, tokenizer, encoded, batch_size)
    return sum(nats) / sum(map(len, encoded["labels"]))


def validation_losses(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset, batch_size: int
) -> list[float]:
    """Cross-entropy summed over the target tokens of each text (nats)."""
    lengths = list(encoded["length"])
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return text_nats(model, tokenizer, encoded.select_columns(list(MODEL_INPUTS)), order, batch_size, PASS)
