"""The house: imports point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cartas_mlflow.cli import COMMANDS
from cartas_mlflow.config import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "cartas_mlflow"
MODULES = sorted(PACKAGE.rglob("*.py"))
PIPELINES = sorted(path for path in (PACKAGE / "pipelines").glob("*.py") if path.stem != "__init__")
FLOORS = (
    {"__main__"},
    {"cli"},
    {"pipelines"},
    {"search"},
    {"training"},
    {"registry", "pretraining"},
    {"modeling", "data"},
    {"evaluation", "tracking", "config"},
    {"files"},
    {"setting_checks", "yaml_files"},
    {"settings"},
    {"pretrain_settings"},
    {"setting_types", "console", "environment", "errors", "original"},
)
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "datasets", "evaluate", "mlflow", "pandas", "sklearn"}


def room(module: str) -> str:
    """``cartas_mlflow.data.records`` -> ``data``; the package itself is ``""``."""
    return [*module.split("."), ""][1]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that the file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: relative import"
            if node.module in {"cartas_mlflow"} | {f"cartas_mlflow.{name}" for floor in FLOORS for name in floor}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def python(code: str, *, options: tuple[str, ...] = ()) -> str:
    """What the code prints in a process of its own."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_every_room_of_the_package_has_its_floor() -> None:
    rooms = {room(module_name(path)) for path in MODULES} - {""}
    assert rooms <= set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    here = room(module_name(path))
    for target in imported_modules(path):
        there = room(target)
        if not target.startswith("cartas_mlflow.") or there in {here, "__version__"}:
            continue
        assert floor_of(there) > floor_of(here), f"{module_name(path)} imports {target}"


@pytest.mark.parametrize("path", PIPELINES, ids=module_name)
def test_a_pipeline_is_one_public_function_named_after_its_file(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert functions == [path.stem]


def test_every_pipeline_is_a_command() -> None:
    assert {path.stem for path in PIPELINES} == set(COMMANDS)


@pytest.mark.parametrize("name", ["data", "evaluation"])
def test_data_and_evaluation_import_nothing_heavy_until_it_is_used(name: str) -> None:
    modules = [module_name(path) for path in sorted((PACKAGE / name).rglob("*.py"))]
    code = f"import sys, {', '.join(modules)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert python(code) == "[]\n"


def test_the_commands_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cartas_mlflow.cli import main; main(['train', '--help']); "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    assert python(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_the_help_answers_at_once(words: list[str]) -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "cartas_mlflow", *words],
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
            capture_output=True,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.7


def test_no_module_is_a_drawer_for_everything() -> None:
    assert {path.stem for path in MODULES} & {
        "utils",
        "util",
        "helpers",
        "helper",
        "manager",
        "misc",
        "common",
    } == set()
