"""Compare bases on the same held-out prose, whatever their vocabularies: bits per character of continuing it.

    python benchmarks/held_out_prose.py CORPUS BASE [BASE ...] [--count 1200]

CORPUS: a folder of ``*.txt``; its paragraphs held out by checksum are cut into pieces, each piece into what is given
(its first quarter) and what is scored, by the vocabulary of the first base. The text is the same for all bases.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import numpy as np

from cartas_mlflow.config import find_project_file
from cartas_mlflow.modeling.loading import load_tokenizer
from cartas_mlflow.pretraining.corpus import find_texts, load_corpus
from cartas_mlflow.pretraining.loss import compute_loss
from cartas_mlflow.pretraining.objective import EOS, IGNORED, PackShape, make_batches
from cartas_mlflow.pretraining.words import describe_words

LONGEST = 96
ROOM = PackShape(rows=8, input_length=256, target_length=384)
"""Another vocabulary may need more pieces for a piece of text than the first one."""


def main() -> None:
    """Print one line a base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("bases", nargs="+")
    parser.add_argument("--count", type=int, default=1200)
    options = parser.parse_args()
    pairs = cut_pairs(options.corpus, options.bases[0], options.count)
    print("| base | bits per character |\n| --- | ---: |")
    for base in options.bases:
        print(f"| {base} | {score_pairs(base, pairs):.4f} |", flush=True)


def cut_pairs(corpus: Path, base: str, count: int) -> list[tuple[str, str]]:
    """Return (given, scored) texts of the held-out paragraphs; the same ones as ``pretrain`` measures on."""
    tokenizer = load_tokenizer(find_project_file(base))
    documents = load_corpus(find_texts(corpus), tokenizer, LONGEST, {}, []).general_held_out
    random.Random(0).shuffle(documents)
    lexicon = describe_words(tokenizer, max(tokenizer.get_vocab().values()) + 1)
    pairs = []
    for document in documents[:count]:
        cut = max(2, len(document) // 4)
        while cut < len(document) - 1 and not lexicon.starts_word[document[cut]]:
            cut += 1
        pairs.append((tokenizer.decode(document[:cut]), tokenizer.decode(document[cut:])))
    return pairs


def score_pairs(base: str, pairs: list[tuple[str, str]]) -> float:
    """Return bits per character, end marker included."""
    import torch
    from transformers import T5ForConditionalGeneration

    folder = find_project_file(base)
    tokenizer = load_tokenizer(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def encode(text: str) -> np.ndarray:
        return np.append(np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"]), EOS)

    nats = 0.0
    with torch.no_grad():
        for batch in make_batches([(encode(given), encode(scored)) for given, scored in pairs], ROOM, None):
            nats += float(compute_loss(model, batch)) * int((batch.labels != IGNORED).sum())
    return nats / sum(len(scored) for _, scored in pairs) / math.log(2)


if __name__ == "__main__":
    main()
