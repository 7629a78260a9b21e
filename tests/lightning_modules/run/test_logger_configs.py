import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace
from small_runs import ROOT, fit, resume
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.run.config import log_offline
from lightning_modules.run.folder import CONFIG

SHORT = ("--trainer.val_check_interval=2", "--model.particles=1", "--prompt=a blue duck")


def shown(logger):
    return f"--config={ROOT / 'configs' / 'loggers' / logger}.yaml"


def require_no_places(folder, place):
    """No file that a logger uploads tells where on the machine the run, the program or the user's folder lie."""
    places = [str(place), str(ROOT), sys.prefix, str(Path.home())]
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "logs":  # which wandb keeps for itself
            found = [place for place in places if len(place) > 5 and place.encode() in path.read_bytes()]
            assert not found, f"{path} holds {found}"


def test_wandb_gets_pictures_video_and_configuration_and_keeps_its_id_over_a_resume(elsewhere, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr("secrets.token_hex", lambda _: "1e345678")  # a number, had it no letter before it
    for name in ("WANDB_X_DISABLE_META", "WANDB_CONSOLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "0123456789" * 4)
    fit(shown("wandb"), *SHORT, steps=2)
    (folder,) = (elsewhere / "runs" / "a-blue-duck").iterdir()
    identity = yaml.safe_load((folder / CONFIG).read_text())["trainer"]["logger"][0]["init_args"]["id"]
    resume(folder, "--trainer.max_steps=3")
    first, second = sorted((folder / "wandb").glob("offline-run-*"))
    assert first.name.endswith(identity) and second.name.endswith(identity)
    media = {path.relative_to(first / "files" / "media").parts[:2] for path in (first / "files" / "media").rglob("*.*")}
    assert media == {("images", "validation"), ("images", "contact"), ("videos", "turntable")}
    (record,) = first.glob("*.wandb")
    assert b"random_background" in record.read_bytes() and b"a blue duck" in record.read_bytes()
    assert (folder / "metrics.csv").exists()
    for path in elsewhere.rglob("*"):
        assert path.is_dir() or b"0123456789" * 4 not in path.read_bytes(), f"{path} holds a secret"
    for record in (first, second):
        require_no_places(record, elsewhere)


def test_tensorboard_gets_numbers_and_pictures(elsewhere):
    fit(shown("tensorboard"), *SHORT, steps=2)
    (folder,) = (elsewhere / "runs" / "a-blue-duck").iterdir()
    resume(folder, "--trainer.max_steps=4")
    log = EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    assert [event.step for event in log.Scalars("train/guidance")] == [0, 1, 2, 3]
    assert [event.step for event in log.Images("validation/particle0")] == [2, 4]
    require_no_places(folder / "tensorboard", elsewhere)
    assert log.Images("contact/particle0") and (folder / "metrics.csv").exists()


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_metrics_go_to_a_file_with_and_without_its_configuration(elsewhere, logger):
    fit(*([shown("csv")] if logger == "csv" else []), f"--trainer.default_root_dir={elsewhere}", *SHORT, steps=2)
    steps = [line.split(",")[0] for line in (elsewhere / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", "0", "1"]


def test_without_a_key_wandb_writes_to_the_disk_alone(elsewhere, monkeypatch, capsys):
    """As for a newcomer, who has neither a key nor WANDB_MODE; a login prompt would stop the run."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(elsewhere / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(shown("wandb"), *SHORT, f"--trainer.default_root_dir={elsewhere / 'run'}", steps=1)
    assert "wandb: offline, no key is set" in capsys.readouterr().out
    assert list((elsewhere / "run" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("how", ["key", "mode", "netrc"])
def test_who_is_logged_in_is_not_kept_offline(elsewhere, monkeypatch, how):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(elsewhere / "netrc"))
    if how == "netrc":
        (elsewhere / "netrc").write_text("machine api.wandb.ai login user password none")
    else:
        monkeypatch.setenv(*{"key": ("WANDB_API_KEY", "none"), "mode": ("WANDB_MODE", "online")}[how])
    logger = Namespace(class_path="pytorch_lightning.loggers.WandbLogger", init_args=Namespace(offline=False))
    config = Namespace(trainer=Namespace(logger=[logger]))
    assert not log_offline(config) and not logger.init_args.offline
