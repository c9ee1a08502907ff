"""`dockyard inspect`, `container inspect`, `image inspect`, `network inspect`, `volume inspect`."""

from __future__ import annotations

import json

from dockyard.edge.cli.api import container_path, quote
from dockyard.edge.cli.call import Body, Call, complain, say
from dockyard.edge.cli.errors import ApiError, CliError
from dockyard.edge.cli.flags import flag, value
from dockyard.edge.cli.platform import asked_platform
from dockyard.edge.cli.show import ABSENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Get = Callable[[str], Any]

GUESSES = ("container", "image", "network", "volume", "plugin")  # the order in which a name is tried
KINDS = ("config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume")
_PATHS = {"volume": "/volumes", "plugin": "/plugins", "config": "/configs", "node": "/nodes"}
_PATHS |= {"secret": "/secrets", "service": "/services", "task": "/tasks"}


def _getter(call: Call, kind: str, size: bool = False) -> Get:
    """Name → object of one kind."""
    if kind == "container":
        return lambda name: call.api.get(f"{container_path(name)}/json", {"size": size})
    if kind == "image":
        known = any(each.key == "platform" for each in call.flags)
        wanted = asked_platform(call, "1.49") if known else None
        return lambda name: call.api.get(f"/images/{quote(name, b'/:@')}/json", {"platform": wanted})
    if kind == "network":
        verbose = any(each.key == "verbose" for each in call.flags) and call.on("verbose")
        return lambda name: call.api.get(f"/networks/{quote(name)}", {"verbose": verbose})
    suffix = "/json" if kind == "plugin" else ""
    return lambda name: call.api.get(f"{_PATHS[kind]}/{quote(name)}{suffix}")


def _anything(call: Call) -> int:
    kind = call.text("type")
    if call.given("type") and kind not in KINDS:
        known = ", ".join(f'"{each}"' for each in KINDS)
        raise CliError(f'unknown type: "{kind}": must be one of {known}')
    size = call.on("size")
    if kind:
        return _inspect(call, _getter(call, kind, size and kind == "container"))
    getters = [_getter(call, each, size) for each in GUESSES]

    def guess(name: str) -> Any:
        if not name:
            raise CliError("invalid name or ID: value is empty")
        for get in getters:
            try:
                return get(name)
            except ApiError as error:
                if error.status not in (404, 501, 503) and not (error.status == 400 and get is not getters[0]):
                    raise
        raise CliError(f"Error: No such object: {name}")

    return _inspect(call, guess)


def _inspect(call: Call, get: Get) -> int:
    """Shows what is there, then tells what is not."""
    from dockyard.proto.gotemplate import Template, TemplateError, parse

    format = call.text("format")
    template: Template | None = None
    if format and format != "json":
        try:
            template = parse(format)
        except TemplateError as error:
            raise CliError(f"template parsing error: {error}", 64) from None
    found: list[Any] = []
    problems: list[CliError] = []
    for name in call.arguments:
        try:
            found.append(get(name))
        except ApiError as error:
            problems.append(error)
        except CliError as error:
            if not error.message.startswith("Error: "):
                raise
            problems.append(error)
    if template is not None:
        _render(template, found)
    elif format == "json":
        say(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
    else:
        say(json.dumps(found, indent=4, ensure_ascii=False))
    for problem in problems:
        complain(f"dockyard: {problem.message}")
    return 1 if problems else 0


def _render(template: Any, found: list[Any]) -> None:
    from dockyard.proto.gotemplate import TemplateError

    for each in found:
        try:
            say(template.render(each, ABSENT))
        except TemplateError as error:
            say("")
            raise CliError(f"template parsing error: {error}") from None


_FORMAT = value("-f --format", "Format output: 'json' or a Go template")
_SIZE = flag("-s --size", "Display total file sizes")
anything = Body(
    _anything,
    (
        _FORMAT,
        flag("-s --size", "Display total file sizes if the type is container"),
        value("--type", "Only inspect objects of the given type", complete=" ".join(KINDS)),
    ),
)
container = Body(lambda call: _inspect(call, _getter(call, "container", call.on("size"))), (_FORMAT, _SIZE))
_PLATFORM = value("--platform", 'Inspect a specific platform of the multi-platform image, "os[/arch[/variant]]"')
image = Body(lambda call: _inspect(call, _getter(call, "image")), (_FORMAT, _PLATFORM))
volume = Body(lambda call: _inspect(call, _getter(call, "volume")), (_FORMAT,))
network = Body(
    lambda call: _inspect(call, _getter(call, "network")),
    (_FORMAT, flag("-v --verbose", "Verbose output for diagnostics")),
)
