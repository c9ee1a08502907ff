"""Names and ids of containers.

Owns: the grammar of names with Docker's text for a bad one, made-up names, ids. Does not own: which names are taken
(`container.Registry`).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from dockyard.model.errors import Conflict, InvalidArgument

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

# Weather and water on the left, people who moved, measured or connected things on the right.
_FIRST: Final = (  # noqa: SIM905 - three lines rather than fifty
    "amber bracing breezy briny brisk calm choppy clear coastal crisp deep drifting eastern ebbing "
    "estuarine fair foggy frosty gentle glassy gusty hazy high inshore low lunar mild misty "
    "moonlit northern offshore open pelagic placid quiet rising salty sheltered shining silver slack "
    "southern spring steady still sunlit swift tidal western windy"
).split()
_SECOND: Final = (  # noqa: SIM905
    "amundsen battuta beaufort bering bly bowditch brunel cabot carson cousteau dampier earhart "
    "eratosthenes fitzroy flinders fulton halley harrison heezen hensen heyerdahl humboldt ibnmajid "
    "lindbergh lovelace magellan marconi maury mclean mercator montgolfier nansen nobile pasteur piccard "
    "plimsoll polo ptolemy shackleton slocum somerville stevenson strabo tabei telford tereshkova tharp "
    "tupaia vespucci watt zhenghe"
).split()


def new_id() -> str:
    """64 random hex digits whose first twelve are not all decimal, so that a short id is never taken for a number."""
    while True:
        candidate = secrets.token_hex(32)
        if not candidate[:12].isdigit():
            return candidate


def check_name(name: str) -> str:
    """The name without its slash. InvalidArgument in Docker's words for one that is no single path component (S26)."""
    bare = name.removeprefix("/")
    if not _NAME.match(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


def make_name(taken: Callable[[str], bool]) -> str:
    """A free made-up name: `calm_nansen`, with a number once that is taken."""
    for attempt in range(12):
        name = f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}"
        if attempt >= 6:
            name += str(secrets.randbelow(10 ** (attempt - 5)))
        if not taken(name):
            return name
    return f"container_{secrets.token_hex(8)}"


def name_conflict(name: str, holder: str) -> Conflict:
    return Conflict(
        f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
