import numpy as np
import torch
from PIL import Image

from evaluation.claims_pictures import NAME, save_strips, strip, strips_of
from evaluation.particles_2d import Setting

RUN = Setting("a red car", "vsd", 1.0, particles=11)


def test_a_strip_has_eight_pictures_to_a_row_and_ends_in_white():
    pictures = torch.arange(11.0)[:, None, None, None].expand(-1, 3, 2, 2) / 11
    rows = strip(pictures, rows=8)
    assert rows.shape == (4, 16, 3)
    assert torch.equal(rows[0, ::2, 0], pictures[:8, 0, 0, 0]) and torch.equal(rows[2, :6:2, 1], pictures[8:, 0, 0, 0])
    assert (rows[2:, 6:] == 1).all()
    assert torch.equal(strip(pictures), rows[:2]), "one row unless more are asked for"
    assert strip(pictures[:3]).shape == (2, 6, 3)


def test_runs_of_two_prompts_and_the_samples_have_strips_of_their_own_in_the_given_order(tmp_path):
    grey = {RUN: 0.2, Setting("a red car", "prior", 1.0): 0.4, Setting("a blue car", "vsd", 1.0, 11): 0.6}
    shown = {run: torch.full((run.particles, 3, 64, 64), value) for run, value in grey.items()}
    strips = strips_of(shown, lambda run: f"{run.particles} particles", rows=2)
    assert list(strips) == [
        "a red car: 11 particles",
        "a red car: the prior's samples, scale 1",
        "a blue car: 11 particles",
    ]
    save_strips(strips, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 128 + 64 + 3 * NAME, 512, 3)
    tops = (NAME, 128 + 2 * NAME, 128 + 64 + 3 * NAME)
    assert [sheet[top + 10, 10, 0] for top in tops] == [51, 102, 153]


def test_a_sheet_is_as_wide_as_its_longest_name(tmp_path):
    widths = []
    for names in (["one"], ["one", "a name of more letters than fit"]):
        save_strips({name: torch.zeros(64, 64, 3) for name in names}, tmp_path / "sheet.png")
        with Image.open(tmp_path / "sheet.png") as sheet:
            widths.append(sheet.width)
    assert widths[0] == 64 and widths[1] > 100
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
