"""Append-only, followable records: container logs in Docker's json-file format.

`writer` runs in the monitor (standard library only), `reader` in the daemon, `follow` tells the reader of growth.
"""
