"""What a container's log is: its files' limits, what comes with each record, what the shipper needs to know.

Owns: turning a container's log options into `LogSpec` and into what is written beside a spool for the shipper; the tag.
Does not own: the options themselves (`proto.logdrivers`), the files (`store.journal`), sending (`runtime.shipper`).
"""

from __future__ import annotations

import re
from typing import Any, Final

from dockyard.engine.container import Container
from dockyard.model.errors import InvalidArgument
from dockyard.model.journal import LogSpec
from dockyard.proto import gotemplate, logdrivers
from dockyard.proto.times import format_rfc3339

_DEFAULT_TAG: Final = "{{.ID}}"
_DAEMON: Final = "docker"  # filters of receivers look for it


def log_spec(container: Container) -> LogSpec | None:
    """What the monitor writes, None for nothing. InvalidArgument for a tag that cannot be."""
    driver, options = container.spec.log_driver, container.spec.log_options
    if driver == "none":
        return None
    limits = logdrivers.limits(driver, options)
    return LogSpec(
        driver="json-file",
        path=container.journal_path,
        max_size=limits.max_size,
        max_file=limits.max_file,
        attrs=attributes(container) if driver != "local" else {},
        compress=limits.compress,
        buffer=limits.buffer,
    )


def attributes(container: Container) -> dict[str, str]:
    """The `attrs` of every log record: labels and variables that the log options name, and the tag."""
    options = container.spec.log_options
    attributes = extra_attributes(container)
    if tag := options.get("tag", ""):
        attributes["tag"] = render_tag(tag, container)
    return attributes


def extra_attributes(container: Container) -> dict[str, str]:
    """Labels and variables that the log options name."""
    options = container.spec.log_options
    environment = dict(v.partition("=")[::2] for v in container.config.env or () if "=" in v)
    found = {}
    for source, names, pattern in (
        (container.labels, options.get("labels", ""), options.get("labels-regex", "")),
        (environment, options.get("env", ""), options.get("env-regex", "")),
    ):
        wanted = {name for name in names.split(",") if name}
        for name, value in source.items():
            if name in wanted or (pattern and re.search(pattern, name)):
                found[name] = value
    return found


def render_tag(template: str, container: Container) -> str:
    """A log tag: a Go template over Docker's fields of a container's log. InvalidArgument with the template's fault."""
    try:
        return gotemplate.parse(template).render(_fields(container))
    except gotemplate.TemplateError as error:
        raise InvalidArgument(f"failed to initialize logging driver: {error}") from None


def _fields(container: Container) -> dict[str, Any]:
    hostname = container.config.hostname
    return {
        "ID": container.id[:12],
        "FullID": container.id,
        "Name": container.name,
        "ImageID": container.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": container.image_id,
        "ImageName": container.image_ref,
        "Command": " ".join([container.path, *container.args]),
        "Hostname": lambda: hostname,
        "DaemonName": _DAEMON,
        "ContainerID": container.id,
        "ContainerName": f"/{container.name}",
        "ContainerEntrypoint": container.path,
        "ContainerArgs": container.args,
        "ContainerImageID": container.image_id,
        "ContainerImageName": container.image_ref,
        "ContainerCreated": format_rfc3339(container.created_at),
        "ContainerEnv": container.config.env or [],
        "ContainerLabels": container.labels,
        "LogPath": container.log_path,
        "Config": container.spec.log_options,
        "ExtraAttributes": lambda *_nil: extra_attributes(container),
    }


def shipping(container: Container) -> dict[str, Any] | None:
    """What the shipper needs to know of a container, None if its log stays here. InvalidArgument."""
    driver, options = container.spec.log_driver, container.spec.log_options
    if driver not in logdrivers.REMOTE:
        return None
    return {
        "id": container.id,
        "name": container.name,
        "image": container.image_ref,
        "image_id": container.image_id,
        "command": " ".join([container.path, *container.args]),
        "created": container.created_at,
        "driver": driver,
        "options": options,
        "tag": render_tag(options.get("tag", "") or _DEFAULT_TAG, container),
        "extra": extra_attributes(container),
    }
