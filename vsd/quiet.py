"""Loading a pipeline without what diffusers and transformers say meanwhile that no user can act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import huggingface_hub
import transformers

BARS = (diffusers.utils.logging, transformers.utils.logging)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """A context without the bars of files that are read, and without advice on torchvision, which nothing here needs.

    The bars of downloads stay. What the libraries were told to show before, they show again afterwards.
    """
    logger = logging.getLogger("transformers.utils.import_utils")
    shown = [bars for bars in BARS if bars.is_progress_bar_enabled()]
    downloads = not huggingface_hub.utils.are_progress_bars_disabled()
    logger.addFilter(_is_of_use)
    _show(shown, False, downloads)
    try:
        yield
    finally:
        logger.removeFilter(_is_of_use)
        _show(shown, True, downloads)


def _show(kinds: list, on: bool, downloads: bool) -> None:
    """Switches bars of files; those of downloads, which transformers switches with its own, get a state of theirs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot (en|dis)able progress bars")  # HF_HUB_DISABLE_PROGRESS_BARS is set
        for bars in kinds:
            (bars.enable_progress_bar if on else bars.disable_progress_bar)()
        utils = huggingface_hub.utils
        (utils.enable_progress_bars if downloads else utils.disable_progress_bars)()


def _is_of_use(record: logging.LogRecord) -> bool:
    return "requires torchvision" not in str(record.msg)
