"""Texts -> token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedTexts:
    """``columns``: input_ids, attention_mask, labels (int lists, not padded), length (int: the longer side)."""

    columns: Mapping[str, Sequence[Any]]
    truncated: int
    """Texts cut at the maximum length, prompts and targets together."""
    unknown: int
    """Tokens that the vocabulary does not know, prompts and targets together."""
    longest: tuple[int, int]
    """Tokens of the longest prompt and of the longest target."""

    def __len__(self) -> int:
        return len(self.columns["length"])

    @cached_property
    def dataset(self) -> Dataset:
        """The columns as a trainer takes them; made when one asks, since the library takes its time to import."""
        from datasets import Dataset

        return Dataset.from_dict(dict(self.columns))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> EncodedTexts:
    """Tokenise prompts and targets without padding (batches are padded to their own longest text).

    Args:
        max_length: limit of both sides in tokens, ``</s>`` included.
    """
    full = tokenizer(list(prompts)), tokenizer(text_target=list(targets))
    truncated = sum(len(ids) > max_length for side in full for ids in side["input_ids"])
    inputs = tokenizer(list(prompts), truncation=True, max_length=max_length)
    labels = tokenizer(text_target=list(targets), truncation=True, max_length=max_length)["input_ids"]
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in (*inputs["input_ids"], *labels))
    columns = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "labels": labels,
        "length": [max(len(a), len(b)) for a, b in zip(inputs["input_ids"], labels, strict=True)],
    }
    longest = max(map(len, inputs["input_ids"])), max(map(len, labels))
    return EncodedTexts(columns, truncated, unknown, longest)


def unknown_characters(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> dict[str, list[int]]:
    """Characters that the vocabulary does not have -> the rows of the texts that they stand in."""
    unknown = tokenizer.unk_token_id
    characters = sorted(set("".join(texts)))
    lost = [c for c in characters if unknown in tokenizer(c, add_special_tokens=False)["input_ids"]]
    return {character: [row for row, text in enumerate(texts) if character in text] for character in lost}
