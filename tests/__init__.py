"""The project's tests: unit (no root), kernel (root, the real kernel), conformance (a daemon, as a black box)."""
