"""How likely a text is under a prompt; and ``prompt_fit``: whether the model hears what is asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForSeq2Seq

from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL
from cartas_mlflow.modeling.generation import SMALLER_EVALUATION
from cartas_mlflow.modeling.memory import in_pieces

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LENGTHS = 8
"""Batches are padded to multiples of it: a CPU keeps a bfloat16 kernel for each shape that it meets (benchmarks/
bfloat16_memory.py), and a GPU's tensor cores want as much."""
LOSS_BATCH = 16
"""Texts per forward pass of the validation loss, at most: 70 at once take 1.4 to 1.6 times as long on a CPU (with 9.4
and 222.9 million parameters) and a GiB more for their logits. Generation, which keeps none, likes larger batches."""
PASS = ("texto por vez na medida do pedido", "textos por vez na medida do pedido")


def reading_collator(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | PeftModel) -> DataCollatorForSeq2Seq:
    """Pads prompts and targets to the longest of the batch, each for itself, and on to a multiple of ``LENGTHS``."""
    return DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=IGNORED_LABEL, pad_to_multiple_of=LENGTHS)


def prompt_fit(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    prompts: Sequence[str],
    rivals: Sequence[Sequence[str]],
    *,
    batch_size: int,
    max_length: int,
) -> float:
    """Share of the texts that are likelier under their own prompt than under every rival of it, 0 to 1.

    Chance is about 1 / (1 + rivals of a text). Teacher-forced, in float32. A text is out at the first rival that does
    as well, so the rivals are tried in rounds of 1, 2, 4, … for the texts that are left: a model that hears nothing is
    soon found out, and one that hears well has paid for the proof.

    Args:
        rivals: for each text the prompts that ask for something else; none for a text counts as a text that fits.
        batch_size: texts per forward pass.
        max_length: limit of prompt and text in tokens, ``</s>`` included.

    Raises:
        ValueError: no texts, or not a prompt and a list of rivals for each.
    """
    if not texts or not len(texts) == len(prompts) == len(rivals):
        raise ValueError(f"{len(texts)} texts, {len(prompts)} prompts, {len(rivals)} lists of rivals")

    def likelihoods(pairs: Sequence[tuple[str, str]]) -> list[float]:
        return log_likelihoods(model, tokenizer, pairs, batch_size=batch_size, max_length=max_length)

    own = likelihoods(list(zip(prompts, texts, strict=True)))
    left, tried, size = list(range(len(texts))), 0, 1
    while pending := [index for index in left if len(rivals[index]) > tried]:
        round_pairs = [(index, prompt) for index in pending for prompt in rivals[index][tried : tried + size]]
        found = likelihoods([(prompt, texts[index]) for index, prompt in round_pairs])
        beaten = {index for (index, _), value in zip(round_pairs, found, strict=True) if value >= own[index]}
        left = [index for index in left if index not in beaten]
        tried, size = tried + size, 2 * size
    return len(left) / len(texts)


def bits_per_character(
    tokenizer: PreTrainedTokenizerBase,
    nats: Sequence[float],
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    max_length: int,
) -> list[float]:
    """-log2 p(text | prompt) over the characters of each text, which models of different vocabularies share.

    Args:
        nats: -ln p of each text, end marker included.
        tokens: of each text; one that was cut at ``max_length`` has the characters that are left of it.
    """

    def characters(text: str, ids: Sequence[int]) -> int:
        return len(text if len(ids) < max_length else tokenizer.decode(ids, skip_special_tokens=True))

    return [
        value / math.log(2) / max(1, characters(text, ids))
        for value, text, ids in zip(nats, texts, tokens, strict=True)
    ]


def text_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the target tokens of each text: nats, float32, [texts].

    logits [texts, tokens, vocabulary], labels [texts, tokens]; labels of -100 do not count.
    """
    each = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none")
    return each.view(labels.shape).sum(dim=1)


def log_likelihoods(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_size: int,
    max_length: int,
) -> list[float]:
    """log p(text | prompt) in nats, end marker included, of each (prompt, text), in their order."""
    limits = {"truncation": True, "max_length": max_length}
    asked = tokenizer([prompt for prompt, _ in pairs], **limits)["input_ids"]
    answers = tokenizer(text_target=[text for _, text in pairs], **limits)["input_ids"]
    order = sorted(range(len(pairs)), key=lambda index: (len(answers[index]), len(asked[index])))
    rows = [{"input_ids": prompt, "labels": text} for prompt, text in zip(asked, answers, strict=True)]
    return [-value for value in text_nats(model, tokenizer, rows, order, batch_size, PASS)]


def text_nats(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Sequence[int]]] | Dataset,
    order: Sequence[int],
    batch_size: int,
    words: tuple[str, str],
) -> list[float]:
    """Cross-entropy summed over the target tokens of each text (nats), in the order of the rows.

    Always in float32, on the model inside the PEFT wrapper: once it has trained, the wrapper's ``forward`` computes in
    the training's precision, and the same adapter would have two losses.

    Args:
        rows: input_ids and labels of each text, perhaps an attention_mask; not padded.
        order: the rows as they are batched, those of like length side by side.
        words: what is done (one at a time, many at a time), for the notice where the memory does not suffice.
    """
    from peft import PeftModel

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    collator = reading_collator(tokenizer, model)
    nats, was_training = [0.0] * len(order), model.training

    def measure(start: int, stop: int) -> tuple[Sequence[int], list[float]]:
        batch = collator([rows[index] for index in order[start:stop]]).to(model.device)
        labels = batch.pop("labels")
        return order[start:stop], text_losses(inner(**batch).logits, labels).tolist()

    model.eval()
    with torch.no_grad():
        for measured, losses in in_pieces(len(order), batch_size, measure, words, SMALLER_EVALUATION):
            for index, loss in zip(measured, losses, strict=True):
                nats[index] = loss
    model.train(was_training)
    return nats
