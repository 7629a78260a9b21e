"""What may be wrong with the files of a prior: flipped bits, files cut short, weights that are not finite."""

from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from common.errors import InputError
from common.files import require_checksums
from common.finite import first_not_finite


def require_readable(folder: Path, key: str) -> None:
    """Checks a prior's files before they are loaded: their checksums, where it has any, and their headers.

    Args:
        folder: Of the prior.
        key: The setting that names it, for messages.

    Raises:
        InputError: A file is damaged or missing.
    """
    require_checksums(folder, key)
    for file in sorted(folder.glob("*/*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(
                f"{key}: {file} does not load ({reason}); it is cut short or damaged, restore it"
            ) from error


def require_finite_weights(pipeline: DiffusionPipeline, name: str, key: str) -> None:
    """Checks that all weights of a pipeline are finite.

    Args:
        pipeline: Whose networks are looked at.
        name: Of the pipeline, for messages.
        key: The setting that names it, for messages.

    Raises:
        InputError: One has nan or infinity.
    """
    for part, network in pipeline.components.items():
        if isinstance(network, nn.Module) and (tensor := first_not_finite(network.state_dict())) is not None:
            raise InputError(f"{key}: {name}: {tensor} in {part} has nan or infinity; restore it or train it anew")
