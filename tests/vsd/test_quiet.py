import diffusers
import huggingface_hub
import pytest
import transformers

from vsd.quiet import quiet_loading

DOWNLOADS = huggingface_hub.utils
FILES = (diffusers.utils.logging, transformers.utils.logging)


@pytest.fixture
def bars():
    """Sets which bars are shown; what was shown before is shown again after the test."""

    def show(downloads, *files):
        for kind, on in zip(FILES, files, strict=True):
            (kind.enable_progress_bar if on else kind.disable_progress_bar)()
        (DOWNLOADS.enable_progress_bars if downloads else DOWNLOADS.disable_progress_bars)()

    before = shown()
    yield show
    show(*before)


def shown():
    return [not DOWNLOADS.are_progress_bars_disabled(), *(kind.is_progress_bar_enabled() for kind in FILES)]


@pytest.mark.parametrize("before", [[True, True, True], [False, True, True], [True, True, False], [True, False, False]])
def test_bars_of_files_are_hidden_and_what_was_shown_before_is_shown_again(bars, before):
    bars(*before)
    with pytest.raises(KeyError), quiet_loading():
        assert shown() == [before[0], False, False], "downloads take long"
        raise KeyError
    assert shown() == before
