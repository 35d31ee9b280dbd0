"""What every setting is made of: how its value is read as typed, and the section that it stands in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _none_words(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in {"", "none", "null", "nenhum"} else value


def _comma_list(value: Any) -> Any:
    if isinstance(value, str):
        parts = (part.strip(" '\"") for part in value.strip("[] ").split(","))
        return tuple(part for part in parts if part)
    return tuple(value) if isinstance(value, list) else value


def _weight_list(value: Any) -> Any:
    return () if _none_words(value) is None else _comma_list(value)


def _lower_word(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strip().lower() if isinstance(value, str) else value


OptionalText = Annotated[str | None, BeforeValidator(_none_words)]
Names = Annotated[tuple[str, ...], BeforeValidator(_comma_list), Field(min_length=1)]
Weights = Annotated[tuple[str, ...], BeforeValidator(_weight_list)]
OptionalDuration = Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_none_words)]
AutoOrSwitch = Annotated[Literal["auto", "true", "false"], BeforeValidator(_lower_word)]
AutoOrCount = Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=4096)], BeforeValidator(_lower_word)]


class Section(BaseModel):
    """Base of the settings sections: frozen, and a key that does not exist is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, str_strip_whitespace=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_switch_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` and ``on`` as true, which pydantic would take for the number 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("deve ser um número, não true nem false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_null_character(cls, value: Any) -> Any:
        """A YAML file can hold one; no path, database or console takes it."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("tem um caractere nulo; retire-o")
        return value
