"""Hooks of a bundle that run in the host's namespaces: prestart, createRuntime, poststart, poststop.

Owns: running them. Does not own: hooks inside the container (refused by `runtime.oci.configuration`).
"""

from __future__ import annotations

from typing import Any

from dockyard.runtime.oci.errors import OciError


def run_hooks(config: dict[str, Any], name: str, state: dict[str, Any], bundle: str) -> None:
    """Run the hooks `name` in order, the container's state on stdin. Raises OciError naming the one that failed."""
    wanted = (config.get("hooks") or {}).get(name)
    if not wanted:
        return
    import json
    import subprocess  # on the host's ground; most bundles have no hooks

    for index, hook in enumerate(wanted):
        field = f"hooks.{name}[{index}]"
        path, timeout = hook.get("path", ""), hook.get("timeout")
        if not path.startswith("/"):
            raise OciError(f"{field}.path: {path!r} is not an absolute path")
        environment = dict(entry.partition("=")[::2] for entry in hook.get("env") or [])
        try:
            done = subprocess.run(
                [*(hook.get("args") or [path])],
                executable=path,
                env=environment,
                input=json.dumps(state).encode(),
                capture_output=True,
                timeout=timeout,
                cwd=bundle,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OciError(f"{field}: {path}: {error}") from None
        if done.returncode != 0:
            output = (done.stderr or done.stdout).decode(errors="replace").strip().replace("\n", " ")
            raise OciError(f"{field}: {path} ended with {done.returncode}: {output[-500:]}")
