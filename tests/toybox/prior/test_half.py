import pytest
import torch
from small_fits import weights

from common.files import SUMS
from toybox.prior.half import main, save_half
from vsd.prior import load_pipeline


def test_the_half_precision_copy_is_the_same_pipeline_and_keeps_other_files(untrained_prior, tmp_path):
    out = tmp_path / "half"
    out.mkdir()
    (out / "README.md").write_text("card")
    save_half(untrained_prior, out)
    save_half(untrained_prior, out)
    whole, half = weights(untrained_prior, "unet"), load_pipeline(out, torch.float16).unet.state_dict()
    assert all(torch.equal(whole[k].half(), half[k]) for k in whole)
    assert (out / SUMS).is_file()
    assert (out / "README.md").read_text() == "card" and list(tmp_path.iterdir()) == [out]


def test_a_missing_folder_ends_the_command_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "no" / "such"), str(tmp_path / "half")])
    assert ended.value.code == 2 and "no such prior folder" in capsys.readouterr().err
