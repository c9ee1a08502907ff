"""What `dockyard build` does at the client: packing the context, the request, progress, watching for changes."""
