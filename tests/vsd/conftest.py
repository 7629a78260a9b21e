import pytest

from benchmarks.untrained_sd import TINY, untrained_stable_diffusion


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory):
    """Folders of two tiny pipelines of Stable Diffusion's architecture with one autoencoder: "eps" and "v"."""
    folder = tmp_path_factory.mktemp("tiny-sd")
    for seed, (name, prediction) in enumerate([("eps", "epsilon"), ("v", "v_prediction")]):
        untrained_stable_diffusion(TINY, prediction, seed).save_pretrained(folder / name)
    return folder
