"""Train a SentencePiece vocabulary and write it as a tokenizer folder that ``AutoTokenizer`` loads as T5's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cartas_mlflow.errors import SettingError

SENTINELS = 100
_REQUIRED_CHARACTERS = "ÁÀÂÃÉÊÍÓÔÕÚÇáàâãéêíóôõúç"


def train_vocabulary(texts: Iterable[str], folder: Path, size: int) -> None:
    """Write ``spiece.model``, ``tokenizer.json`` and ``tokenizer_config.json`` into ``folder``.

    texts: one paragraph each. size: pieces of the unigram model, special pieces included (pad 0, eos 1, unk 2); the
    tokenizer has 100 sentinels more. The accented letters of Portuguese are in the vocabulary whatever the texts hold.

    Raises:
        SettingError: the texts do not give so many pieces, or so few pieces do not hold the texts' characters.
    """
    import sentencepiece
    from transformers import AutoTokenizer, T5Config

    folder.mkdir(parents=True, exist_ok=True)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=str(folder / "spiece"),
            vocab_size=size,
            model_type="unigram",
            character_coverage=1.0,
            required_chars=_REQUIRED_CHARACTERS,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            normalization_rule_name="nmt_nfkc",
            hard_vocab_limit=False,
            minloglevel=2,
        )
    except RuntimeError:
        raise SettingError(
            f"pretrain.vocabulary={size} é pouco até para os caracteres deste corpus; use um vocabulário maior."
        ) from None
    found = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size()
    if found < size:
        raise SettingError(
            f"pretrain.vocabulary={size} é mais do que este corpus permite; use pretrain.vocabulary={found} ou menos, "
            "ou junte mais texto."
        )
    T5Config(vocab_size=padded_vocabulary_size(size)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)


def padded_vocabulary_size(size: int) -> int:
    """Return the embedding rows for a vocabulary of ``size`` pieces: the sentinels added, rounded up to 128."""
    return -(-(size + SENTINELS) // 128) * 128
