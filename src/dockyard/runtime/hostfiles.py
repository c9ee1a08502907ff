"""Small files of the host that are looked at and may be missing.

Owns: `text`. Does not own: what they say. Standard library only.
"""

from __future__ import annotations

import os


def text(path: str | os.PathLike[str]) -> str:
    """A file's text, "" for one that cannot be read. What is no UTF-8 is replaced."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
