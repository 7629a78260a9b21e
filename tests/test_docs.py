"""The documentation: it builds, with every module in its API pages, and what it tells people to type exists."""

import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from gallery import command, table
from lightning_modules import export

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "toybox" / "weights" / "README.md", *sorted(DOCS.rglob("*.md"))]
PROGRAMS = r"(?:vsd (?:fit|validate|test|predict|export|runs|gallery)|dream|make|python -m [\w.]+)\b"


def nav(entries):
    """The pages of a nav and its parts."""
    for entry in entries:
        (below,) = entry.values()
        yield from [below] if isinstance(below, str) else nav(below)


def pages_of_the_nav():
    return list(nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))


def test_every_page_is_in_the_nav():
    outside = {"index.md", "CHANGELOG.md", "benchmarks/RESULTS.md", "toybox/weights/README.md"}
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | outside
    pages = pages_of_the_nav()
    assert len(pages) == len(set(pages))
    assert set(pages) == written | {f"api/{file.parent.name}.md" for file in ROOT.glob("*/__init__.py")}


def lines_of_code(page):
    """What a page shows as code: its indented lines and blocks, with continued lines joined, and code within lines."""
    text = re.sub(r"```python.*?```", "", page.read_text(), flags=re.DOTALL).replace("\\\n", " ")
    yield from (line.strip() for line in text.splitlines() if line.startswith("    "))
    yield from (" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def commands():
    """Everything on all pages that begins with one of the project's programs: page, program, the rest."""
    for page in PAGES:
        for line in lines_of_code(page):
            for found in re.finditer(rf"(?:^|; |do |dream .* -- |preset=\S+ )({PROGRAMS})([^;#]*)", line):
                yield page.name, found[1], found[2]


@pytest.fixture
def options(monkeypatch, capsys):
    """The options in the help of a program."""
    homes = {"dream": command.dream, "vsd runs": table.main, "vsd gallery": command.main, "vsd export": export.main}

    @cache
    def asked(program):
        name = program.removeprefix("python -m ")
        if program in homes:
            main = homes[program]
        else:
            main = importlib.import_module("toybox.__main__" if name == "toybox" else name).main
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit):
            main(["--help"]) if program.startswith("vsd") else main()
        return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out))

    return asked


def test_every_command_and_its_options_exist(options):
    makefile = (ROOT / "Makefile").read_text()
    seen = list(commands())
    assert len(seen) > 60
    for page, program, rest in seen:
        where = f"{page}: {program}{rest}"
        if program == "make":
            targets = [word for word in rest.split('"')[0].split() if re.fullmatch(r"[a-z-]+", word)]
            assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets[:1]), where
            assert all(re.search(rf"^{name} \?=", makefile, re.MULTILINE) for name in re.findall(r"\b([A-Z]+)=", rest))
        elif program.split()[0] != "vsd" or program in ("vsd export", "vsd runs", "vsd gallery"):
            own = rest.partition(" -- ")[0]
            unknown = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", own)) - options(program)
            assert not unknown, (where, unknown)


def test_every_file_and_folder_that_is_named_exists():
    path = re.compile(r"(?<![\w/.])((?:configs|examples|tests|docs|evaluation|vsd|scene|toybox)/[\w/.-]*\w)(?![\w*])")
    named = {(page.name, found) for page in PAGES for found in path.findall(page.read_text())}
    assert len(named) > 60
    assert not {(page, name) for page, name in named if not (ROOT / name).exists()}


def test_every_dotted_option_is_one_of_a_class():
    """Of options such as --model.losses.entropy the last name, and of keys of vsd fit, is a name in the sources."""
    packages = [file.parent for file in ROOT.glob("*/__init__.py")]
    source = "\n".join(file.read_text() for package in packages for file in package.rglob("*.py"))
    lightning = {"accelerator", "devices", "num_nodes", "default_root_dir", "max_steps", "strategy", "class_path"}
    lightning.add("val_check_interval")
    dotted = re.compile(r"--((?:trainer|model|data|checkpoint)\.[\w.]+)")
    asked = {(page.name, option) for page in PAGES for option in dotted.findall(page.read_text())}
    assert len(asked) > 20
    for page, option in asked:
        parts = [part for part in option.split(".")[1:] if part not in ("callbacks", "init_args")]
        for part in parts:
            assert part in lightning or re.search(rf"\b{part}: ", source), (page, option)


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("latex2mathml") is None,
    reason="the site is NOT built: needs pip install '.[docs]'",
)
def test_the_site_builds_without_a_warning_and_asks_nobody_for_anything(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|source|video|iframe)[^>]* src=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*href=\"?([^\" >]+)", text)
        assert loaded and not [address for address in loaded if "//" in address], page
    for file in ROOT.glob("*/__init__.py"):
        package = file.parent
        text = (tmp_path / "api" / f"{package.name}.html").read_text()
        for module in {module for module in package.rglob("*.py") if not module.name.startswith("__")}:
            name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
            assert f'id="{name}"' in text or f"id={name}" in text, name
    equations = (tmp_path / "method.html").read_text()
    assert equations.count("<math") > 30 and "arithmatex" not in equations and "$" not in equations
