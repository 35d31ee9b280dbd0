"""What there is to know of a table before training on it, told line by line."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cartas_mlflow.console import duration, say
from cartas_mlflow.data.duplicates import MOST, Pair, find_alike
from cartas_mlflow.data.encoding import EncodedTexts
from cartas_mlflow.data.oddities import count_words, listed
from cartas_mlflow.data.privacy import KINDS, find_personal_data
from cartas_mlflow.data.records import Records
from cartas_mlflow.data.splitting import Split
from cartas_mlflow.settings import RECORD_FIELDS, DataSettings, ExperimentConfig

if TYPE_CHECKING:
    from cartas_mlflow.modeling.base import BaseLocation

SHOWN = 30
"""Items of a list that the console shows."""
TITLES = {"carta": "carta", "evento": "ocasião", "secao": "seção", "tema": "tema"}
ADVISED = {"carta": (15, "leituras por carta"), "evento": (5, "ocasiões"), "tema": (10, "temas")}
"""What the guide recommends: readings of each card, and how many occasions and themes there should be."""


def check_command(data: DataSettings) -> str:
    """The command that reviews the table of these settings."""
    given = {"data.path": data.path, "data.sheet": data.sheet}
    given |= {
        f"data.columns.{name}": getattr(data.columns, name) or "none"
        for name in type(data.columns).model_fields
        if getattr(data.columns, name) != type(data.columns).model_fields[name].default
    }
    words = " ".join(f"--{name} {shlex.quote(value)}" for name, value in given.items() if value is not None)
    return f"python -m cartas_mlflow check {words}"


def review_reading(records: Records) -> None:
    """How the file was read, and every line that was left out."""
    table = records.table
    place = f", planilha {table.sheet.strip()}" if table.sheet is not None else ""
    say(f"Arquivo: {records.source}{place}, cabeçalho na linha {table.header_line}")
    taken = [f"{name} = {table.fields[name]}" for name in (*RECORD_FIELDS, "texto") if name in table.fields]
    say(f"Colunas: {', '.join(taken)}")
    unused = [column for column in table.columns if column not in table.fields.values()]
    if unused:
        say(f"Colunas que não são usadas: {listed(unused, SHOWN)}")
    out = [(line, _why(records, line, column)) for line, column in records.empty]
    out += [(line, "repetida") for line in records.repeated]
    out += [(line, "cabeçalho repetido") for line in table.repeated_headers]
    if out:
        shown = [f"{line} ({why})" for line, why in sorted(out)]
        say(f"Linhas deixadas de fora: {listed(shown, SHOWN)}")
    else:
        say("Linhas deixadas de fora: nenhuma")


def review_contents(records: Records) -> None:
    """Readings per card, occasion, section and theme; lengths; personal data."""
    for name, title in TITLES.items():
        counts = Counter(getattr(row, name) for row in records.rows)
        if name in records.table.fields:
            shown = [f"{value} {count}" for value, count in counts.most_common()]
            say(f"Leituras por {title} ({len(counts)}): {listed(shown, SHOWN)}")
    lengths = np.fromiter((len(row.texto) for row in records.rows), np.int64, len(records.rows))
    shortest, longest = int(lengths.argmin()), int(lengths.argmax())
    say(
        f"Caracteres por leitura: de {lengths[shortest]} (linha {records.lines[shortest]}) a {lengths[longest]} "
        f"(linha {records.lines[longest]}), mediana {np.median(lengths):.0f}"
    )
    for advice in _advice(records):
        say(f"💡 {advice}")
    _review_personal_data(records)


def review_duplicates(records: Records, split: Split) -> None:
    """Texts that are alike, and which of them would stand on both sides of the split."""
    texts = [row.texto for row in records.rows]
    pairs = find_alike(texts)
    measured = {row.id for row in split.validation}
    equal = [pair for pair in pairs if texts[pair.first] == texts[pair.second]]
    near = [pair for pair in pairs if texts[pair.first] != texts[pair.second]]
    across = [p for p in pairs if (records.rows[p.first].id in measured) != (records.rows[p.second].id in measured)]
    for found, one, many in (
        (equal, "par de textos iguais", "pares de textos iguais"),
        (near, "par de textos quase iguais", "pares de textos quase iguais"),
    ):
        if found:
            say(f"⚠️ {count_words(len(found), one, many)}: linhas {listed(_places(records, found))}")
    if across:
        many = count_words(len(across), "desses pares ficaria", "desses pares ficariam")
        say(
            f"⚠️ {many} dos dois lados da divisão, e a medida seria em parte memória: {listed(_places(records, across))}"
        )
    if len(pairs) >= MOST:
        say(f"   A procura parou em {len(pairs)} pares")
    if not pairs:
        say("Textos iguais ou quase iguais: nenhum")


def review_tokens(config: ExperimentConfig, train: EncodedTexts, validation: EncodedTexts) -> None:
    """Tokens of the texts against the limit."""
    lengths = np.concatenate([side.lengths[1] for side in (train, validation)])
    say(
        f"Tokens por leitura: de {lengths.min()} a {lengths.max()}, mediana {np.median(lengths):.0f} "
        f"(limite data.max_length: {config.data.max_length}; a geração escreve até {config.generation.max_new_tokens})"
    )
    long = int((lengths - 1 > config.generation.max_new_tokens).sum())
    if long:
        more = count_words(long, "leitura é mais longa", "leituras são mais longas")
        say(f"⚠️ {more} do que a geração escreve: aumente generation.max_new_tokens")


def review_time(
    config: ExperimentConfig, location: BaseLocation, train: EncodedTexts, validation: EncodedTexts
) -> None:
    """The expected time of an epoch on this machine, from a miniature of the base."""
    from cartas_mlflow.modeling.expected_time import measure_epoch
    from cartas_mlflow.modeling.hardware import inspect_hardware
    from cartas_mlflow.modeling.precision import choose_precision

    hardware = inspect_hardware(config.training.device)
    # Where a training measures which format is faster, both are timed here: that is the same question
    chosen = {
        choose_precision(config.training.precision, hardware, lambda gain=gain: gain).dtype for gain in (0.0, math.inf)
    }
    seconds = min(
        measure_epoch(
            location.folder,
            device=hardware.device,
            precision=precision,
            batch_size=config.training.batch_size,
            train=_sizes(train),
            validation=_sizes(validation),
            generation=config.generation,
        )
        for precision in chosen
    )
    where = hardware.gpu or f"CPU, {count_words(hardware.cores, 'núcleo', 'núcleos')}"
    say(
        f"Tempo por época neste computador ({where}), se estiver livre: cerca de {duration(_rounded(seconds))} "
        f"(estimativa; {config.training.epochs} épocas: {duration(_rounded(seconds * config.training.epochs))})"
    )


def cleaned_rows(records: Records) -> list[dict[str, str]]:
    """The usable rows under the usual names of the columns."""
    names = [name for name in (*RECORD_FIELDS, "texto") if name in records.table.fields]
    return [{name: getattr(row, name) for name in names} for row in records.rows]


def _why(records: Records, line: int, column: str) -> str:
    defect = records.table.defects.get((line, column))
    return f"{column}: {defect}" if defect else f"{column} vazia"


def _advice(records: Records) -> Iterator[str]:
    for name, (least, what) in ADVISED.items():
        if name not in records.table.fields:
            continue
        counts = Counter(getattr(row, name) for row in records.rows)
        if name != "carta" and len(counts) < least:
            yield f"Há só {count_words(len(counts), TITLES[name], what)}; recomendam-se {least} ou mais"
        elif name == "carta" and min(counts.values()) < least:
            few = [card for card, count in counts.items() if count < least]
            cards = count_words(len(few), "carta tem", "cartas têm")
            yield f"{cards} menos de {least} leituras; recomendam-se de {least} a 30 por carta"


def _review_personal_data(records: Records) -> None:
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    texts = (" ".join((*row.fields(), row.texto)) for row in records.rows)
    for data in find_personal_data(zip(records.lines, texts, strict=True)):
        found[data.kind].append(f"linha {data.line}: {data.hint}")
    for kind, places in found.items():
        if places:
            say(
                f"⚠️ Dados pessoais (LGPD), {kind} ×{len(places)}: {listed(places)}; retire-os: o modelo pode repeti-los"
            )
    if not any(found.values()):
        say("Dados pessoais (e-mail, telefone, CPF, CNPJ): nenhum encontrado")


def _places(records: Records, pairs: Sequence[Pair]) -> list[str]:
    return [f"{records.lines[pair.first]} e {records.lines[pair.second]}" for pair in pairs]


def _sizes(side: EncodedTexts) -> tuple[int, float, float]:
    prompts, texts = side.lengths
    return len(side), float(prompts.mean()), float(texts.mean())


def _rounded(seconds: float) -> float:
    """Two significant digits: more would pretend to know."""
    return round(seconds, 1 - math.floor(math.log10(max(seconds, 1e-3))))
