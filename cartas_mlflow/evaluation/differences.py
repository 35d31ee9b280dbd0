"""What differs, word by word, between texts that answer the same prompt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

_TOKEN = re.compile(r"\w+(?:-\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Piece:
    """A stretch of a text. ``differs``: these words are not, in this place, in the text that it is held against."""

    text: str
    differs: bool


def mark_differences(texts: Sequence[str]) -> list[tuple[Piece, ...]]:
    """Each text in pieces; put together again they are the text.

    The first one is held against all the others: what is marked in it stands in none of them. Each of the others is
    held against the first. Case and accents count; white space does not.
    """
    first, *others = [[match.span() for match in _TOKEN.finditer(text)] for text in texts]
    words = [texts[0][start:end] for start, end in first]
    kept_anywhere: set[int] = set()
    marked = []
    for text, spans in zip(texts[1:], others, strict=True):
        blocks = difflib.SequenceMatcher(
            None, words, [text[start:end] for start, end in spans], autojunk=False
        ).get_matching_blocks()
        kept_anywhere |= {block.a + step for block in blocks for step in range(block.size)}
        marked.append(_pieces(text, spans, {block.b + step for block in blocks for step in range(block.size)}))
    return [_pieces(texts[0], first, kept_anywhere if others else set(range(len(first)))), *marked]


def _pieces(text: str, spans: Sequence[tuple[int, int]], kept: set[int]) -> tuple[Piece, ...]:
    """Neighbouring tokens of one kind make one piece; the white space between two kinds belongs to neither."""
    pieces, place = [], 0
    for is_kept, group in groupby(range(len(spans)), key=kept.__contains__):
        tokens = list(group)
        start, end = spans[tokens[0]][0], spans[tokens[-1]][1]
        if start > place:
            pieces.append(Piece(text[place:start], False))
        pieces.append(Piece(text[start:end], not is_kept))
        place = end
    if place < len(text):
        pieces.append(Piece(text[place:], False))
    return tuple(pieces)
