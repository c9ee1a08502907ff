"""The command dockyardd: a private copy of the package first, then the daemon out of it.

Owns: that order. Does not own: the copy (`runtime.sealed`), the daemon (`service`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dockyard.runtime import sealed


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 with one line on stderr when it cannot start. For a process of its own: what it has imported of the
    package already is imported again, out of the copy."""
    try:
        code = sealed.seal_package()
    except (OSError, SyntaxError) as error:
        print(f"dockyardd: its own files cannot be read: {error}", file=sys.stderr)
        return 1
    sealed.import_from(code)
    from dockyard import service  # not sooner: it comes out of the copy

    return service.main(arguments, code)


if __name__ == "__main__":
    raise SystemExit(main())
