"""Texts -> token ids, as the tokenizer gives them; of plain texts each word is asked for once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cartas_mlflow.data.cells import is_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEMBERED = 200_000
"""Words."""


class Tokens:
    """T5's tokenizers cut a text at its white space first and look at each piece for itself, so that the ids of a text
    are those of its words: where the tokenizer says that it works so, and a text has no sign that it could take for a
    special token or join over a space, the ids are put together from words. Everything else goes to the tokenizer.

    ``ending``: what stands at the end of every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._words: dict[str, list[int]] | None = {} if _cuts_at_white_space(tokenizer) else None
        self.ending: list[int] = tokenizer("")["input_ids"]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, its ending included, however long."""
        plain = [self._words is not None and is_plain(text) and "<" not in text for text in texts]
        known = self._ask_for({word for text in itertools.compress(texts, plain) for word in text.split()})
        others = [text for text, by_words in zip(texts, plain, strict=True) if not by_words]
        whole = iter(self._tokenizer(others)["input_ids"] if others else ())
        return [
            [*itertools.chain.from_iterable(map(known.__getitem__, text.split())), *self.ending]
            if by_words
            else next(whole)
            for text, by_words in zip(texts, plain, strict=True)
        ]

    def _ask_for(self, words: set[str]) -> dict[str, list[int]]:
        known = self._words or {}
        if len(known) > _REMEMBERED:
            known.clear()
        if new := sorted(words - known.keys()):
            ids = self._tokenizer(new, add_special_tokens=False)["input_ids"]
            known |= zip(new, ids, strict=True)
            self._words = known
        return known


def _cuts_at_white_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is white space first, then a mark before each word; and nothing but the normaliser before."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = (pipeline["pre_tokenizer"] or {}).get("pretokenizers", [])
    normalizer = (pipeline["normalizer"] or {"type": "Precompiled"})["type"]
    return (
        normalizer == "Precompiled"
        and [step["type"] for step in steps] == ["WhitespaceSplit", "Metaspace"]
        and steps[1]["prepend_scheme"] == "always"
        and all("<" in token["content"] for token in pipeline["added_tokens"])
    )
