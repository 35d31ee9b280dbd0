"""ROUGE, BLEU and chrF that read Portuguese.

Text is normalised to Unicode NFC and lower case; words are runs of letters and digits of any script, hyphens inside
words kept; there is no stemmer. (ROUGE's stock tokenizer deletes every accented letter and its stemmer is English.)
All values are between 0 and 1.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
METRIC_NAMES = (*ROUGE_TYPES, "bleu", "chrf")
_WORD = re.compile(r"\w+(?:-\w+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


def split_words(text: str) -> list[str]:
    """Lower-case words: ``"Coração e ação!"`` -> ``["coração", "e", "ação"]``."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def normalise(text: str) -> str:
    """Unicode NFC: ``é`` is one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def score_texts(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus metrics of generated texts against the real ones, by name (:data:`METRIC_NAMES`), each 0 to 1.

    ROUGE-N/L: F1 of each pair, averaged. BLEU: corpus BLEU-4 of sacrebleu. chrF: corpus chrF2 of sacrebleu.

    Raises:
        ValueError: different numbers of texts, or none.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    with tempfile.TemporaryDirectory() as scratch:
        # The library makes its cache folder even where it keeps everything in memory; the home may be read-only.
        metric = _metric_class()(keep_in_memory=True, cache_dir=scratch)
        results = metric.compute(predictions=list(predictions), references=list(references))
    return {name: float(results[name]) for name in METRIC_NAMES}


def rouge_f1(kind: str, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE F1 of each pair, 0 to 1. ``kind``: one of :data:`ROUGE_TYPES`, for texts of one sentence a line."""
    scorer = _rouge_scorer()
    pairs = zip(predictions, references, strict=True)
    return [scorer.score(reference, prediction)[kind].fmeasure for prediction, reference in pairs]


def chrf_of_pairs(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF2 of each pair by itself, 0 to 1."""
    import sacrebleu

    chrf = sacrebleu.CHRF(lowercase=True)
    pairs = zip(predictions, references, strict=True)
    return [chrf.sentence_score(normalise(text), [normalise(real)]).score / 100 for text, real in pairs]


def metric_signatures() -> dict[str, str]:
    """What exactly was computed, in the tools' own notation, to be kept with a run."""
    import sacrebleu

    bleu, chrf = sacrebleu.BLEU(lowercase=True), sacrebleu.CHRF(lowercase=True)
    bleu.corpus_score(["a"], [["a"]])
    chrf.corpus_score(["a"], [["a"]])
    return {
        "bleu": str(bleu.get_signature()),
        "chrf": str(chrf.get_signature()),
        "rouge": "words:unicode|case:lc|norm:NFC|stemmer:no|F1|mean",
    }


@cache
def _metric_class() -> Any:
    import datasets
    import evaluate
    import sacrebleu

    class ReadingMetrics(evaluate.Metric):
        """ROUGE, BLEU and chrF in one local metric: nothing is fetched from a hub."""

        def _info(self) -> evaluate.MetricInfo:
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description=str(__doc__),
                citation="ROUGE: Lin, 2004. BLEU: Papineni et al., 2002. chrF: Popović, 2015. sacrebleu: Post, 2018.",
                inputs_description="predictions, references: one text each",
                features=datasets.Features({"predictions": text, "references": text}),
            )

        def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
            scorer = _rouge_scorer()
            pairs = [
                scorer.score(_by_sentence(reference), _by_sentence(prediction))
                for prediction, reference in zip(predictions, references, strict=True)
            ]
            results = {name: sum(pair[name].fmeasure for pair in pairs) / len(pairs) for name in ROUGE_TYPES}
            normal, streams = [normalise(text) for text in predictions], [[normalise(text) for text in references]]
            results["bleu"] = sacrebleu.BLEU(lowercase=True).corpus_score(normal, streams).score / 100
            results["chrf"] = sacrebleu.CHRF(lowercase=True).corpus_score(normal, streams).score / 100
            return results

    return ReadingMetrics


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class UnicodeWords(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return split_words(text)

    return RougeScorer(list(ROUGE_TYPES), tokenizer=UnicodeWords())


def _by_sentence(text: str) -> str:
    # rougeLsum takes one sentence a line.
    return _SENTENCE_END.sub("\n", text)
