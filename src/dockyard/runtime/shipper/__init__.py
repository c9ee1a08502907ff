"""The one process that sends containers' logs to receivers elsewhere.

The monitors write files, as for every driver; the shipper follows those of containers whose driver is a remote one, and
outlives the daemon. `spool` is what lies on disk (and what the daemon writes there), `shipping` follows one container,
`sinks` speak to receivers, `process` is the process and its socket, `client` the daemon's side of that.
"""
