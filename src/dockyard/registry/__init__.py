"""The registry's core: content of repositories on a storage backend, without HTTP and without the engine."""
