"""Readings from the command line: one, or a table of them, from any model, into any format."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import openpyxl
import pandas as pd
import pytest
from mlflow import MlflowClient
from trainings import Trainings

from cartas_mlflow.cli import main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.data.grids import Dialect
from cartas_mlflow.data.output import write_table
from cartas_mlflow.errors import DataError, RegistryError, SettingError, UserError
from cartas_mlflow.pipelines.generate import generate
from cartas_mlflow.registry.candidates import find_candidate
from cartas_mlflow.registry.model import ServedModel
from cartas_mlflow.registry.promotion import CHAMPION, register

FIELDS = ["carta", "evento", "secao", "tema"]
SUN = {"carta": "O Louco", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "csv": lambda path: pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig"),
    "xlsx": lambda path: pd.read_excel(path, engine="openpyxl"),
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "parquet": pd.read_parquet,
}


@pytest.fixture
def adapter(trainings: Trainings) -> str:
    return str(trainings.adapters["good"])


@pytest.fixture
def prompts(trainings: Trainings) -> pd.DataFrame:
    """The validation records' prompts, with the texts of the final evaluation as column ``esperado``."""
    path = mlflow.artifacts.download_artifacts(f"runs:/{trainings.runs['good']}/samples/final.csv")
    return pd.read_csv(path).rename(columns={"gerado": "esperado"})[["id", *FIELDS, "esperado"]]


def failure(**options: Any) -> str:
    with pytest.raises(UserError) as refused:
        generate(**options)
    return str(refused.value)


def test_one_card_is_shown(adapter: str, said: list[str]) -> None:
    (text,) = generate(model=adapter, prompt=SUN)
    assert len(text) > 10
    assert said == [text]


def test_one_card_may_go_to_a_file(adapter: str, tmp_path: Path) -> None:
    (text,) = generate(model=adapter, prompt=SUN, output="uma.csv")
    assert (tmp_path / "uma.csv").read_bytes().startswith(b"\xef\xbb\xbfcarta;evento;secao;tema;texto\r\n")
    assert pd.read_csv(tmp_path / "uma.csv", sep=";").to_dict("records") == [{**SUN, "texto": text}]


@pytest.mark.parametrize("ending", READERS)
def test_a_table_comes_back_with_its_readings(
    adapter: str, prompts: pd.DataFrame, tmp_path: Path, said: list[str], ending: str
) -> None:
    prompts.to_csv("pedidos.csv", index=False)
    texts = generate(model=adapter, table="pedidos.csv", output=f"saida.{ending}")
    assert texts == list(prompts["esperado"])
    written = READERS[ending](tmp_path / f"saida.{ending}")
    assert list(written.columns) == ["id", *FIELDS, "esperado", "texto"]
    pd.testing.assert_frame_equal(written[FIELDS], prompts[FIELDS], check_dtype=False)
    assert list(written["texto"]) == texts
    assert said == [f"✅ Leituras gravadas: 42, em saida.{ending}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pedidos.csv", f"saida.{ending}"]


@pytest.mark.parametrize("ending", ["xlsx", "jsonl", "parquet", "XLSX"])
def test_every_format_is_read_too(adapter: str, prompts: pd.DataFrame, ending: str) -> None:
    few = prompts[FIELDS][:3]
    name = f"pedidos.{ending}"
    if ending == "jsonl":
        few.to_json(name, orient="records", lines=True, force_ascii=False)
    elif ending == "parquet":
        few.to_parquet(name)
    else:
        with Path(name).open("wb") as stream:
            few.to_excel(stream, index=False, engine="openpyxl")
    assert generate(model=adapter, table=name, output="saida.csv") == list(prompts["esperado"][:3])


