"""The floors of the project: a package imports only from the floors below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "common": set(),
    "vsd": {"common"},
    "scene": {"common"},
    "toybox": {"common", "vsd", "scene"},
    "datamodules": {"common", "vsd", "scene", "toybox"},
    "lightning_modules": {"common", "vsd", "scene", "toybox"},
    "benchmarks": {"common", "vsd", "scene", "toybox"},
    "evaluation": {"common", "vsd", "scene", "toybox", "datamodules", "lightning_modules", "benchmarks"},
    "gallery": {"common", "lightning_modules"},
}


def imported(file: Path) -> set[str]:
    """The dotted names of the modules that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_from_below(package):
    allowed = BELOW[package] | {package}
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in imported(file)
        if name.partition(".")[0] in BELOW.keys() - allowed
    }
    assert not wrong


def test_the_run_machinery_knows_no_stage():
    for file in (ROOT / "lightning_modules" / "run").glob("*.py"):
        ours = {name for name in imported(file) if name.startswith("lightning_modules.")}
        assert all(name.startswith("lightning_modules.run.") for name in ours), file
