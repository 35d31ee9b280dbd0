"""Which column of a table holds which field: names typed any way, other names that people use, what to say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cartas_mlflow.data.matching import clean_name, nearest_names
from cartas_mlflow.settings import RECORD_FIELDS, ColumnNames

ALL_FIELDS = (*RECORD_FIELDS, "texto")
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "carta": (
        "cartas", "arcano", "arcanos", "arcanomaior", "nomedacarta", "nomecarta", "cartadotaro", "cartadotarot",
        "cartatarot", "lamina", "taro", "tarot", "card",
    ),
    "evento": ("eventos", "ocasiao", "ocasioes", "quando", "momento", "situacao", "contexto", "event", "occasion"),
    "secao": ("secoes", "parte", "partes", "secaodacarta", "aspecto", "lado", "section"),
    "tema": ("temas", "assunto", "assuntos", "area", "areadavida", "topico", "theme", "topic"),
    "texto": (
        "textos", "leitura", "leituras", "interpretacao", "interpretacoes", "textodaleitura", "mensagem",
        "significado", "resposta", "text", "reading",
    ),
}  # fmt: skip
"""Field -> names (cleaned) that tables give its column, the likelier first; used only where the usual one is absent."""


@dataclass(frozen=True)
class Match:
    """``found``: field -> place of its column (from 0). ``renamed``: those found under another name, field -> label.

    ``doubtful``: field -> the labels among which nothing decides.
    """

    found: Mapping[str, int]
    renamed: Mapping[str, str] = field(default_factory=dict)
    doubtful: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def match_columns(labels: Sequence[str], names: ColumnNames, empty: Iterable[int] = ()) -> Match:
    """Find the columns of the fields that the settings do not switch off.

    Args:
        labels: the header's cells, cleaned.
        names: the names that the settings give; a field with its usual name may also stand under another known one.
        empty: columns without a single value: they count only where no other has the name.
    """
    empty = set(empty)
    keys = [clean_name(label) if label else "" for label in labels]
    found, renamed, doubtful = {}, {}, {}
    for name in ALL_FIELDS:
        wanted = getattr(names, name)
        if wanted is None:
            continue
        places = [place for place, label in enumerate(labels) if label and label == wanted]
        if len(places) != 1:
            places = [place for place, key in enumerate(keys) if key and key == clean_name(wanted)]
        other = not places and wanted == ColumnNames.model_fields[name].default
        if other:
            known = OTHER_NAMES[name]
            places = sorted(
                (place for place, key in enumerate(keys) if key in known), key=lambda place: known.index(keys[place])
            )
        if len(places) > 1:
            places = [place for place in places if place not in empty] or places[:1]
        if len(places) > 1:
            doubtful[name] = tuple(labels[place] for place in places)
        elif places:
            found[name] = places[0]
            if other:
                renamed[name] = labels[places[0]]
    return Match(found, renamed, doubtful)


def paste_line(columns: Mapping[str, str]) -> str:
    """``-P data.columns.carta=Arcano …``, quoted where a shell needs it."""
    return " ".join(f"-P data.columns.{name}={_quoted(label)}" for name, label in columns.items())


def open_question(source: str, labels: Sequence[str], match: Match, names: ColumnNames) -> str | None:
    """All that stays open, in one message with the line to paste; None where every field has its column."""
    missing = [
        name
        for name in ALL_FIELDS
        if getattr(names, name) is not None and name not in match.found and name not in match.doubtful
    ]
    if not missing and not match.doubtful:
        return None
    free = [label for place, label in enumerate(labels) if label and place not in match.found.values()]
    said, proposed = [], {}
    if missing:
        wanted = [getattr(names, name) for name in missing]
        said.append(f"não tem {'a coluna' if len(wanted) == 1 else 'as colunas'} {', '.join(wanted)}")
        for name in missing:
            near = nearest_names(getattr(names, name), free, 1, 0.6)
            proposed[name] = near[0] if near else "NOME"
            free = [label for label in free if label not in near]
    for name, found in match.doubtful.items():
        if len(set(found)) == 1:
            said.append(f"tem a coluna {found[0]} mais de uma vez")
        else:
            said.append(f"tem mais de uma coluna que pode ser {getattr(names, name)} ({', '.join(found)})")
            proposed[name] = found[0]
    shown = ", ".join(dict.fromkeys(label for label in labels if label)) or "nenhuma"
    text = f"{source} {' e '.join(said)}; as colunas são: {shown}."
    if any(len(set(found)) == 1 for found in match.doubtful.values()):
        text += " Dê nomes diferentes às colunas repetidas."
    if proposed:
        text += f" Indique as certas, trocando o que for preciso: {paste_line(proposed)}"
        if any(name in RECORD_FIELDS and name != "carta" for name in missing):
            text += " (none se a tabela não tem esse campo; então também -P data.template com os campos que há)"
    return text


def _quoted(label: str) -> str:
    if label and all(character.isalnum() or character in "_-." for character in label):
        return label
    return '"' + "".join(f"\\{one}" if one in '"\\$`' else one for one in label) + '"'
