"""Images as the bytes that files hold."""

from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Rounds images to bytes.

    Args:
        images: Any shape, values in [0, 1]; those outside are clamped.

    Returns:
        uint8 of the same shape, on the CPU.
    """
    return (images.detach().clamp(0, 1) * 255).round().byte().cpu()
