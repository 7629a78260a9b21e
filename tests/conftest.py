import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache folder of the test session, set as VSD_CACHE."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["VSD_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def untrained_prior(tmp_path_factory):
    """Folder of a toybox prior with random weights, at full size."""
    from toybox.prior.architecture import untrained_pipeline
    from toybox.world.captions import VOCABULARY

    folder = tmp_path_factory.mktemp("prior") / "untrained"
    untrained_pipeline(VOCABULARY).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium for the tests of a module, which see that there is one."""
    from browser import Browser

    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()
