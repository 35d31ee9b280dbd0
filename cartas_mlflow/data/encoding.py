"""Texts -> token ids; those of a large table stand in a file that the next training finds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.data.tokens import Tokens
from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LARGE = 20_000
"""So many texts and more go through a file."""
_CHUNK = 5_000
_COLUMNS = ["input_ids", "attention_mask", "labels", "length"]
_FORMAT = 1
"""Part of a file's name: a change of what is in it makes new ones."""


@dataclass(frozen=True)
class EncodedTexts:
    """``table``: input_ids, attention_mask, labels (int lists, not padded), length (int: the longer side), and what
    was lost of each pair: ``truncated``, ``unknown``."""

    table: pyarrow.Table
    file: Path | None = None
    """What the table is mapped from, in Arrow's stream format; None: it stands in the memory."""

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def lengths(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each prompt, and of each target."""
        import pyarrow.compute

        inputs, labels = (pyarrow.compute.list_value_length(self.table[name]) for name in ("input_ids", "labels"))
        return inputs.to_numpy(), labels.to_numpy()

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest target."""
        inputs, labels = self.lengths
        return int(inputs.max()), int(labels.max())

    @cached_property
    def truncated(self) -> int:
        """Texts cut at the maximum length, prompts and targets together."""
        return self._sum("truncated")

    @cached_property
    def unknown(self) -> int:
        """Tokens that the vocabulary does not know, prompts and targets together."""
        return self._sum("unknown")

    @cached_property
    def dataset(self) -> Dataset:
        """The columns as a trainer takes them; made when one asks, since the library takes its time to import."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        whole = Dataset.from_file(str(self.file)) if self.file else Dataset(InMemoryTable(self.table))
        return whole.select_columns(_COLUMNS)

    def _sum(self, column: str) -> int:
        import pyarrow.compute

        return int(pyarrow.compute.sum(self.table[column]).as_py() or 0)


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
    import pyarrow

    if len(targets) < LARGE:
        batches = list(_encode(tokenizer, prompts, targets, max_length))
        return EncodedTexts(pyarrow.Table.from_batches(batches, _schema()))
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "cartas_mlflow"
    file = folder / f"{_fingerprint(tokenizer, prompts, targets, max_length)}.arrow"
    try:
        return EncodedTexts(_map(file), file)
    except (pyarrow.ArrowInvalid, OSError):  # not there, or not whole
        pass
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with pyarrow.OSFile(str(part), "wb") as sink, pyarrow.ipc.new_stream(sink, _schema()) as writer:
            for batch in _encode(tokenizer, prompts, targets, max_length):
                writer.write_batch(batch)
        part.replace(file)
        return EncodedTexts(_map(file), file)
    except OSError as error:
        raise DataError(
            f"Os textos codificados não puderam ser gravados em {folder} ({error.strerror}); libere espaço, ou indique "
            "outra pasta na variável HF_DATASETS_CACHE."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], max_length: int
) -> Iterator[pyarrow.RecordBatch]:
    import numpy as np
    import pyarrow

    tokenize = Tokens(tokenizer)
    room = max_length - len(tokenize.ending)
    for start in range(0, len(targets), _CHUNK):
        pairs = [tokenize(side[start : start + _CHUNK]) for side in (prompts, targets)]
        whole = np.array([[len(ids) for ids in side] for side in pairs])
        sides = [[ids if len(ids) <= max_length else ids[:room] + tokenize.ending for ids in side] for side in pairs]
        unknown = [sum(ids.count(tokenizer.unk_token_id) for ids in pair) for pair in zip(*sides, strict=True)]
        inputs, labels = (pyarrow.array(side, pyarrow.list_(pyarrow.int32())) for side in sides)
        mask = pyarrow.ListArray.from_arrays(inputs.offsets, np.ones(len(inputs.values), np.int8))
        length = np.minimum(whole, max_length).max(axis=0).astype(np.int32)
        truncated = (whole > max_length).sum(axis=0).astype(np.int8)
        yield pyarrow.record_batch([inputs, mask, labels, length, truncated, np.int32(unknown)], schema=_schema())


def _schema() -> pyarrow.Schema:
    import pyarrow

    ids, number = pyarrow.list_(pyarrow.int32()), pyarrow.int32()
    columns = dict(zip(_COLUMNS, (ids, pyarrow.list_(pyarrow.int8()), ids, number), strict=True))
    return pyarrow.schema({**columns, "truncated": pyarrow.int8(), "unknown": number})


def _map(file: Path) -> pyarrow.Table:
    import pyarrow

    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()


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
