"""Transformers without its progress bars and warnings, where what they warn of is an error of ours or is meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(bars: bool = False) -> Iterator[None]:
    """Silence for as long as the block runs; `bars` leaves the progress bars, for what may take minutes."""
    from transformers.utils import logging

    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()
