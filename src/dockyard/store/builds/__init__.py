"""What builds keep on disk and do with files: contexts, copies, the cache's rows.

Owns: the modules of this package. Does not own: which step runs when (`engine.builds`), layers (`store.snapshots`).
"""
