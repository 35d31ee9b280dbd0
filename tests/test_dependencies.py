"""pyproject.toml (ranges, for pip) and conda.yaml (exact pins, for MLproject) name one and the same set of packages."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from cartas_mlflow.config import PROJECT_ROOT


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def ranges(project: dict[str, Any]) -> dict[str, SpecifierSet]:
    requirements = map(Requirement, project["dependencies"])
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements}


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return yaml.safe_load((PROJECT_ROOT / "conda.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pins(environment: dict[str, Any]) -> dict[str, Version]:
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pairs = [line.split("==") for line in pip]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_both_files_name_the_same_packages(ranges: dict[str, SpecifierSet], pins: dict[str, Version]) -> None:
    assert sorted(ranges) == sorted(pins)


def test_every_range_admits_its_pin(ranges: dict[str, SpecifierSet], pins: dict[str, Version]) -> None:
    assert [name for name, pin in pins.items() if pin not in ranges[name]] == []


def test_every_range_ends_before_the_next_minor_version(
    ranges: dict[str, SpecifierSet], pins: dict[str, Version]
) -> None:
    for name, pin in pins.items():
        assert f"{pin.major}.{pin.minor + 1}" not in ranges[name], name
        assert f"{pin.major + 1}.0" not in ranges[name], name


def test_the_environments_python_is_exact_and_admitted(project: dict[str, Any], environment: dict[str, Any]) -> None:
    assert "python=3.11.7" in environment["dependencies"]
    assert "3.11.7" in SpecifierSet(project["requires-python"])


def test_every_package_that_the_code_imports_is_declared(ranges: dict[str, SpecifierSet]) -> None:
    declared = set(ranges)
    distributions = importlib.metadata.packages_distributions()
    imported = set()
    for path in (PROJECT_ROOT / "cartas_mlflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).split(".")[0])
    foreign = imported - sys.stdlib_module_names - {"cartas_mlflow"}
    assert {name for name in foreign if not set(map(canonicalize_name, distributions[name])) & declared} == set()
