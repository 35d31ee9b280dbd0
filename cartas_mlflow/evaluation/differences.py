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
        kept = _kept(words, [text[start:end] for start, end in spans])
        kept_anywhere |= {place for place, _ in kept}
        marked.append(_pieces(text, spans, {place for _, place in kept}))
    return [_pieces(texts[0], first, kept_anywhere if others else set(range(len(first)))), *marked]


def _kept(words: Sequence[str], others: Sequence[str]) -> set[tuple[int, int]]:
    """Places (in the one, in the other) of the words that stand in both.

    An article or a comma between long stretches that differ stands in both by chance, and leaves the marked text in
    shreds: what has at most half the letters of either neighbour counts as different (after the semantic clean-up of
    Google's diff-match-patch).
    """
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    codes = [
        (tag == "equal", start, end, other, max(_length(words[start:end]), _length(others[other:other_end])))
        for tag, start, end, other, other_end in matcher.get_opcodes()
    ]
    kept = set()
    before = 0
    for number, (equal, start, end, other, length) in enumerate(codes):
        after = codes[number + 1][-1] if number + 1 < len(codes) else 0
        if equal and 2 * length > min(before, after):
            kept |= {(start + step, other + step) for step in range(end - start)}
            before = 0
        else:
            before += length
    return kept


def _length(words: Sequence[str]) -> int:
    return sum(map(len, words))


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
