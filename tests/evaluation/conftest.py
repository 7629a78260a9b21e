import pytest
import torch

from evaluation import claims_2d, claims_3d
from evaluation.measures import Judges
from evaluation.pictures import SIZE, Pictures, white
from toybox.judges.parts import PartsJudge
from toybox.judges.parts_network import PartsNetwork
from toybox.judges.views import ViewClassifier

TINY = claims_2d.Plan(("a yellow duck",), ("sds", "vsd", "csd"), (1.0, 3.0), (3,), 2, steps=2)
TINY_3D = claims_3d.Plan3D(("a yellow duck",), ("sds", "vsd"), (1.0,), (2,), 1, steps=3)


@pytest.fixture
def tiny():
    """A plan of the claims in 2D."""
    return TINY


@pytest.fixture
def tiny_3d():
    """A plan of the claims in 3D."""
    return TINY_3D


@pytest.fixture
def blind_judges(monkeypatch):
    """Judges of random weights and few samples: figures mean nothing, tables are whole."""
    judges = Judges(PartsJudge(PartsNetwork().eval()), ViewClassifier().eval())
    for module in (claims_2d, claims_3d):
        monkeypatch.setattr(module, "load_judges", lambda _: judges)
    monkeypatch.setattr(claims_2d, "SAMPLES", 4)
    monkeypatch.setattr(claims_2d, "SAMPLER_STEPS", 2)
    monkeypatch.setattr(claims_2d, "QUICK", TINY)
    monkeypatch.setattr(claims_3d, "QUICK", TINY_3D)


@pytest.fixture
def drawn_samples(monkeypatch):
    """Random pictures in the place of the prior's samples."""
    draws = torch.Generator().manual_seed(0)

    def samples(*_):
        rgb = torch.rand(4, 8, 3, SIZE, SIZE, generator=draws)
        return Pictures(rgb, rgb[:, :, 0] > 0.5, white(4, 8))

    monkeypatch.setattr(claims_3d, "prior_samples", samples)
