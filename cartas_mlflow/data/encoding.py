"""Texts -> token ids; those of a large table stand in a file that the next training finds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.data.tokens import Tokens
from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LARGE = 20_000
"""So many texts and more go through a file."""
_CHUNK = 5_000
_LISTS = ("input_ids", "attention_mask", "labels")
_NUMBERS = ("length", "prompt_tokens", "target_tokens", "truncated", "unknown")
_FORMAT = 1
"""Part of a file's name: a change of what is in it makes new ones."""

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class EncodedTexts:
    """``columns``: input_ids, attention_mask, labels (int lists, not padded), length (int: the longer side), and for
    each pair prompt_tokens, target_tokens, truncated (texts that were cut, 0 to 2), unknown (tokens)."""

    columns: Columns
    file: Path | None = None
    """What they are mapped from, in Arrow's stream format; None: they stand in the memory."""

    def __len__(self) -> int:
        return len(self.columns["length"])

    @cached_property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each prompt, and of each target."""
        return self._numbers("prompt_tokens"), self._numbers("target_tokens")

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest target."""
        prompts, targets = self.lengths
        return int(prompts.max()), int(targets.max())

    @cached_property
    def truncated(self) -> int:
        """Texts cut at the maximum length, prompts and targets together."""
        return int(self._numbers("truncated").sum())

    @cached_property
    def unknown(self) -> int:
        """Tokens that the vocabulary does not know, prompts and targets together."""
        return int(self._numbers("unknown").sum())

    @cached_property
    def dataset(self) -> Dataset:
        """The columns as a trainer takes them; made when one asks, since the library takes its time to import."""
        from datasets import Dataset

        whole = Dataset.from_file(str(self.file)) if self.file else Dataset.from_dict(dict(self.columns))
        return whole.select_columns([*_LISTS, "length"])

    def _numbers(self, column: str) -> np.ndarray:
        import numpy as np

        return np.asarray(self.columns[column])


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> EncodedTexts:
    """Tokenise prompts and targets without padding (batches are padded to their own longest text).

    From 20,000 pairs on they go into a file of the ``datasets`` library's cache (``HF_DATASETS_CACHE``), named after
    all that decides on its contents, and are mapped from there: the second time nothing is tokenised.

    Args:
        max_length: limit of both sides in tokens, ``</s>`` included.

    Raises:
        DataError: the file cannot be written.
    """
    if len(targets) >= LARGE:
        return _encode_into_file(tokenizer, prompts, targets, max_length)
    pieces = list(_encode(tokenizer, prompts, targets, max_length))
    return EncodedTexts({name: [value for piece in pieces for value in piece[name]] for name in (*_LISTS, *_NUMBERS)})


def _encode_into_file(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> EncodedTexts:
    import pyarrow
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "cartas_mlflow"
    file = folder / f"{_fingerprint(tokenizer, prompts, targets, max_length)}.arrow"
    try:
        return EncodedTexts(_map(file), file)
    except (pyarrow.ArrowInvalid, OSError):  # not there, or not whole
        pass
    part = file.with_suffix(f".{os.getpid()}.part")
    number = pyarrow.int32()
    schema = pyarrow.schema({**dict.fromkeys(_LISTS, pyarrow.list_(number)), **dict.fromkeys(_NUMBERS, number)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pyarrow.OSFile(str(part), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
            for piece in _encode(tokenizer, prompts, targets, max_length):
                writer.write_batch(pyarrow.RecordBatch.from_pydict(piece, schema))
        part.replace(file)
        return EncodedTexts(_map(file), file)
    except OSError as error:
        raise DataError(
            f"Os textos codificados não puderam ser gravados em {folder} ({error.strerror}); libere espaço, ou indique "
            "outra pasta na variável HF_DATASETS_CACHE."
        ) from None
    finally:
        if part.exists():
            part.unlink()


def _map(file: Path) -> Columns:
    import pyarrow

    table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
    return dict(zip(table.column_names, table.columns, strict=True))


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> Iterator[dict[str, list[Any]]]:
    """The columns of :class:`EncodedTexts`, so many rows at a time."""
    tokenize = Tokens(tokenizer)
    room = max_length - len(tokenize.ending)
    for start in range(0, len(targets), _CHUNK):
        pairs = [tokenize(side[start : start + _CHUNK]) for side in (prompts, targets)]
        inputs, labels = (
            [ids if len(ids) <= max_length else ids[:room] + tokenize.ending for ids in side] for side in pairs
        )
        lost = tokenizer.unk_token_id
        yield {
            "input_ids": inputs,
            "attention_mask": [[1] * len(ids) for ids in inputs],
            "labels": labels,
            "length": [max(len(a), len(b)) for a, b in zip(inputs, labels, strict=True)],
            "prompt_tokens": [len(ids) for ids in inputs],
            "target_tokens": [len(ids) for ids in labels],
            "truncated": [sum(len(ids) > max_length for ids in pair) for pair in zip(*pairs, strict=True)],
            "unknown": [a.count(lost) + b.count(lost) for a, b in zip(inputs, labels, strict=True)],
        }


def _fingerprint(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> str:
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    for passing in ("truncation", "padding"):  # of its last use
        vocabulary.pop(passing, None)
    digest = hashlib.sha256(json.dumps([_FORMAT, max_length, vocabulary]).encode())
    for prompt, target in zip(prompts, targets, strict=True):
        digest.update(f"{prompt}\x1f{target}\x1e".encode())
    return digest.hexdigest()[:32]


def unknown_characters(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Characters that the vocabulary does not have, sorted."""
    unknown = tokenizer.unk_token_id
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return [c for c in sorted(characters) if unknown in tokenizer(c, add_special_tokens=False)["input_ids"]]
