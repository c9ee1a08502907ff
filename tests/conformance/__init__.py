"""A daemon as a black box, over raw HTTP, the docker CLI and docker-py: first Debian's dockerd, then dockyardd."""
