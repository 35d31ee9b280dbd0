"""Personal data in readings, as Brazil's data protection law (LGPD) means them: a model may write what it has read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_CPF = re.compile(r"(?<![\d.-])\d{3}\.?\d{3}\.?\d{3}[-./ ]?\d{2}(?![\d-])")
_CNPJ = re.compile(r"(?<![\w.-])[\dA-Z]{2}\.?[\dA-Z]{3}\.?[\dA-Z]{3}/?[\dA-Z]{4}-?\d{2}(?![\w-])", re.IGNORECASE)
KINDS = ("CPF", "CNPJ", "e-mail", "telefone")


@dataclass(frozen=True)
class PersonalData:
    """``kind``: one of :data:`KINDS`; ``hint``: enough to find it, not enough to pass it on."""

    line: int
    kind: str
    hint: str


def find_personal_data(texts: Iterable[tuple[int, str]]) -> Iterator[PersonalData]:
    """E-mail addresses, phone numbers valid in Brazil, CPF and CNPJ (alphanumeric too) whose check digits are right.

    Args:
        texts: (line in the file, what stands there).
    """
    return (PersonalData(line, kind, _hint(found)) for line, text in texts for kind, found in _in_text(text))


def _in_text(text: str) -> Iterator[tuple[str, str]]:
    if "@" in text:
        yield from (("e-mail", found) for found in _EMAIL.findall(text))
        text = _EMAIL.sub(" ", text)
    if not re.search(r"\d\D{0,3}\d\D{0,3}\d", text):  # spares the libraries' import, and their time
        return
    import phonenumbers
    from stdnum.br import cnpj, cpf

    for kind, pattern, identifier in (("CPF", _CPF, cpf), ("CNPJ", _CNPJ, cnpj)):
        for found in pattern.findall(text):
            if identifier.is_valid(found) and len(set(re.sub(r"\W", "", found))) > 1:  # 111.111.111-11 adds up too
                yield kind, found
                text = text.replace(found, " ")
    for match in phonenumbers.PhoneNumberMatcher(text, "BR", leniency=phonenumbers.Leniency.VALID):
        yield "telefone", match.raw_string


def _hint(found: str) -> str:
    return f"{found[:3]}…{found[-2:]}"
