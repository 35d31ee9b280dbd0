"""Turn raw strings into paragraphs worth learning from: unescape, drop markup and menus, deduplicate."""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator

MIN_CHARACTERS = 40
MAX_CHARACTERS = {"en": 1200, "pt": 1600}  # a translation may be longer than what it translates
MIN_WORDS = 7
_SHINGLE = 8  # words; two paragraphs that share half of their 8-word runs count as one

_TAG = re.compile(r"<[^<>]{1,80}>")
_JUNK = re.compile(
    r"[${}\\|@#^~=_*\[\]]|%[sdif0-9]|https?:|www\.|//|/[a-z]+/|::|->|\.\.\.\.|[^\x20-\u024f\u2010-\u2026]"
)
_MENU = re.compile(r"▸|→|>\s*[A-Z]|Ctrl|Shift\b|\bAlt\b|F\d+\b|\bURL\b|\bHTML\b")
_SENTENCE_END = re.compile(r"""(?<=[.!?])\s+(?=["'A-Z])""")
_WORD = re.compile(r"[^\W\d_]+")
_ENDINGS = '.!?…:;"”»)'
# Words without which nobody writes a sentence
_PORTUGUESE = (
    "a o as os de do da dos das em no na nos nas um uma e é que se para por com não ao à aos às você eu ele ela"
    " eles elas seu sua seus suas mas ou como mais quando muito já está são foi ser ter há isso este esta esse"
    " essa nós me te lhe meu minha pelo pela até sem sobre entre também só"
)
_ENGLISH = (
    "the of and to in is it you that he was for on are with as i his they be at one have this from or had by"
    " but not what all were we when your can said there she her my me an which their if will"
)
_FUNCTION_WORDS = {"pt": frozenset(_PORTUGUESE.split()), "en": frozenset(_ENGLISH.split())}


def clean_paragraph(text: str) -> str:
    """Return ``text`` in NFC without markup, entities and accelerator marks, white space folded."""
    text = html.unescape(_TAG.sub(" ", text))
    text = unicodedata.normalize("NFC", text).replace("\u00ad", "").replace("\u00a0", " ")
    text = re.sub(r"[\u2018\u2019]", "'", text)
    text = re.sub(r"[\u201c\u201d«»]", '"', text)
    text = re.sub(r"\s*(?:--+|—)\s*", " — ", text)
    text = re.sub(r"\.\s\.\s\.", "...", text)
    text = re.sub(r"\s+([,.;!?])", r"\1", text)
    return " ".join(text.split()).strip(" —-")


def cut_paragraph(text: str, longest: int) -> Iterator[str]:
    """Yield ``text`` in parts of at most ``longest`` characters, cut between sentences (a longer one is kept)."""
    part = ""
    for sentence in _SENTENCE_END.split(text):
        if part and len(part) + 1 + len(sentence) > longest:
            yield part
            part = ""
        part = f"{part} {sentence}" if part else sentence
    yield part


def is_prose(text: str, language: str) -> bool:
    """Tell whether ``text`` is a paragraph of running prose in ``language`` (``pt`` or ``en``)."""
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS[language] or text[-1] not in _ENDINGS:
        return False
    if _JUNK.search(text) or _MENU.search(text):
        return False
    words = [word.lower() for word in _WORD.findall(text)]
    if len(words) < MIN_WORDS or sum(map(len, words)) < 0.7 * len(text):
        return False
    if sum(char.isdigit() for char in text) > 0.04 * len(text):
        return False
    if sum(word.isupper() and len(word) > 1 for word in _WORD.findall(text)) > 0.1 * len(words):
        return False
    shares = {name: sum(word in known for word in words) for name, known in _FUNCTION_WORDS.items()}
    other = "en" if language == "pt" else "pt"
    return shares[language] >= 0.18 * len(words) and shares[language] > 1.5 * shares[other]


class Deduplicator:
    """Remembers what was seen across sources and refuses paragraphs that are mostly known."""

    def __init__(self) -> None:
        self._paragraphs: set[int] = set()
        self._shingles: set[int] = set()

    def admit(self, text: str) -> bool:
        """Return True, and remember ``text``, unless it is a repetition."""
        words = _WORD.findall(text.lower())
        key = hash(" ".join(words))
        if key in self._paragraphs:
            return False
        shingles = [hash(tuple(words[i : i + _SHINGLE])) for i in range(0, max(1, len(words) - _SHINGLE + 1))]
        if sum(shingle in self._shingles for shingle in shingles) * 2 > len(shingles):
            return False
        self._paragraphs.add(key)
        self._shingles.update(shingles)
        return True


def select_prose(texts: Iterable[str], language: str, seen: Deduplicator, limit: int | None = None) -> Iterator[str]:
    """Yield the cleaned paragraphs of ``texts`` that are prose and new; stop after ``limit`` characters."""
    taken = 0
    for text in texts:
        paragraph = clean_paragraph(text)
        if is_prose(paragraph, language) and seen.admit(paragraph):
            yield paragraph
            taken += len(paragraph)
            if limit is not None and taken >= limit:
                return
