"""The command as its users type it: what they can get wrong, and the one sentence that answers each mistake."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cartas_mlflow import __version__, cli
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.settings import setting_names

HEADER = ("evento", "carta", "tema", "secao", "texto")
READING = ("Ano Novo", "O Sol", "Amor", "Luz", "Abra a janela.")


def comma(*rows: Sequence[str]) -> str:
    """CSV text of rows whose cells need no quotes."""
    return "".join(f"{','.join(row)}\n" for row in rows)


def readings(**count_of_card: int) -> str:
    """CSV text: so many different readings of each card."""
    rows = [
        ("Ano Novo", card, "Amor", "Luz", f"Texto {number}.")
        for card, count in count_of_card.items()
        for number in range(count)
    ]
    return comma(HEADER, *rows)


def xlsx(*rows: Sequence[Any], title: str = "Leituras") -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def parquet(*rows: Sequence[Any]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    header, *body = rows
    columns = {name: [row[place] for row in body] for place, name in enumerate(header)}
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def zipped(**texts: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return stream.getvalue()


def run_process(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m cartas_mlflow`` in a process of its own, with ``folder`` as working folder."""
    return subprocess.run(
        [sys.executable, "-m", "cartas_mlflow", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/m.db"}
        | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


SETTING_MISTAKES = {
    # what does not exist
    "misspelt name": (
        ["--training.learnig_rate", "1e-4"],
        "A configuração training.learnig_rate (linha de comando) não existe; você quis dizer training.learning_rate?",
    ),
    "wrong section": (
        ["--training.r", "8"],
        "A configuração training.r (linha de comando) não existe; você quis dizer lora.r?",
    ),
    "no section": (
        ["--learning_rate", "1e-4"],
        "A configuração learning_rate (linha de comando) não existe; você quis dizer training.learning_rate?",
    ),
    "initials": (
        ["--lr", "1e-4"],
        "A configuração lr (linha de comando) não existe; você quis dizer training.learning_rate?",
    ),
    "a word of a name": (
        ["--beams", "4"],
        "A configuração beams (linha de comando) não existe; você quis dizer generation.num_beams?",
    ),
    "two sections have it": (
        ["--batch_size", "4"],
        "A configuração batch_size (linha de comando) não existe; você quis dizer training.batch_size ou "
        "evaluation.batch_size?",
    ),
    "like nothing at all": (
        ["--xyz", "1"],
        "A configuração xyz (linha de comando) não existe; veja todas com python -m cartas_mlflow train --help.",
    ),
    "a section": (
        ["--lora", "32"],
        "lora (linha de comando) é uma seção, não uma configuração; escreva por exemplo lora.r.",
    ),
    # of the wrong type
    "not a whole number": (
        ["--epochs", "vinte"],
        "A configuração training.epochs=vinte (linha de comando) não serve: deve ser um número inteiro.",
    ),
    "half an epoch": (
        ["--epochs", "2.5"],
        "A configuração training.epochs=2.5 (linha de comando) não serve: deve ser um número inteiro.",
    ),
    "decimal comma": (
        ["--training.learning_rate", "0,001"],
        "A configuração training.learning_rate=0,001 (linha de comando) não serve: deve ser um número (com ponto "
        "decimal, ex.: 5e-5).",
    ),
    "not a number": (
        ["--training.learning_rate", "nan"],
        "A configuração training.learning_rate=nan (linha de comando) não serve: deve ser um número (com ponto "
        "decimal, ex.: 5e-5).",
    ),
    "neither true nor false": (
        ["--generation.do_sample", "talvez"],
        "A configuração generation.do_sample=talvez (linha de comando) não serve: deve ser true ou false.",
    ),
    "not one of the choices": (
        ["--training.scheduler", "cosseno"],
        "A configuração training.scheduler=cosseno (linha de comando) não serve: use cosine, linear, "
        "constant_with_warmup, constant (o mais próximo é cosine).",
    ),
    "neither auto nor a number": (
        ["--training.micro_batch_size", "pouco"],
        "A configuração training.micro_batch_size=pouco (linha de comando) não serve: use auto ou um número inteiro de "
        "1 a 4096.",
    ),
    "empty list": (
        ["--lora.target_modules", ","],
        "A configuração lora.target_modules=, (linha de comando) não serve: não pode ficar vazia.",
    ),
    "empty text": (
        ["--tracking.experiment", " "],
        "A configuração tracking.experiment=  (linha de comando) não serve: não pode ficar vazia.",
    ),
    # out of range
    "too small": (
        ["--epochs", "0"],
        "A configuração training.epochs=0 (linha de comando) não serve: deve ser no mínimo 1.",
    ),
    "too big": (
        ["--lora.r", "5000"],
        "A configuração lora.r=5000 (linha de comando) não serve: deve ser no máximo 1024.",
    ),
    "not above": (
        ["--training.learning_rate", "-1e-4"],
        "A configuração training.learning_rate=-1e-4 (linha de comando) não serve: deve ser maior que 0.",
    ),
    "not below": (
        ["--data.validation_fraction", "1"],
        "A configuração data.validation_fraction=1 (linha de comando) não serve: deve ser menor que 1.",
    ),
    # that do not go together
    "micro-batch that does not divide": (
        ["--training.batch_size", "8", "--training.micro_batch_size", "3"],
        "training.micro_batch_size=3 não divide training.batch_size=8; use um divisor de 8, ou auto.",
    ),
    "minimum above maximum": (
        ["--generation.min_new_tokens", "200"],
        "generation.min_new_tokens=200 é maior que generation.max_new_tokens=128; diminua o mínimo ou aumente o "
        "máximo.",
    ),
    "sampling with beams": (
        ["--generation.do_sample", "true", "--generation.num_beams", "4"],
        "generation.do_sample=true não combina com generation.num_beams=4; use num_beams=1 para sortear, ou "
        "do_sample=false para a busca em feixe.",
    ),
    "text that is also the card": (
        ["--data.columns.carta", "texto"],
        "data.columns.carta e data.columns.texto são a mesma coluna (texto); indique uma para cada campo.",
    ),
    "two fields of one column": (
        ["--data.columns.tema", "evento"],
        "data.columns.evento e data.columns.tema são a mesma coluna (evento); indique uma para cada campo, ou none se "
        "a tabela não tem o campo.",
    ),
    "no column for a used field": (
        ["--data.columns.evento", "none"],
        "data.template usa {evento}, mas data.columns.evento=none; retire o campo do modelo ou indique a coluna.",
    ),
    # templates
    "template without a field": (
        ["--data.template", "Leia a carta:"],
        "data.template=Leia a carta: não usa nenhum campo; use instrucao, barras, ou um texto com {carta}, {tema}, …",
    ),
    "misspelt template name": (
        ["--data.template", "instrução"],
        "data.template=instrução não usa nenhum campo; você quis dizer instrucao?",
    ),
    "template with a field that is none": (
        ["--data.template", "{carta} e {temas}"],
        "data.template usa {temas}, que não é um campo do pedido; você quis dizer {tema}?",
    ),
    "template that gives the answer away": (
        ["--data.template", "{carta}: {texto}"],
        "data.template usa {texto}, que não é um campo do pedido; use {carta}, {evento}, {secao} e {tema}.",
    ),
    "template with a nameless field": (
        ["--data.template", "{carta} {}"],
        "data.template usa {}, que não é um campo do pedido; use {carta}, {evento}, {secao} e {tema}.",
    ),
    "template with open braces": (
        ["--data.template", "{carta} e {tema"],
        "data.template={carta} e {tema: as chaves { } não fecham; escreva por exemplo {carta}.",
    ),
    "template with a number format": (
        ["--data.template", "{carta:d}"],
        "data.template dá um formato ao campo carta; escreva só {carta}.",
    ),
    # files
    "configuration that does not exist": (
        ["--config", "configs/defalt.yaml"],
        "O arquivo de configuração configs/defalt.yaml não existe; confira o caminho (ex.: configs/default.yaml).",
    ),
    "configuration that is a folder": (
        ["--config", "configs"],
        "A configuração configs é uma pasta; indique um arquivo YAML (ex.: configs/default.yaml).",
    ),
    "configuration inside a file": (
        ["--config", f"{PROJECT_ROOT}/LICENSE/c.yaml"],
        f"A configuração {PROJECT_ROOT}/LICENSE/c.yaml não pôde ser lida; confira o caminho e as permissões do "
        "arquivo.",
    ),
    "configuration of an impossible name": (
        ["--config", "x" * 300],
        f"A configuração {'x' * 300} não pôde ser lida; confira o caminho e as permissões do arquivo.",
    ),
    "configuration of an unknown user": (
        ["--config", "~ninguem/c.yaml"],
        "O arquivo de configuração ~ninguem/c.yaml não existe; confira o caminho (ex.: configs/default.yaml).",
    ),
    "fallback that does not exist": (
        ["--model.fallback", "configs/minni.yaml"],
        "O arquivo de configuração configs/minni.yaml (model.fallback) não existe; confira o caminho (ex.: "
        "configs/default.yaml).",
    ),
    # words
    "setting without a value": (["--lora.r"], "Falta o valor de --lora.r; escreva --lora.r valor."),
    "setting whose value is the next setting": (
        ["--lora.r", "--epochs", "3"],
        "Falta o valor de --lora.r; escreva --lora.r valor.",
    ),
    "a stray word": (
        ["--lora.r", "8", "16"],
        "Não entendi '16'; escreva cada configuração como --seção.nome valor (ex.: --lora.r 32).",
    ),
    "one dash": (
        ["-P", "lora.r=8"],
        "Não entendi '-P'; escreva cada configuração como --seção.nome valor (ex.: --lora.r 32).",
    ),
    "given twice": (
        ["--lora.r", "8", "--lora.r=16"],
        "A configuração --lora.r foi dada duas vezes (8 e 16); deixe só uma.",
    ),
    "given under both its names": (
        ["--epochs", "3", "--training.epochs", "5"],
        "epochs=3 e training.epochs=5 são a mesma configuração; deixe só uma.",
    ),
}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it; a run would leave its traces here."""
    folder = tmp_path / "trabalho"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.mark.parametrize(("words", "message"), SETTING_MISTAKES.values(), ids=SETTING_MISTAKES.keys())
def test_a_wrong_setting_is_answered_with_one_sentence_and_leaves_nothing_behind(
    words: list[str], message: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", *words]) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().out == f"❌ {message}\n"
    assert list(empty_folder.iterdir()) == []


CONFIG_MISTAKES = {
    "not YAML": ("training:\n  epochs: [3\n", "A configuração c.yaml, linha 3 não é YAML válido; corrija a sintaxe."),
    "control characters": ("a: \x01", "A configuração c.yaml não é YAML válido; corrija a sintaxe."),
    "not UTF-8": (
        "training: {epochs: 3}  # épocas".encode("cp1252"),
        "A configuração c.yaml não é um texto UTF-8; salve o arquivo YAML em UTF-8.",
    ),
    "a list": ("- 1\n- 2\n", "A configuração c.yaml deve ser um mapa de seções (ex.: training: {epochs: 20})."),
    "extends itself": (
        "extends: c.yaml\n",
        "A configuração c.yaml (extends em c.yaml) herda de si mesma; retire um dos extends.",
    ),
    "extends nothing": (
        "extends: pai.yaml\n",
        "O arquivo de configuração pai.yaml (extends em c.yaml) não existe; confira o caminho (ex.: "
        "configs/default.yaml).",
    ),
    "extends two": (
        "extends: [a.yaml, b.yaml]\n",
        "A configuração c.yaml: extends deve ser o nome de um só arquivo YAML.",
    ),
    "unknown setting": (
        "lora: {rank: 8}\n",
        "A configuração lora.rank (c.yaml) não existe; você quis dizer lora.r?",
    ),
    "one value for a section": (
        "training: 20\n",
        "training (c.yaml) é uma seção, não uma configuração; escreva por exemplo training.epochs.",
    ),
    "section inside a setting": (
        "training: {epochs: {maximo: 3}}\n",
        "A configuração training.epochs.maximo (c.yaml) não existe; você quis dizer training.epochs?",
    ),
    "section given twice": (
        "training:\n  epochs: 3\nlora: {r: 8}\ntraining:\n  seed: 1\n",
        "A configuração c.yaml, linha 4: training aparece duas vezes; deixe só uma.",
    ),
    "a setting left empty": (
        "training:\n  epochs:\n",
        "A configuração training.epochs=none (c.yaml) não serve: deve ser um número inteiro.",
    ),
    "yes for a number": (
        "lora: {r: yes}\n",
        "A configuração lora.r=true (c.yaml) não serve: deve ser um número, não true nem false.",
    ),
    "on for a decimal number": (
        "lora: {alpha: on}\n",
        "A configuração lora.alpha=true (c.yaml) não serve: deve ser um número, não true nem false.",
    ),
    "a date for a text": (
        "tracking: {run_name: 2025-07-11}\n",
        "A configuração tracking.run_name=2025-07-11 (c.yaml) não serve: deve ser um texto (no arquivo YAML, entre "
        "aspas).",
    ),
    "out of range": (
        "early_stopping: {threshold: -1}\n",
        "A configuração early_stopping.threshold=-1 (c.yaml) não serve: deve ser no mínimo 0.",
    ),
}


@pytest.mark.parametrize(("content", "message"), CONFIG_MISTAKES.values(), ids=CONFIG_MISTAKES.keys())
def test_a_wrong_configuration_file_is_answered_with_one_sentence_and_leaves_nothing_behind(
    content: str | bytes, message: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = empty_folder / "c.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert cli.main(["train", "--config", "c.yaml"]) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().out == f"❌ {message}\n"
    assert list(empty_folder.iterdir()) == [path]


DATA_MISTAKES: dict[str, tuple[str, str | bytes | None, list[str], str]] = {
    # the file
    "missing": (
        "nada.csv",
        None,
        [],
        "O arquivo de dados nada.csv não existe; confira data.path (ex.: data/cartas.csv).",
    ),
    "folder": (
        ".",
        None,
        [],
        ". é uma pasta; indique em data.path um arquivo csv, xlsx, xls, xlsb, ods, jsonl ou parquet.",
    ),
    "impossible name": (
        f"{'x' * 300}.csv",
        None,
        [],
        f"{'x' * 300}.csv não pôde ser lido; confira data.path e as permissões do arquivo.",
    ),
    # what is in it
    "empty": ("t.csv", "", [], "O arquivo t.csv está vazio; ele precisa de um cabeçalho e de leituras."),
    "only a byte order mark": (
        "t.csv",
        "\ufeff",
        [],
        "O arquivo t.csv está vazio; ele precisa de um cabeçalho e de leituras.",
    ),
    "only separators": (
        "t.csv",
        ",,,\n,,,\n",
        [],
        "O arquivo t.csv está vazio; ele precisa de um cabeçalho e de leituras.",
    ),
    "empty spreadsheet": (
        "t.xlsx",
        xlsx(),
        [],
        "O arquivo t.xlsx está vazio; ele precisa de um cabeçalho e de leituras.",
    ),
    "header only": (
        "t.csv",
        comma(HEADER),
        [],
        "t.csv não tem nenhuma leitura válida: só há o cabeçalho; preencha as colunas carta, evento, secao, tema, "
        "texto.",
    ),
    "no row left": (
        "t.csv",
        comma(HEADER, ("Ano Novo", "O Sol", " ", "Luz", "Texto."), ("Ano Novo", "O Sol", "Amor", "Luz", "")),
        [],
        "t.csv não tem nenhuma leitura válida: todas têm alguma célula vazia (a primeira: linha 2, coluna tema); "
        "preencha as colunas carta, evento, secao, tema, texto.",
    ),
    "picture called csv": (
        "t.csv",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        [],
        "t.csv é uma imagem, não uma tabela; indique em data.path um arquivo csv, xlsx, xls, xlsb, ods, jsonl ou "
        "parquet.",
    ),
    "word document": (
        "t.xlsx",
        zipped(**{"[Content_Types].xml": "<x/>", "word/document.xml": "<x/>"}),
        [],
        "t.xlsx é um documento do Word, não uma tabela; exporte-a, ou indique em data.path um arquivo csv, xlsx, xls, "
        "xlsb, ods, jsonl ou parquet.",
    ),
    "archive": (
        "t.zip",
        zipped(**{"leituras/t.csv": "x"}),
        [],
        "t.zip é um arquivo compactado (com leituras/t.csv), não uma tabela; exporte-a, ou indique em data.path um "
        "arquivo csv, xlsx, xls, xlsb, ods, jsonl ou parquet.",
    ),
    "pdf": (
        "t.pdf",
        b"%PDF-1.7\n...",
        [],
        "t.pdf é um PDF, não uma tabela; indique em data.path um arquivo csv, xlsx, xls, xlsb, ods, jsonl ou parquet.",
    ),
    "web page called xls": (
        "t.xls",
        "<html><body><table><tr><td>carta</td></tr></table></body></html>",
        [],
        "t.xls é uma página HTML, não uma tabela; abra-a no Excel ou no LibreOffice e salve como xlsx.",
    ),
    "lock file of an open spreadsheet": (
        "~$t.xlsx",
        b"\x05Ana  ",
        [],
        "~$t.xlsx é o arquivo temporário de uma planilha aberta; indique t.xlsx.",
    ),
    "address": (
        "https://exemplo.com/t.csv",
        None,
        [],
        "https:/exemplo.com/t.csv é um endereço da internet; baixe a tabela e indique o arquivo em data.path.",
    ),
    "half an xlsx": (
        "t.xlsx",
        xlsx(HEADER, READING)[:2000],
        [],
        "t.xlsx não é uma planilha íntegra; abra-a e salve de novo como xlsx.",
    ),
    "another program's zip": (
        "t.xlsx",
        zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet"),
        [],
        "t.xlsx não é uma planilha íntegra; abra-a e salve de novo como xlsx.",
    ),
    "half a parquet": (
        "t.parquet",
        parquet(HEADER, READING)[:300],
        [],
        "t.parquet não é um arquivo parquet íntegro; exporte a tabela de novo.",
    ),
    "missing sheet": (
        "t.xlsx",
        xlsx(HEADER, READING),
        ["--data.sheet", "Plan2"],
        "t.xlsx não tem a planilha Plan2; escolha data.sheet entre: Leituras.",
    ),
    # columns
    "column given by settings": (
        "t.csv",
        readings(Sol=9),
        ["--data.columns.tema", "assunto"],
        "t.csv não tem a coluna assunto; as colunas são: evento, carta, tema, secao, texto. Indique a certa com "
        "-P data.columns.tema=NOME, ou none se a tabela não tem esse campo (e então um -P data.template sem ele).",
    ),
    "repeated column": (
        "t.csv",
        comma((*HEADER, "tema"), (*READING, "Lar")),
        [],
        "t.csv: a coluna tema aparece mais de uma vez no cabeçalho; dê nomes diferentes.",
    ),
    "columns like no other": (
        "t.csv",
        comma(("evento", "Lâminas do mês", "tema", "secao", "O que eu vi"), READING),
        [],
        "t.csv não tem a coluna carta nem texto; as colunas são: evento, Lâminas do mês, tema, secao, O que eu vi. "
        "Indique a certa com -P data.columns.carta=NOME -P data.columns.texto=NOME.",
    ),
    "column that could be two": (
        "t.csv",
        comma(("evento", "carta", "assunto", "topico", "secao", "texto"), (*READING, "x")),
        [],
        "t.csv não tem a coluna tema; as colunas são: evento, carta, assunto, topico, secao, texto. Indique a certa "
        "com -P data.columns.tema=NOME, ou none se a tabela não tem esse campo (e então um -P data.template sem ele).",
    ),
    "sheets without the columns": (
        "t.xlsx",
        xlsx(("Instruções", "não mexer"), ("a", "b")),
        [],
        "t.xlsx (planilha Leituras) não tem a coluna carta nem evento nem secao nem tema nem texto; as colunas são: "
        "Instruções, não mexer. Indique a certa com -P data.columns.carta=NOME -P data.columns.evento=NOME "
        "-P data.columns.secao=NOME -P data.columns.tema=NOME -P data.columns.texto=NOME, ou none se a tabela não tem "
        "esses campos (e então um -P data.template sem ele).",
    ),
    # lines
    "too many fields": (
        "t.csv",
        comma(HEADER, READING, ("Ano Novo", "O Sol", "Amor", "Luz", "Abra a janela", " e olhe.")),
        [],
        't.csv, linha 3: há 6 campos para 5 colunas; ponha entre aspas o texto que contém ",".',
    ),
    "too many fields after cells of several lines": (
        "t.csv",
        'evento;carta;tema;secao;texto\r\nA;O Sol;T;S;"um\r\ndois\r\ntrês"\r\n\r\nA;O Sol;T;S;quatro; cinco\r\n',
        [],
        't.csv, linha 6: há 6 campos para 5 colunas; ponha entre aspas o texto que contém ";".',
    ),
    "unclosed quote": (
        "t.csv",
        comma(HEADER, READING) + 'A,O Sol,T,S,"sem fim\n' + comma(READING, READING),
        [],
        "t.csv, linha 3: as aspas do csv não fecham ou estão fora do lugar; corrija a linha.",
    ),
    "unclosed quote that meets the next": (
        "t.csv",
        comma(HEADER) + 'A,O Sol,T,S,"um\ndois"\nA,O Sol,T,S,"sem fim\nA,O Sol,T,S,"outro"\n',
        [],
        "t.csv, linha 4: as aspas do csv não fecham ou estão fora do lugar; corrija a linha.",
    ),
    "broken JSON": (
        "t.jsonl",
        '{"carta": "O Sol"}\n\n{"carta": "A Lua"\n',
        [],
        "t.jsonl, linha 3: não é JSON válido; cada linha deve ser um objeto JSON.",
    ),
    "half a character": (
        "t.jsonl",
        '{"carta": "O Sol \\ud83d"}\n',
        [],
        "t.jsonl, linha 1: não é JSON válido; cada linha deve ser um objeto JSON.",
    ),
    "JSON that is no object": (
        "t.jsonl",
        '["O Sol", "Abra a janela."]\n',
        [],
        't.jsonl, linha 1: deve ser um objeto JSON (ex.: {"carta": "O Sol", …}).',
    ),
    "list for a text": (
        "t.jsonl",
        '{"carta": "O Sol", "evento": "A", "secao": "S", "tema": "T", "texto": "Um."}\n'
        '{"carta": "O Sol", "evento": "A", "secao": "S", "tema": "T", "texto": ["Dois."]}\n',
        [],
        "t.jsonl, linha 2: o campo texto deve ser um texto, não uma lista, um objeto nem bytes.",
    ),
    # encodings
    "one Windows-1252 line in UTF-8": (
        "t.csv",
        comma(HEADER, ("Mudança", "A Força", "Família", "Luz", "Você é forte.")).encode()
        + "Ano Novo,A Força,Amor,Luz,Abra.\n".encode("cp1252"),
        [],
        "t.csv, linha 3: o arquivo está em UTF-8, menos esta linha; salve o arquivo inteiro em UTF-8.",
    ),
    "half of UTF-16": (
        "t.csv",
        comma(HEADER, READING).encode("utf-16")[:-1],
        [],
        "t.csv é um texto UTF-16 cortado; exporte a tabela de novo.",
    ),
    # the split
    "fewer than a dozen readings": (
        "t.csv",
        readings(Sol=9, Lua=2),
        [],
        "t.csv tem só 11 leituras válidas, e são precisas pelo menos 12; acrescente leituras.",
    ),
    "one reading": (
        "t.csv",
        comma(HEADER, READING),
        [],
        "t.csv tem só 1 leitura válida, e são precisas pelo menos 12; acrescente leituras.",
    ),
}


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def training_words(
    module_store: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Sequence[str]:
    """The words of a training on a base that is at hand, in an empty working folder."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", module_store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(module_store)
    return "train", "--model.name", str(tiny_base), "--tracking.system_metrics", "false"


@pytest.mark.parametrize(("name", "content", "words", "message"), DATA_MISTAKES.values(), ids=DATA_MISTAKES.keys())
def test_a_table_that_cannot_be_used_is_answered_with_one_sentence(
    name: str,
    content: str | bytes | None,
    words: list[str],
    message: str,
    training_words: Sequence[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert cli.main([*training_words, "--data.path", name, *words]) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().out.splitlines()[-1] == f"❌ {message}"
    client = mlflow.MlflowClient()
    place = client.get_experiment_by_name("cartas-ptt5").experiment_id
    failed = client.search_runs([place], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", message)


@pytest.mark.slow
def test_a_table_with_its_own_column_names_and_template_trains(
    training_words: Sequence[str],
    bundled_rows: list[dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"carta": "Arcano", "tema": "Área da vida", "texto": "Leitura"}
    rows = [{names[field]: row[field] for field in names} for row in bundled_rows[:42]]
    (tmp_path / "minhas.xlsx").write_bytes(xlsx(tuple(names.values()), *(tuple(row.values()) for row in rows)))
    columns = {**names, "evento": "none", "secao": "none"}
    words = [word for field, column in columns.items() for word in (f"--data.columns.{field}", column)]
    settings = ["--data.template", "Leia {carta} para {tema}:", "--epochs", "1", "--generation.max_new_tokens", "4"]
    assert cli.main([*training_words, "--data.path", "minhas.xlsx", *words, *settings]) == cli.EXIT_OK
    output = capsys.readouterr().out
    assert "Dataset dividido: 35 treino, 7 validação\n" in output
    assert re.search(r"^Exemplo de pedido: Leia (O Louco|O Mago) para \w+:$", output, re.MULTILINE)


def test_a_wrong_setting_is_refused_before_the_heavy_libraries_are_imported(tmp_path: Path) -> None:
    check = (
        "import sys; from cartas_mlflow.cli import main; code = main(['train', '--lr', '3']); "
        "print(sorted({'torch', 'transformers', 'mlflow', 'pandas'} & set(sys.modules))); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, result.stderr, result.stdout.splitlines()[1]) == (2, "", "[]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "--epochs", "0"],
            "A configuração training.epochs=0 (linha de comando) não serve: deve ser no mínimo 1.",
        ),
        (
            ["train", "--config", "nada.yaml"],
            "O arquivo de configuração nada.yaml não existe; confira o caminho (ex.: configs/default.yaml).",
        ),
        (
            ["train", "--data.template", "interpretação da {cartas}"],
            "data.template usa {cartas}, que não é um campo do pedido; você quis dizer {carta}?",
        ),
        (["trian"], "O comando trian não existe; você quis dizer train?"),
    ],
)
@pytest.mark.parametrize("locale", ["pt_BR.UTF-8", "C"])
def test_a_process_ends_with_code_2_one_sentence_and_nothing_left_behind(
    words: list[str], message: str, locale: str, tmp_path: Path
) -> None:
    result = run_process(*words, folder=tmp_path, LC_ALL=locale, PYTHONIOENCODING="")
    assert (result.returncode, result.stdout, result.stderr) == (2, f"❌ {message}\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_whose_table_is_wrong_ends_with_code_2_and_no_traceback(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(readings(Sol=9, Lua=1), encoding="utf-8")
    result = run_process("train", "--data.path", "t.csv", "--model.name", str(tiny_base), folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout.splitlines()[-1].startswith("❌ t.csv tem só 10 leituras válidas, ")
    assert "Traceback" not in result.stdout + result.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: str, overrides: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("cartas_mlflow.pipelines.train.train", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


def test_an_interruption_ends_with_the_shells_code_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: str, overrides: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("cartas_mlflow.pipelines.train.train", interrupt)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().out == "⚠️ Interrompido pelo usuário (Ctrl+C)\n"


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ([], {}),
        (["--lora.r", "32", "--training.epochs=5"], {"lora.r": "32", "training.epochs": "5"}),
        (["--generation.length_penalty", "-0.5"], {"generation.length_penalty": "-0.5"}),
        (["--data.template", "Leia {carta}, seção {secao}:"], {"data.template": "Leia {carta}, seção {secao}:"}),
        (["--data.template={carta} = {tema}"], {"data.template": "{carta} = {tema}"}),
        (["--data.template=--{carta}--"], {"data.template": "--{carta}--"}),
        (["--tracking.run_name", "-h de hoje"], {"tracking.run_name": "-h de hoje"}),
        (["--tracking.run_name", ""], {"tracking.run_name": ""}),
    ],
)
def test_words_are_read_as_settings_with_their_values(words: list[str], overrides: dict[str, str]) -> None:
    assert cli.read_overrides(words) == overrides


def test_what_was_typed_reaches_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    def remember(config: str, overrides: dict[str, str]) -> int:
        seen.append((config, overrides))
        return 0

    monkeypatch.setattr("cartas_mlflow.pipelines.train.train", remember)
    assert cli.main(["train"]) == 0
    assert cli.main(["train", "--config", "configs/mini.yaml", "--epochs", "auto", "--lora.r=8"]) == 0
    assert seen == [
        ("configs/default.yaml", {}),
        ("configs/mini.yaml", {"epochs": "auto", "lora.r": "8"}),
    ]


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_the_help_names_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == (cli.EXIT_OK if words else cli.EXIT_USER_ERROR)
    text = capsys.readouterr().out
    assert text.startswith("uso: python -m cartas_mlflow COMANDO [--config ARQUIVO] [--seção.nome valor ...]\n")
    assert all(f"\n  {name}" in text for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--epochs", "3", "-h"], ["--help", "--epochs", "3"]])
def test_a_commands_help_lists_every_setting_whatever_the_process_was_called_with(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["outro programa"])
    assert cli.main(["train", *words]) == cli.EXIT_OK
    text = capsys.readouterr().out
    assert text.startswith("uso: python -m cartas_mlflow train [--config ARQUIVO]")
    assert all(f"\n  --{name} " in text for name in setting_names())


@pytest.mark.parametrize(
    "line",
    [
        "--training.epochs épocas de treino [≥ 1, ≤ 10000] (padrão: 20)",
        "--lora.dropout dropout na entrada do adaptador [≥ 0, < 1] (padrão: 0.1)",
        "--lora.bias vieses treinados [none | all | lora_only] (padrão: none)",
        "--generation.do_sample sortear em vez de escolher o mais provável [true | false] (padrão: false)",
        "--model.revision revisão (commit, ramo ou tag) do modelo no hub (padrão: none)",
    ],
)
def test_the_help_tells_each_settings_meaning_bounds_and_default(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    assert line in [" ".join(row.split()) for row in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_the_help_is_portuguese_throughout(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(words)
    english = re.compile(r"usage|options?:|arguments?|show this|default:|required|optional|error", re.IGNORECASE)
    assert english.findall(capsys.readouterr().out) == []


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == cli.EXIT_OK
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "O comando trian não existe; você quis dizer train?"),
        (["fazer"], "O comando fazer não existe; use um destes: "),
        (["--epochs", "3"], "Falta o comando antes de --epochs; escreva python -m cartas_mlflow train --epochs …"),
    ],
)
def test_a_wrong_command_names_the_right_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().out.startswith(f"❌ {message}")
