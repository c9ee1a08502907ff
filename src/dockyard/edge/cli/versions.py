"""The versions that the client states.

Owns: its own version and the Engine API versions that it can speak.
"""

from __future__ import annotations

CLIENT_VERSION = "0.1.0"
API_NEWEST = "1.50"
API_OLDEST = "1.24"
