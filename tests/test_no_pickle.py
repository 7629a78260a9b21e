"""Nothing that the project reads may run code: no pickle, and torch.load of tensors and plain values alone."""

import ast
from pathlib import Path

import pytest
import torch

from common.cache import load_weights, read_cached
from toybox.judges import parts_training, views
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.views import ViewClassifier

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "common",
    "scene",
    "vsd",
    "toybox",
    "datamodules",
    "lightning_modules",
    "gallery",
    "evaluation",
    "benchmarks",
)
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN = {"eval", "exec", "unsafe_load", "full_load", "Unpickler", "allow_pickle"}


def faults(source: str) -> list[str]:
    """Lines of a module that read what may run code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            loads = called in ("torch.load", "load") and "weights_only" in words
            unsafe = called == "torch.load" and words.get("weights_only") != "True"
            unsafe |= (
                called.partition(".")[0] in RUNS_CODE or called in FORBIDDEN or name in ("unsafe_load", "Unpickler")
            )
            unsafe |= words.get("allow_pickle") == "True" or (loads and words["weights_only"] == "False")
            if called == "yaml.load":
                unsafe |= "Loader" not in words and len(node.args) < 2
            if unsafe:
                found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reads_what_may_run_code(package):
    wrong = {str(file): found for file in (ROOT / package).rglob("*.py") if (found := faults(file.read_text()))}
    assert not wrong


@pytest.mark.parametrize("line", [
    "torch.load(path)", "torch.load(path, weights_only=False)", "pickle.loads(x)", "np.load(x, allow_pickle=True)",
    "yaml.load(text)", "yaml.unsafe_load(text)", "eval(text)",
])  # fmt: skip
def test_the_search_finds_what_it_is_for(line):
    assert faults(line)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A file whose reader, should it unpickle, leaves a file."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    Path("touched").unlink()  # so it is malicious
    return tmp_path / "evil.pt"


def test_a_malicious_file_in_the_cache_is_no_cache(evil, caplog):
    assert read_cached(evil) is None
    assert "damaged" in caplog.text and not Path("touched").exists()


def test_malicious_weights_in_the_cache_are_named_and_not_loaded(evil, caplog):
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    assert not load_weights(evil, network) and torch.equal(network.weight, before)
    assert f"{evil} is damaged" in caplog.text and not Path("touched").exists()


@pytest.mark.parametrize("where", ["parts", "views"])
def test_malicious_weights_of_a_judge_are_replaced(evil, monkeypatch, caplog, where):
    parts_network, views_network = PartsNetwork(), ViewClassifier()
    judges = {
        "parts": (
            *(parts_training, "train_parts_judge", PartsJudge(parts_network), parts_network),
            lambda: parts_training.parts_judge("duck", 1, 1).network,
        ),
        "views": (
            *(views, "train_view_classifier", views_network, views_network),
            lambda: views.cached_view_classifier([1], 1),
        ),
    }
    module, train, result, trained, judge = judges[where]
    monkeypatch.setattr(module, train, lambda *_: result)
    monkeypatch.setattr(parts_training, "incomplete_renders", lambda *_, **__: ())
    monkeypatch.setattr(parts_training, "calibrate", lambda *_: None)
    monkeypatch.setattr(module, "cache_folder", lambda: evil.parent / "cache")
    judge()
    (file,) = (path for path in (evil.parent / "cache").rglob("*") if path.is_file())
    file.write_bytes(evil.read_bytes())
    assert judge() is trained and f"{file} is damaged" in caplog.text and not Path("touched").exists()
    caplog.clear()
    assert judge() is not trained and not caplog.text, "the new file is used"
