"""`dockyard registry`: the OCI distribution server over `dockyard.registry`."""
