"""Containers that another OCI runtime makes (runc, crun, …), behind the same monitor.

`command` calls the program, `preparing` turns a `Launch` into a bundle for it, `making` is the start (in the setup
process), `joining` the exec (in a child of the monitor). The first process becomes the monitor's child because the
monitor is a subreaper and the command that made it has ended; so does an exec'd one. Limits, freezing, usage and the
network are handled by our own code: they belong to the kernel, not to who made the container.

Everything of the runtime's lies in the container's run directory: `oci/` is its --root, `bundle/` the bundle. Mounts
that it needs are made in a mount namespace of the setup process and are gone with that. Standard library only.
"""
