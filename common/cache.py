"""Where the project keeps what is expensive to make and cheap to keep: renders, embeddings."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """VSD_CACHE, or ~/.cache/vsd."""
    return Path(os.environ.get("VSD_CACHE") or Path.home() / ".cache" / "vsd")
