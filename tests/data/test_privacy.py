"""Personal data are found, with the lines they stand in; what only looks like them is left alone."""

from __future__ import annotations

import pytest

from cartas_mlflow.data.privacy import find_personal_data


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Escreva para ana.souza+tarot@exemplo.com.br.", ["e-mail"]),
        ("Ligue (11) 98765-4321 amanhã.", ["telefone"]),
        ("Ligue +55 21 2345-6789.", ["telefone"]),
        ("CPF 529.982.247-25", ["CPF"]),
        ("cpf 52998224725", ["CPF"]),
        ("CNPJ 11.222.333/0001-81", ["CNPJ"]),
        ("CNPJ novo 12.ABC.345/01DE-35", ["CNPJ"]),
        ("a@b.com e 529.982.247-25", ["e-mail", "CPF"]),
        ("CPF 529.982.247-26, que não existe", []),
        ("CNPJ 11.222.333/0001-82, que não existe", []),
        ("Em 05/08/2026, às 14:30, foram 12.345 passos.", []),
        ("A carta XIX, de 1909 a 2026; 3,14 e 100%.", []),
        ("111.111.111-11", []),
        ("arroba @ sozinha, e @ana sem endereço", []),
        ("", []),
    ],
)
def test_personal_data_are_told_by_kind(text: str, kinds: list[str]) -> None:
    assert [found.kind for found in find_personal_data([(7, text)])] == kinds


def test_a_hint_tells_where_to_look_and_no_more() -> None:
    (found,) = find_personal_data([(12, "CPF 529.982.247-25")])
    assert (found.line, found.hint) == (12, "529…25")
