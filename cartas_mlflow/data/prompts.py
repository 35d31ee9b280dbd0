"""A record -> the prompt that the model reads."""

from __future__ import annotations

from cartas_mlflow.data.records import Record
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, DataSettings


def prompt_template(settings: DataSettings) -> str:
    """The template text: one that has a name, or the user's own (``load_config`` has checked its fields)."""
    return TEMPLATES.get(settings.template, settings.template)


def make_prompt(template: str, record: Record) -> str:
    """Fill the template with the record's fields."""
    return template.format(**dict(zip(RECORD_FIELDS, record.fields(), strict=True)))