def test_accents_and_every_cell_survive_as_text(adapter: str, tmp_path: Path) -> None:
    Path("pedidos.csv").write_text(
        "código;carta;evento;secao;tema;nota\n007;O Louco;Ano Novo;Luz;Amor;NA\n08;O Mago;Lua Cheia;Sombra;Lar;=1+1\n",
        encoding="utf-8-sig",
    )
    generate(model=adapter, table="pedidos.csv", output="saida.jsonl")
    rows = [json.loads(line) for line in Path("saida.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["código"], row["nota"]) for row in rows] == [("007", "NA"), ("08", "=1+1")]


def test_a_column_of_texts_in_the_table_is_replaced(adapter: str) -> None:
    pd.DataFrame([{**SUN, "texto": "antigo"}]).to_csv("pedidos.csv", index=False)
    (text,) = generate(model=adapter, table="pedidos.csv", output="saida.csv")
    assert list(pd.read_csv("saida.csv").columns) == [*FIELDS, "texto"]
    assert text != "antigo"


def test_other_column_names_are_mapped(adapter: str, prompts: pd.DataFrame) -> None:
    renamed = prompts[:2].rename(columns={"carta": "arcano", "tema": "assunto"}).drop(columns="esperado")
    renamed.to_csv("pedidos.csv", index=False)
    columns = {"data.columns.carta": "arcano", "data.columns.tema": "assunto"}
    texts = generate(overrides=columns, model=adapter, table="pedidos.csv", output="saida.csv")
    assert texts == list(prompts["esperado"][:2])
    assert list(pd.read_csv("saida.csv").columns) == ["id", "arcano", "evento", "secao", "assunto", "texto"]


def test_a_table_may_be_longer_than_a_request(adapter: str, prompts: pd.DataFrame) -> None:
    pd.concat([prompts[FIELDS]] * 2).to_csv("pedidos.csv", index=False)
    texts = generate(model=adapter, table="pedidos.csv", output="saida.csv")
    assert texts == list(prompts["esperado"]) * 2


def test_every_way_of_naming_a_model_gives_the_same_reading(trainings: Trainings) -> None:
    client, run_id = MlflowClient(), trainings.runs["good"]
    candidate = find_candidate(client, run_id)
    name = "modelo-de-generate"
    version = register(client, candidate.model_id, name).version
    client.set_registered_model_alias(name, CHAMPION, version)
    client.copy_model_version(f"models:/{name}/{version}", "copia-de-generate")
    expected = generate(model=str(trainings.adapters["good"]), prompt=SUN)
    for model in (
        run_id,
        f"models:/{candidate.model_id}",
        f"models:/{name}@{CHAMPION}",
        f"models:/{name}/{version}",
        "models:/copia-de-generate/1",
    ):
        assert generate(model=model, prompt=SUN) == expected
    assert generate(overrides={"registry.name": name}, prompt=SUN) == expected


def test_decoding_is_the_models_own_but_for_what_is_typed(adapter: str) -> None:
    (usual,) = generate(model=adapter, prompt=SUN)
    (short,) = generate(overrides={"generation.max_new_tokens": "4"}, model=adapter, prompt=SUN)
    assert usual.startswith(short)
    assert len(short) < len(usual)
    sampled = [
        generate(overrides={"generation.do_sample": "true", "generation.seed": seed}, model=adapter, prompt=SUN)
        for seed in ("1", "2", "1")
    ]
    assert sampled[0] == sampled[2] != sampled[1]


def test_inside_mlflow_run_the_run_says_what_was_written(
    trainings: Trainings, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    generate(model=adapter, prompt=SUN)
    run = client.get_run(run_id)
    assert run.info.run_name == f"leituras de {adapter}"
    assert run.data.tags["mlflow.note.content"] == f"1 leituras de `{adapter}`."


def test_a_folder_needs_no_tracking_server(adapter: str) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert generate(model=adapter, prompt=SUN)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "Diga o que gerar: --carta (com --evento, --secao e --tema), ou --table ARQUIVO com os pedidos."),
        (
            {"prompt": SUN, "table": "pedidos.csv"},
            "Diga o que gerar: --carta (com --evento, --secao e --tema), ou --table ARQUIVO com os pedidos.",
        ),
        (
            {"prompt": {"carta": "O Louco", "tema": "Amor"}},
            "Faltam as colunas evento, secao; este modelo precisa de carta, evento, secao, tema.",
        ),
        (
            {"prompt": {**SUN, "carta": "O Loco"}},
            "este modelo não conhece a carta 'O Loco'; as mais próximas são O Louco, O Mago.",
        ),
        (
            {"table": "nenhuma.csv"},
            "O arquivo de dados nenhuma.csv não existe; confira --table (ex.: data/cartas.csv).",
        ),
        (
            {"table": "pedidos.csv"},
            "Falta --output com a terminação csv, xlsx, jsonl ou parquet: onde gravar as leituras.",
        ),
        (
            {"table": "pedidos.csv", "output": "saida.txt"},
            "Falta --output com a terminação csv, xlsx, jsonl ou parquet: onde gravar as leituras.",
        ),
        (
            {"table": "pedidos.csv", "output": "nenhuma/saida.csv"},
            "A pasta de --output nenhuma/saida.csv não existe; crie-a ou indique outra.",
        ),
        (
            {"table": "pedidos.csv", "output": "./pedidos.csv"},
            "--output ./pedidos.csv é a própria tabela de pedidos; indique outro arquivo.",
        ),
        (
            {"table": "falha.csv", "output": "saida.csv"},
            "falha.csv, linha 2: o campo tema está vazio; escreva um texto.",
        ),
        (
            {"table": "outra.csv", "output": "saida.csv"},
            "outra.csv, linha 2: este modelo não conhece a carta 'O Sol'; as mais próximas são O Mago, O Louco.",
        ),
        (
            {"table": "estreita.csv", "output": "saida.csv"},
            "estreita.csv: Falta a coluna tema; este modelo precisa de carta, evento, secao, tema.",
        ),
        (
            {"table": "cabecalho.csv", "output": "saida.csv"},
            "cabecalho.csv: O pedido não tem nenhuma linha; mande ao menos uma carta.",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(f"{key}" for key in value) or "nothing",
)
def test_what_cannot_be_generated_is_one_sentence(adapter: str, options: dict[str, Any], sentence: str) -> None:
    header = "carta,evento,secao,tema\n"
    row = "O Louco,Ano Novo,Luz,Amor\n"
    Path("pedidos.csv").write_text(header + row)
    Path("falha.csv").write_text(f"{header}O Mago,Ano Novo,Luz,\n\nO Sol,Ano Novo,Luz,Amor\n")
    Path("outra.csv").write_text(f"{header}O Sol,Ano Novo,Luz,Amor\n")
    Path("estreita.csv").write_text("carta,evento,secao\nO Louco,Ano Novo,Luz\n")
    Path("cabecalho.csv").write_text(header)
    assert failure(model=adapter, **options) == sentence
    assert not Path("saida.csv").exists()


def test_a_row_that_cannot_be_answered_gets_its_reason_and_the_others_their_readings(
    adapter: str, said: list[str]
) -> None:
    rows = [
        "O Louco,Ano Novo,Luz,Amor,a",
        "O Sol,Ano Novo,Luz,Amor,b",
        "louco,ano novo,LUZ,Amor,c",
        "O Mago,,Luz,Amor,d",
    ]
    Path("pedidos.csv").write_text("carta,evento,secao,tema,nota\n" + "\n".join(rows), encoding="utf-8")
    texts = generate(model=adapter, table="pedidos.csv", output="saida.csv")
    written = pd.read_csv("saida.csv", keep_default_na=False)
    assert list(written.columns) == [*FIELDS, "nota", "texto", "erro"]
    assert list(written["texto"]) == [texts[0], "", texts[1], ""]
    assert texts[0] == texts[1]
    assert list(written["nota"]) == ["a", "b", "c", "d"]
    assert list(written["erro"]) == [
        "",
        "este modelo não conhece a carta 'O Sol'; as mais próximas são O Mago, O Louco.",
        "",
        "o campo evento está vazio; escreva um texto.",
    ]
    assert said == [
        "Entendido: carta: louco = O Louco",
        "Entendido: evento: ano novo = Ano Novo",
        "Entendido: secao: LUZ = Luz",
        "⚠️ 2 linhas ficaram sem leitura, com o motivo na coluna erro (a primeira: pedidos.csv, linha 3: este modelo "
        "não conhece a carta 'O Sol'; as mais próximas são O Mago, O Louco.)",
        "✅ Leituras gravadas: 2, em saida.csv",
    ]
    again = generate(model=adapter, table="saida.csv", output="outra.csv")
    assert again == texts
    assert list(pd.read_csv("outra.csv").columns) == [*FIELDS, "nota", "texto", "erro"]


DIALECTS = {
    "comma": ("utf-8", ",", "\n", b"carta,evento"),
    "Excel's": ("utf-8-sig", ";", "\r\n", b"\xef\xbb\xbfcarta;evento"),
    "tabs in UTF-16": ("utf-16", "\t", "\r\n", "carta\tevento".encode("utf-16")),
    "Windows-1252": ("cp1252", ";", "\r\n", b"carta;evento"),
}


@pytest.mark.parametrize(("encoding", "delimiter", "end", "start"), DIALECTS.values(), ids=DIALECTS.keys())
def test_the_output_speaks_the_tables_dialect(
    adapter: str, encoding: str, delimiter: str, end: str, start: bytes
) -> None:
    lines = [["carta", "evento", "secao", "tema", "situação"], [*SUN.values(), "não é já"]]
    Path("pedidos.csv").write_bytes("".join(delimiter.join(line) + end for line in lines).encode(encoding))
    (text,) = generate(model=adapter, table="pedidos.csv", output="saida.csv")
    content = Path("saida.csv").read_bytes()
    assert content.startswith(start)
    decoded = content.decode(encoding)
    quoted = f'"{text}"' if delimiter in text else text
    assert decoded == f"{delimiter.join([*lines[0], 'texto'])}{end}{delimiter.join([*lines[1], quoted])}{end}"


def test_a_text_that_the_tables_encoding_cannot_hold_is_written_in_utf8(tmp_path: Path) -> None:
    table = pd.DataFrame({"texto": ["🌙 noite"]})
    write_table(table, tmp_path / "saida.csv", Dialect(encoding="cp1252"))
    assert (tmp_path / "saida.csv").read_bytes() == "texto\n🌙 noite\n".encode("utf-8-sig")


def test_a_draw_alone_works_whatever_the_trainings_beams(trainings: Trainings, tmp_path: Path) -> None:
    adapter = shutil.copytree(trainings.adapters["good"], tmp_path / "adapter")
    served = ServedModel.load(adapter)
    served.model_copy(update={"generation": {**served.generation, "num_beams": 4}}).save(adapter)
    overrides = {"generation.do_sample": "true", "generation.seed": "3"}
    assert generate(overrides=overrides, model=str(adapter), prompt=SUN) == generate(
        overrides=overrides, model=str(trainings.adapters["good"]), prompt=SUN
    )


def test_any_card_may_be_let_through(adapter: str) -> None:
    assert generate(overrides={"serving.any_card": "true"}, model=adapter, prompt={**SUN, "carta": "O Sol"})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("deadbeef", "A execução deadbeef não existe neste MLflow; confira o id e MLFLOW_TRACKING_URI."),
        ("models:/nenhum@champion", "Ainda não há campeã em models:/nenhum@champion; treine (mlflow run . "),
        ("models:/nenhum/3", "O modelo models:/nenhum/3 não existe"),
        ("models:/m-0123", "O modelo models:/m-0123 não existe"),
        ("models:/", "O modelo models:/ não existe"),
    ],
)
def test_a_model_that_does_not_exist_is_one_sentence(trainings: Trainings, model: str, sentence: str) -> None:
    with pytest.raises(RegistryError) as refused:
        generate(model=model, prompt=SUN)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_no_adapter_is_one_sentence(trainings: Trainings, tmp_path: Path) -> None:
    assert failure(model=str(tmp_path), prompt=SUN) == (
        f"{tmp_path} não tem served.json; indique a pasta adapter/ de um treinamento concluído."
    )


