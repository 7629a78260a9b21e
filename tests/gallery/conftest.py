import pytest
from small_folders import write_dream


@pytest.fixture
def run(tmp_path):
    """The folder of a run of dream with two particles."""
    return write_dream(tmp_path / "runs" / "a-red-mushroom" / "one", particles=2)
