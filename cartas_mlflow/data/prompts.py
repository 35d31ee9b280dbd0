"""A record -> the prompt that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from cartas_mlflow.data.records import Record
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, DataSettings


def prompt_template(settings: DataSettings) -> str:
    """The template text: one that has a name, or the user's own (``load_config`` has checked its fields)."""
    return TEMPLATES.get(settings.template, settings.template)


def make_prompt(template: str, record: Record) -> str:
    """Fill the template with the record's fields."""
    return template.format(**dict(zip(RECORD_FIELDS, record.fields(), strict=True)))


class Prompts(Sequence[str]):
    """The prompts of so many records, each made when it is asked for."""

    def __init__(self, template: str, records: Sequence[Record]) -> None:
        self._template, self._records = template, records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [make_prompt(self._template, record) for record in self._records[place]]
        return make_prompt(self._template, self._records[place])
