"""The client of registries: OCI distribution-spec 1.1 and Docker's registry API v2.

Owns: connections, TLS, authorization, manifests and blobs as a registry has them (`repository`), and the worker
functions between a transfer and the store (`layers`). Does not own: what a pull or push does with them
(`engine.transfers`), verified blobs (`store.content`).

Nothing is imported here: workers import `layers` alone, and an idle daemon pays for no HTTP client.
"""
