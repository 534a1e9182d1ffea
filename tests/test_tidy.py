"""The tree keeps its own rules: layers, sizes, docstrings, links, generated code, documents.

What a tool of its own checks (ruff, mypy) is not repeated here; STYLE.md gives the reasons.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from luciole import config
from luciole.errors import FACTS, Kind
from luciole.proto import generate

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
COMPONENTS = ("client", "deploy", "kvcache", "meta", "mgmtd", "proto", "storage", "tests")
CODE_FOLDERS = (*COMPONENTS, "src", "benchmarks", ".ci")
CODE_SUFFIXES = {".py", ".proto", ".sh", ".toml"}
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
# Spelled so that this file does not contain them.
BANNED_WORDS = re.compile(rf"\b({'TO'}DO|{'FIX'}ME|{'XX'}X)\b")
MARKDOWN_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
REQUIREMENT_ROW = re.compile(r"^\| `([^`]+)` \|", re.M)


def walk(folder: Path) -> Iterator[Path]:
    """Files below `folder`, without following links, which would lead through the tree twice."""
    for directory, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name != "__pycache__")
        yield from (Path(directory, name) for name in sorted(files))


def is_generated(path: Path) -> bool:
    """Whether proto/generate.py writes this file."""
    return path.name.endswith(("_pb2.py", "_pb2.pyi")) or path == ROOT / "proto" / "services.py"


def code_files() -> list[Path]:
    """Everything that people wrote and machines read."""
    found = [path for path in ROOT.iterdir() if path.suffix == ".toml" or path.name == "Makefile"]
    for folder in CODE_FOLDERS:
        found += [path for path in walk(ROOT / folder)
                  if path.suffix in CODE_SUFFIXES or folder == ".ci"]
    return [path for path in found if not is_generated(path)]


def modules() -> dict[Path, ast.Module]:
    """Every Python module that people wrote, parsed."""
    return {path: ast.parse(path.read_text(), str(path))
            for path in code_files() if path.suffix == ".py"}


def shown(path: Path) -> str:
    """A path as a person names it."""
    return str(path.relative_to(ROOT))


def test_imports_keep_to_the_layers() -> None:
    command = shutil.which("lint-imports", path=Path(sys.executable).parent)
    assert command, "import-linter is missing: make setup"
    result = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)})
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("component", COMPONENTS)
def test_component_is_linked_into_the_package(component: str) -> None:
    link = SOURCE / "luciole" / component
    assert link.is_symlink(), f"src/luciole/{component} must be a link, so that it can be imported"
    assert os.readlink(link) == f"../../{component}"
    assert (ROOT / component / "__init__.py").is_file(), "import-linter sees packages only"


def test_there_is_no_other_link() -> None:
    links = {path.name for path in (SOURCE / "luciole").iterdir() if path.is_symlink()}
    assert links == set(COMPONENTS)


def test_modules_are_short_and_say_what_they_are() -> None:
    parsed = modules()
    long = [shown(path) for path in parsed
            if len(path.read_text().splitlines()) > MODULE_LINES_MAX]
    silent = [shown(path) for path, tree in parsed.items() if not ast.get_docstring(tree)]
    assert (long, silent) == ([], [])


def test_functions_are_short() -> None:
    long = [
        f"{shown(path)}:{node.lineno} {node.name}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{shown(path)}:{number}"
        for path in code_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED_WORDS.search(line)
    ]
    assert found == []


def test_compiled_protocol_is_current(tmp_path: Path) -> None:
    generate.run_protoc(SOURCE, tmp_path)
    made = {path.name: path.read_text() for path in walk(tmp_path)}
    kept = {path.name: path.read_text() for path in (ROOT / "proto").iterdir()
            if path.name.endswith(("_pb2.py", "_pb2.pyi"))}
    assert made.keys() == kept.keys()
    stale = [name for name in made if made[name] != kept[name]]
    assert stale == [], "run make proto"


def test_service_contracts_are_current() -> None:
    kept = (ROOT / "proto" / "services.py").read_text()
    assert generate.render_services(ROOT / "proto") == kept, "run make proto"


def test_every_error_kind_has_its_facts() -> None:
    assert FACTS.keys() == set(Kind.values()) - {Kind.OK}


@pytest.mark.parametrize("service", config.CONFIGS)
def test_config_file_shows_the_defaults(service: str) -> None:
    folder = ROOT / "deploy" / "config"
    if not folder.is_dir():
        pytest.skip("deploy/config is not there yet")
    content = tomllib.loads((folder / f"{service}.toml").read_text())
    assert content == msgspec.to_builtins(config.CONFIGS[service]())


def test_dependencies_are_argued_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        declared += extra
    argued = REQUIREMENT_ROW.findall((ROOT / "docs" / "dependencies.md").read_text())
    assert sorted(argued) == sorted(declared)


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [
        f"{shown(document)}: {target}"
        for document in documents
        for target in MARKDOWN_LINK.findall(document.read_text())
        if "://" not in target and not target.startswith("mailto:")
        and not (document.parent / target).exists()
    ]
    assert documents
    assert broken == []


def test_no_two_methods_of_a_service_share_a_number() -> None:
    """Branches that meet may both have taken the next one; protobuf does not notice."""
    for path in sorted((ROOT / "proto").glob("*.proto")):
        text = path.read_text()
        for service in re.findall(r"^service \w+ \{.*?^\}", text, re.M | re.S):
            numbers = re.findall(r"method_id\) = (\d+)", service)
            assert len(numbers) == len(set(numbers)), path.name
