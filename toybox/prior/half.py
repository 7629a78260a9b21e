"""The half-precision copy of a prior, which the project ships: `python -m toybox.prior.half FOLDER OUT`."""

import tempfile
from pathlib import Path

import torch

from common.command_line import OneLineArguments, a_path, one_line, require_place
from common.files import SUMS, write_checksums
from vsd.prior import load_pipeline


def save_half(folder: str | Path, out: str | Path) -> None:
    """Writes the pipeline of a folder as float16 safetensors.

    Args:
        folder: Of the pipeline.
        out: Folder of the copy. Files of the same name are replaced, others stay; model_index.json comes last, then
            SHA256SUMS, with which the prior is checked when it is loaded.

    Raises:
        InputError: There is no pipeline in the folder.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    (out / SUMS).unlink(missing_ok=True)  # of the copy that is replaced
    pipeline = load_pipeline(folder).to(torch.float16)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        pipeline.save_pretrained(temporary)
        files = [file for file in Path(temporary).rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == "model_index.json"):
            place = out / file.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
        write_checksums(out, [out / file.relative_to(temporary) for file in files])


def main(args: list[str] | None = None) -> None:
    """The command."""
    parser = OneLineArguments(prog="half", description=__doc__)
    parser.add_argument("folder", type=a_path, help="of the prior in single precision, such as runs/prior")
    parser.add_argument("out", type=a_path, help="folder of the copy")
    with one_line("half"):
        options = parser.parse_args(args)
        require_place("out", options.out)
        save_half(options.folder, options.out)


if __name__ == "__main__":
    main()
