"""How results are shown: tables, JSON lines, Go templates.

Owns: `--format` of listings (`table`, `table TEMPLATE`, `json`, TEMPLATE) and of single objects, and the errors of a
template. Does not own: what the fields of a row are (each command), templates themselves (`proto.gotemplate`).
"""

from __future__ import annotations

from dockyard.edge.cli.call import say
from dockyard.edge.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Row = dict[str, Any]  # field → text, or a method that templates may call

# Fields that may be absent or null in what is inspected, and how Docker prints them then.
ABSENT = {
    **dict.fromkeys(
        ("Health", "Healthcheck", "StopTimeout", "Init", "PidsLimit", "Platform", "OomKillDisable"), "<nil>"
    ),
    **dict.fromkeys(("StopSignal", "MacAddress", "Domainname"), ""),
    **dict.fromkeys(("Entrypoint", "Cmd", "Env", "Binds", "CapAdd", "CapDrop", "Dns", "ExtraHosts", "GroupAdd"), "[]"),
    **dict.fromkeys(("Links", "SecurityOpt", "VolumesFrom", "Devices", "Ulimits", "Mounts", "Aliases", "Shell"), "[]"),
    **dict.fromkeys(("RepoTags", "RepoDigests", "OnBuild", "ExecIDs", "DnsOptions", "DnsSearch"), "[]"),
    **dict.fromkeys(("ExposedPorts", "Volumes", "Labels", "PortBindings", "Sysctls", "Tmpfs", "StorageOpt"), "map[]"),
    **dict.fromkeys(("Annotations", "Options", "Containers"), "map[]"),
}


def show_one(format: str, data: Any) -> None:
    """One object: `json` or a template."""
    say(renderer(format)(data))


def renderer(format: str, prefix: str = "failed to parse template") -> Callable[[Any], str]:
    """Object → text. The template is parsed here, once."""
    from dockyard.proto.gotemplate import TemplateError, parse
    from dockyard.proto.gotemplate_functions import go_json

    if format == "json":
        return go_json
    try:
        template = parse(unescape(format))
    except TemplateError as error:
        raise CliError(f"{prefix}: {error}") from None

    def render(data: Any) -> str:
        try:
            return template.render(data, ABSENT)
        except TemplateError as error:
            raise CliError(f"failed to execute template: {error}") from None

    return render


def unescape(format: str) -> str:
    """`\\t` and `\\n` as shells leave them → tab and newline."""
    return format.replace("\\t", "\t").replace("\\n", "\n")


def show_rows(format: str, columns: list[str], headers: Mapping[str, str], rows: Iterable[Row]) -> None:
    """A listing. `columns`: fields of the default table; `headers`: field → heading, for every field there is."""
    from dockyard.proto.tabwriter import align

    format = format.strip()
    if format in ("", "table"):
        lines = ["\t".join(headers[name] for name in columns)]
        lines += ["\t".join(str(row[name]) for name in columns) for row in rows]
    elif format.startswith("table"):
        render = renderer(format.removeprefix("table").strip())
        lines = [render({**headers, "Label": label_header}), *(render(row) for row in rows)]
    else:
        show_lines(format, rows)
        return
    for line in align("\n".join(lines).split("\n")):
        say(line)


def show_lines(format: str, rows: Iterable[Row]) -> None:
    """Every row on a line of its own: `json` or a template."""
    from dockyard.proto.gotemplate_functions import Row as JsonRow
    from dockyard.proto.gotemplate_functions import row_json

    render = row_json if format == "json" else renderer(format)
    for row in rows:
        say(render(JsonRow(row)))


def label_header(name: str) -> str:
    """The heading of `{{.Label "com.example.some-name"}}`: `some name`."""
    return name.rsplit(".", 1)[-1].replace("-", " ").replace("_", " ")


def labels_text(labels: Mapping[str, str] | None) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((labels or {}).items()))


def short_id(identifier: str) -> str:
    """`sha256:512c3e48d54e…` or a bare ID → its first 12 digits."""
    return identifier.removeprefix("sha256:")[:12]


def ago(created: int, now_ns: int) -> str:
    """Seconds since the epoch → `5 minutes ago`."""
    from dockyard.proto.units import human_duration

    return human_duration(now_ns - created * 1_000_000_000) + " ago"


def local_time(created: int) -> str:
    """Seconds since the epoch → `2026-11-21 22:54:33 +0000 UTC`, in the local zone."""
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created))
