"""The texts of pre-training as token documents: reading, splitting at sentence ends, holding out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")
_WEIGHED = re.compile(r"(\d+(?:\.\d+)?)\t(.+)")
_SHORTEST = 6  # tokens: from there on there is something to continue
HELD_OUT_PER_MILLE = 8
HELD_OUT_DOMAIN_PER_MILLE = 40


@dataclass(frozen=True)
class PretrainingCorpus:
    """Documents to learn from and documents held out, general ones and those of the domain.

    A document is a text of at most ``max_tokens`` pieces, int32, without end marker.
    """

    general: list[np.ndarray]
    weights: np.ndarray
    """One for each general document: how often it is met."""
    general_held_out: list[np.ndarray]
    domain: list[np.ndarray]
    domain_held_out: list[np.ndarray]


def find_texts(folder: Path) -> list[Path]:
    """The ``*.txt`` of a corpus, in order.

    Raises:
        DataError: there is no such folder, or no text in it.
    """
    if not folder.is_dir():
        raise DataError(
            f"A pasta do corpus {folder} (pretrain.corpus) não existe; indique a pasta onde estão os arquivos .txt."
        )
    texts = [path for path in sorted(folder.glob("*.txt")) if path.is_file()]
    if not texts:
        raise DataError(
            f"A pasta do corpus {folder} (pretrain.corpus) não tem nenhum .txt; ponha ali os textos, um parágrafo por "
            "linha."
        )
    return texts


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text that hold something.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} não é um texto UTF-8 (byte {error.start + 1}); salve-o em UTF-8.") from None
    yield from (line.strip() for line in text.splitlines() if line.strip())


def read_paragraphs(files: list[Path], weights: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield (paragraph, weight) of every file; one without a weight of its own counts 1.

    A weight is the number of times that a paragraph is met in one pass over the corpus (0.5: every second pass). A
    line may begin with the weight of its paragraph and a tab; it is multiplied by its file's.
    """
    for path in files:
        weight = weights.get(path.stem, 1.0)
        for line in read_lines(path):
            if weighed := _WEIGHED.fullmatch(line):
                yield weighed[2], weight * float(weighed[1])
            else:
                yield line, weight


def is_held_out(text: str, per_mille: int = HELD_OUT_PER_MILLE) -> bool:
    """Tell by its checksum whether ``text`` is kept for validation: the same answer in every run."""
    return zlib.crc32(text.encode()) % 1000 < per_mille


def split_text(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    """Split ``text`` at sentence ends into parts of at most ``max_tokens`` pieces; longer sentences are left out."""
    parts: list[str] = []
    length = 0
    for sentence in _SENTENCE_END.split(text):
        size = count_tokens(sentence)
        if size > max_tokens:
            length = max_tokens
            continue
        if parts and length + size <= max_tokens:
            parts[-1] += " " + sentence
            length += size
        else:
            parts.append(sentence)
            length = size
    return parts


def load_corpus(
    files: list[Path],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    weights: Mapping[str, float],
    domain: list[str],
) -> PretrainingCorpus:
    """Read and tokenize the corpus and the domain's texts; what has no sensible length is left out.

    Raises:
        DataError: nothing is left to learn from, or nothing to validate on.
    """

    def encode(text: str) -> np.ndarray:
        return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def documents(text: str) -> Iterator[np.ndarray]:
        parts = [text] if len(text) < 2 * max_tokens else split_text(text, lambda part: len(encode(part)), max_tokens)
        for tokens in map(encode, parts):
            if _SHORTEST <= len(tokens) <= max_tokens:
                yield tokens

    train, held_out, chances = [], [], []
    for paragraph, weight in read_paragraphs(files, weights):
        kept_out = is_held_out(paragraph)
        for document in documents(paragraph):
            if kept_out:
                held_out.append(document)
            else:
                train.append(document)
                chances.append(weight)
    if not any(chances) or not held_out:
        raise DataError(
            f"O corpus em {files[0].parent} é pequeno demais (trechos para aprender: {len(train)}, para validar: "
            f"{len(held_out)}); junte mais texto: alguns milhares de parágrafos, um por linha."
        )
    domain_train, domain_held_out = [], []
    for paragraph in domain:
        target = domain_held_out if is_held_out(paragraph, HELD_OUT_DOMAIN_PER_MILLE) else domain_train
        target.extend(documents(paragraph))
    return PretrainingCorpus(train, np.asarray(chances, dtype=np.float32), held_out, domain_train, domain_held_out)
