"""A record -> the prompt that the model reads."""

from __future__ import annotations

import difflib
import string

from cartas_mlflow.data.records import Record
from cartas_mlflow.errors import SettingError
from cartas_mlflow.settings import RECORD_FIELDS, DataSettings

TEMPLATES = {
    "instrucao": "Interprete a carta {carta} na ocasião {evento}, seção {secao}, tema {tema}, no seu estilo:",
    "barras": "{carta} | {evento} | {secao} | {tema}",
}


def prompt_template(settings: DataSettings) -> str:
    """The template text: one of :data:`TEMPLATES` by name, or the user's own.

    Raises:
        SettingError: no field in it, a field that does not exist or that the table does not have, broken braces.
    """
    template = TEMPLATES.get(settings.template, settings.template)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        raise SettingError(
            f"data.template={template}: as chaves {{ }} não fecham; escreva por exemplo {{carta}}."
        ) from None
    fields = [name for _, name, _, _ in parts if name is not None]
    for name in fields:
        if name not in RECORD_FIELDS:
            near = difflib.get_close_matches(name, RECORD_FIELDS, n=1, cutoff=0.5)
            raise SettingError(
                f"data.template usa {{{name}}}, que não é um campo do pedido; "
                + (f"você quis dizer {{{near[0]}}}?" if near else "use {carta}, {evento}, {secao} e {tema}.")
            )
        if getattr(settings.columns, name) is None:
            raise SettingError(
                f"data.template usa {{{name}}}, mas data.columns.{name}=none; retire o campo do modelo ou indique a coluna."
            )
    if not fields:
        near = difflib.get_close_matches(settings.template, TEMPLATES, n=1, cutoff=0.5)
        raise SettingError(
            f"data.template={template} não usa nenhum campo; "
            + (f"você quis dizer {near[0]}?" if near else "use instrucao, barras, ou um texto com {carta}, {tema}, …")
        )
    return template


def make_prompt(template: str, record: Record) -> str:
    """Fill the template with the record's fields."""
    return template.format(**dict(zip(RECORD_FIELDS, record.fields(), strict=True)))
