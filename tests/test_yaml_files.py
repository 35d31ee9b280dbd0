"""YAML that no settings file needs: one sentence within a second, whatever it is."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from string import ascii_lowercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.yaml_files import DEEPEST, LARGEST_FILE, MOST_VALUES, parse_yaml

LEVELS = f"mais de {DEEPEST} níveis"
VALUES = f"mais de {MOST_VALUES} valores"


def each_ten_times_the_last(kind: str) -> str:
    """``a``, and then nine more, each of which names the one before it ten times."""
    steps = itertools.pairwise(ascii_lowercase[:10])
    return "\n".join(kind.format(new=new, ten=", ".join([f"*{old}"] * 10)) for old, new in steps)


MONSTERS: dict[str, tuple[str | bytes, str]] = {
    # depth
    "lists in lists": ("a: " + "[" * 3000 + "]" * 3000, f"linha 1: {LEVELS}"),
    "maps in maps": ("{a: " * 3000 + "1" + "}" * 3000, f"linha 1: {LEVELS}"),
    "maps that never close": ("{a: " * 3000, f"linha 1: {LEVELS}"),
    "indented maps": ("\n".join(" " * depth + "a:" for depth in range(400)), f"linha {DEEPEST}: {LEVELS}"),
    "dashes in a row": ("- " * 3000, f"linha 1: {LEVELS}"),
    "keys of keys": ("? " * 3000, f"linha 1: {LEVELS}"),
    # what refers to itself, or repeats itself
    "a map in itself": ("&a\ntraining: *a\n", "linha 2: *a está dentro de si mesmo"),
    "a list in itself": ("lora: {target_modules: &a [*a]}", "linha 1: *a está dentro de si mesmo"),
    "a map that is its own key": ("&a {? *a : 1}", "linha 1: *a está dentro de si mesmo"),
    "an alias of nothing": ("training: *x", "linha 1 não é YAML válido"),
    "aliases that explode": (f"a: &a [1]\n{each_ten_times_the_last('{new}: &{new} [{ten}]')}", VALUES),
    "merges that explode": (f"a: &a {{k: 1}}\n{each_ten_times_the_last('{new}: &{new} {{<<: [{ten}]}}')}", VALUES),
    # size
    "a table": ("x" * (LARGEST_FILE + 1), f"passa de {LARGEST_FILE // 1024} kB"),
    "many values": (f"a: [{','.join(['1'] * 40_000)}]", VALUES),
    "many names": ("\n".join(f"k{number}: 1" for number in range(9_000)), VALUES),
    "a long name": ("x" * 1000 + ": 1", "… (1000 caracteres) (c.yaml) não existe"),
    "a long value": (f"training: {{epochs: {'x' * 60_000}}}", "… (60000 caracteres) (c.yaml) não serve"),
    # numbers
    "6,000 digits": (f"training: {{epochs: {'9' * 6000}}}", "linha 1: um número de 6000 algarismos"),
    "6,000 hexadecimal digits": (f"training: {{epochs: 0x{'f' * 6000}}}", "um número de 6002 algarismos"),
    "6,000 digits in sixties": (f"training: {{epochs: 1{':10' * 2000}}}", "um número de 6001 algarismos"),
    "6,000 decimal digits": (f"lora: {{alpha: 1.{'9' * 6000}}}", "um número de 6002 algarismos"),
    "6,000 quoted digits": (f'training: {{epochs: "{"9" * 6000}"}}', "não serve: tem algarismos demais"),
    "6,000 quoted digits for a decimal": (f'lora: {{alpha: "{"9" * 6000}"}}', "deve ser um número"),
    "200 digits": (f"training: {{epochs: {'9' * 200}}}", "deve ser no máximo 10000"),
    "no number": ("lora: {alpha: .nan}", "lora.alpha=nan (c.yaml) não serve: deve ser um número"),
    "no whole number": ("lora: {r: .nan}", "lora.r=nan (c.yaml) não serve: deve ser um número"),
    "infinity": ("lora: {alpha: .inf}", "lora.alpha=inf (c.yaml) não serve: deve ser um número"),
    "infinity for a whole number": ("lora: {r: -.inf}", "lora.r=-inf (c.yaml) não serve: deve ser um número"),
    "beyond every number": ("lora: {alpha: 1.0e+999}", "lora.alpha=inf (c.yaml) não serve: deve ser um número"),
    "digits that are none": ("lora: {r: 0x_}", "linha 1: 0x_ parece um número, mas não é"),
    # dates
    "a date": ("training: {epochs: 2025-01-02}", "training.epochs=2025-01-02 (c.yaml) não serve"),
    "a month too many": ("training: {epochs: 2025-13-45}", "linha 1: 2025-13-45 parece uma data, mas não é"),
    "an hour too many": ("lora: {r: 2025-01-01T99:00:00}", "parece uma data, mas não é"),
    "no such time zone": ("lora: {r: 2001-01-01T00:00:00+99:99}", "parece uma data, mas não é"),
    "the end of time": ("lora: {r: 9999-12-31T23:59:59-23:59}", "deve ser um número inteiro"),
    # tags
    "binary": ("lora: {r: !!binary aGk=}", "a marca tag:yaml.org,2002:binary não serve numa configuração"),
    "a number by force": ("lora: {r: !!int abc}", "a marca tag:yaml.org,2002:int não serve"),
    "a date by force": ("lora: {r: !!timestamp x}", "a marca tag:yaml.org,2002:timestamp não serve"),
    "a set": ("lora: !!set {r, alpha}", "a marca tag:yaml.org,2002:set não serve"),
    "Python": ("a: !!python/object/apply:os.getcwd []", "a marca tag:yaml.org,2002:python/object"),
    "a tag of one's own": ("lora: !x {r: 3}", "a marca !x não serve"),
    # names
    "a number for a name": ("training: {1: 2}", "linha 1: 1 não é o nome de uma configuração"),
    "yes for a name": ("yes: 2", "linha 1: yes não é o nome de uma configuração"),
    "nothing for a name": ("~: 2", "linha 1: ~ não é o nome de uma configuração"),
    "a date for a name": ("2025-01-01: 2", "2025-01-01 não é o nome de uma configuração"),
    "a list for a name": ("? [a, b]\n: c", "uma lista ou um mapa não é o nome de uma configuração"),
    "a name twice": ("lora: {r: 3, alpha: 1, 'r': 4}", "linha 1: r aparece duas vezes"),
    "a name twice, dotted": ("lora.r: 3\nlora: {r: 4}", "lora.r (c.yaml) aparece duas vezes"),
    # sections
    "a list for a section": ("training: [1, 2]", "training (c.yaml) é uma seção"),
    "an empty list for a section": ("training: []", "training (c.yaml) é uma seção"),
    "an empty text for a section": ("training: ''", "training (c.yaml) é uma seção"),
    "a list for a section within": ("data: {columns: [carta]}", "data.columns (c.yaml) é uma seção"),
    "an empty section for a setting": ("training: {epochs: {}}", "training.epochs={} (c.yaml) não serve"),
    "an empty section of no name": ("treinamento: {}", "treinamento (c.yaml) não existe"),
    "a list of nothing": ("[]", "deve ser um mapa de seções"),
    "false": ("false", "deve ser um mapa de seções"),
    "zero": ("0", "deve ser um mapa de seções"),
    # the file
    "a tab": ("lora:\n\tr: 3\n", "linha 2: há uma tabulação; recue com espaços"),
    "two documents": ("lora: {r: 3}\n---\nlora: {r: 4}", "linha 2: começa um segundo documento (---)"),
    "another version of YAML": ("%YAML 9.9\n---\na: 1", "não é YAML válido"),
    "UTF-16": ("lora: {r: 3}".encode("utf-16"), "não é um texto UTF-8"),
    "zeros": (b"\0" * 100, "não é YAML válido"),
    "a null character": ('model: {name: "a\\0b"}', "não serve: tem um caractere nulo"),
    "half a character": ('model: {name: "\\ud800"}', "não serve: tem um caractere que não é texto"),
    "a parent of no possible name": ('extends: "a\\0b"', "não pôde ser lida"),
    "a parent of half a character": ('extends: "\\ud800"', "não pôde ser lida"),
    "a parent that is the folder": ("extends: .", "é uma pasta"),
    "a fallback of no possible name": ('model: {fallback: "a\\x01b"}', "não existe"),
}


@pytest.mark.parametrize(("content", "sentence"), MONSTERS.values(), ids=MONSTERS.keys())
def test_a_monstrous_file_is_one_sentence_within_a_second(
    content: str | bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    started = time.perf_counter()
    with pytest.raises(SettingError) as error:
        load_config("c.yaml")
    assert time.perf_counter() - started < 1
    assert sentence in str(error.value)
    assert len(str(error.value)) < 300


def test_a_file_without_end_is_one_sentence() -> None:
    with pytest.raises(SettingError, match=f"passa de {LARGEST_FILE // 1024} kB"):
        load_config("/dev/zero")


def test_a_thousand_files_that_extend_each_other_are_no_recursion(tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n", encoding="utf-8")
    (tmp_path / "1000.yaml").write_text("lora: {r: 3}", encoding="utf-8")
    assert load_config(tmp_path / "0.yaml").lora.r == 3


def test_a_file_that_is_a_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").symlink_to(tmp_path / "c.yaml")
    with pytest.raises(SettingError, match="não pôde ser lida"):
        load_config(tmp_path / "c.yaml")


def test_anchors_that_help_are_read(tmp_path: Path) -> None:
    text = "lora: &pouco {r: 3, alpha: 6}\nlora.dropout: &zero 0\ntraining: {weight_decay: *zero}\n"
    assert parse_yaml(text.encode(), "c.yaml")["training"] == {"weight_decay": 0}
    assert parse_yaml(b"a: &a {r: 3}\nb: {<<: *a, alpha: 1}", "c.yaml")["b"] == {"r": 3, "alpha": 1}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80), st.text("{}[]:,-?&*!|>'\"%@ \n\tax0.~<=", max_size=60)))
def test_whatever_the_bytes_they_are_a_map_or_one_sentence(content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    try:
        tree = parse_yaml(data, "c.yaml")
    except SettingError as error:
        assert "\n" not in str(error).replace("\\n", "")
    else:
        assert isinstance(tree, dict)