def test_the_command_shows_a_reading(adapter: str, said: list[str]) -> None:
    words = [word for name, value in SUN.items() for word in (f"--{name}", value)]
    assert main(["generate", "--model", adapter, *words]) == 0
    assert len(said) == 1
    assert main(["generate", "--model", adapter, "--carta", "O Loco", *words[2:]]) == 2
    assert said[-1] == "❌ este modelo não conhece a carta 'O Loco'; as mais próximas são O Louco, O Mago."


TABLE = pd.DataFrame({"carta": ["O Sol", "A Força"], "texto": ["É cedo: a luz já vem.", "Mansa, você segura o leão."]})


@pytest.mark.parametrize("ending", READERS)
def test_a_table_is_written_as_it_is(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"saida.{ending}"
    path.write_bytes(b"antes")
    write_table(TABLE, path)
    pd.testing.assert_frame_equal(READERS[ending](path), TABLE, check_dtype=False)
    assert list(tmp_path.iterdir()) == [path]


def test_the_text_files_are_utf8_with_their_accents(tmp_path: Path) -> None:
    for ending in ("csv", "jsonl"):
        write_table(TABLE, tmp_path / f"saida.{ending}")
        assert "É cedo: a luz já vem." in (tmp_path / f"saida.{ending}").read_text(encoding="utf-8")


def test_a_text_that_looks_like_a_formula_stays_a_text(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"texto": ["=1+1"]}), tmp_path / "saida.xlsx")
    cell = openpyxl.load_workbook(tmp_path / "saida.xlsx").active["A2"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


def test_a_control_character_in_xlsx_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        write_table(pd.DataFrame({"texto": ["a\x01b"]}), tmp_path / "saida.xlsx")
    assert str(refused.value) == (
        f"{tmp_path / 'saida.xlsx'}: há um caractere de controle que xlsx não guarda; grave como csv."
    )


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "saida.csv").mkdir()
    with pytest.raises(DataError, match=r"saida\.csv não pôde ser gravado \(.+\); indique outro --output\."):
        write_table(TABLE, tmp_path / "saida.csv")
    assert list(tmp_path.iterdir()) == [tmp_path / "saida.csv"]


def test_being_killed_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "saida.csv"
    path.write_text("antes")
    code = f"""
import os, signal
from pathlib import Path
import pandas
from cartas_mlflow.data.grids import Dialect
from cartas_mlflow.data.output import write_table
whole = Path.write_bytes
def half(self, content):
    whole(self, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.write_bytes = half
write_table(pandas.DataFrame({{"texto": ["a" * 1000] * 100}}), Path({str(path)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "antes"
    write_table(TABLE, path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_table(TABLE, tmp_path / "saida.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_found_before_anything_is_opened(trainings: Trainings) -> None:
    with pytest.raises(SettingError, match=r"generation\.num_beams=0"):
        generate(overrides={"generation.num_beams": "0"}, model="models:/nenhum/1", prompt=SUN)
