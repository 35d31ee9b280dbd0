"""What the objectives must know of words: where one begins, which are small, how one looks in the other case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SMALL = """
a o as os e ou de da do das dos em na no nas nos um uma uns umas com sem por para pela pelo pelas pelos que se ao aos
à às é não mais mas como já só seu sua seus suas você vocês ele ela eles elas lhe isso este esta esse essa foi era
"""
SMALL_WORDS = tuple(_SMALL.split())
"""They say nothing of what a text is about, and stand between the words that do."""
MARKS = (",", ":")


@dataclass(frozen=True)
class Lexicon:
    """The words of a vocabulary.

    starts_word: bool array (vocabulary size): whether a piece begins a word.
    letters: int array (vocabulary size): number of letters of a piece.
    small_words: pieces of each small word, as it is and with a capital letter.
    marks: ids of the marks that may follow a word.
    other_case: from a word's pieces to those of the word whose first letter is in the other case.
    """

    starts_word: np.ndarray
    letters: np.ndarray
    small_words: tuple[np.ndarray, ...] = ()
    marks: tuple[int, ...] = ()
    other_case: Callable[[np.ndarray], np.ndarray] = np.asarray

    def split(self, tokens: np.ndarray) -> list[np.ndarray]:
        """The words of a text, each with the marks that follow it."""
        starts = np.flatnonzero(self.starts_word[tokens])
        ends = np.append(starts[1:], len(tokens))
        return [tokens[a:b] for a, b in zip(starts, ends, strict=True)]

    def keywords(self, tokens: np.ndarray) -> list[np.ndarray]:
        """The words of a text that say what it is about, without marks: three letters or more, none of the small."""
        bare = (word[: np.flatnonzero(self.letters[word]).max(initial=-1) + 1] for word in self.split(tokens))
        return [word for word in bare if self.letters[word].sum() > 2 and tuple(word.tolist()) not in self._small]

    @cached_property
    def _small(self) -> set[tuple[int, ...]]:
        return {tuple(word.tolist()) for word in self.small_words}


def describe_words(tokenizer: PreTrainedTokenizerBase, rows: int) -> Lexicon:
    """Return the lexicon of a SentencePiece tokenizer with ``rows`` embedding rows."""
    starts_word, letters = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=np.int64)
    for piece, index in tokenizer.get_vocab().items():
        starts_word[index] = piece.startswith("▁")
        letters[index] = sum(char.isalpha() for char in piece)

    def encode(text: str) -> np.ndarray:
        return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)

    @cache
    def swapped(word: tuple[int, ...]) -> np.ndarray:
        text = tokenizer.decode(word)
        return encode(text[:1].swapcase() + text[1:])

    return Lexicon(
        starts_word,
        letters,
        small_words=tuple(encode(form) for word in SMALL_WORDS for form in (word, word.capitalize())),
        marks=tuple(tokenizer.convert_tokens_to_ids(mark) for mark in MARKS),
        other_case=lambda word: swapped(tuple(word.tolist())),
    )
