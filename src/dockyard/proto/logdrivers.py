"""Log drivers and their options: which there are, what is wrong with a choice, what the numbers mean.

Owns: the table of options, Docker's texts, addresses of receivers, limits of the files. Does not own: what a log is
then (`engine.logspec`), sending (`runtime.shipper`). Pure: files that options name are looked at when they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from dockyard.model.errors import InvalidArgument
from dockyard.proto import gotemplate
from dockyard.proto.units import parse_size

REMOTE: Final = ("syslog", "journald", "gelf", "fluentd")
_ATTRIBUTES: Final = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_FILE: Final = frozenset({"max-size", "max-file", "compress"})
_COMMON: Final = frozenset({"mode", "max-buffer-size"})
_CACHE: Final = frozenset({"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})
_OPTIONS: Final[dict[str, frozenset[str]]] = {
    "json-file": _ATTRIBUTES | _FILE,
    "local": _FILE,
    "syslog": _ATTRIBUTES
    | {
        "syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert",
        "syslog-tls-key", "syslog-tls-skip-verify",
    },
    "journald": _ATTRIBUTES,
    "gelf": _ATTRIBUTES
    | {
        "gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    },
    "fluentd": _ATTRIBUTES
    | {
        "fluentd-address", "fluentd-async", "fluentd-async-connect", "fluentd-async-reconnect-interval",
        "fluentd-buffer-limit", "fluentd-max-retries", "fluentd-request-ack", "fluentd-retry-wait",
        "fluentd-sub-second-precision", "fluentd-write-timeout",
    },
}  # fmt: skip
DRIVERS: Final = ("fluentd", "gelf", "journald", "json-file", "local", "none", "syslog")
FACILITIES: Final = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
FORMATS: Final = ("", "rfc3164", "rfc5424", "rfc5424micro")
_TRUE: Final = ("1", "t", "T", "true", "TRUE", "True")
_FALSE: Final = ("0", "f", "F", "false", "FALSE", "False")
_DURATION: Final = re.compile(r"([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+\Z")
_DECIMAL: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtTpP]?)[bB]?\Z")
_BUFFER: Final = 1_000_000
MB: Final = 1_000_000


class Limits(NamedTuple):
    """Of a log's files. `max_size` in bytes, 0: none; `buffer`: bytes that may wait, 0: the container waits."""

    max_size: int
    max_file: int
    compress: bool
    buffer: int = 0


class Address(NamedTuple):
    """Of a receiver. `kind`: udp, tcp, tls (host and port), unix or unixgram (`host` is a path)."""

    kind: str
    host: str
    port: int = 0


# What a container has that says nothing about it: logs without a limit fill disks.
_DEFAULTS: Final = {"json-file": Limits(100 * MB, 5, False), "local": Limits(20 << 20, 5, True)}


def check(driver: str, options: Mapping[str, str]) -> None:
    """Refuse what no log can be. InvalidArgument with Docker's text."""
    if driver not in DRIVERS:
        raise InvalidArgument(f"logger: no log driver named '{driver}' is registered")
    _check_mode(options)
    if driver == "none":
        return  # Docker takes any options
    known = _OPTIONS[driver] | _COMMON | _CACHE  # who reads its log without one needs no cache, and may name it
    for name in sorted(options):
        if name not in known:
            raise InvalidArgument(_unknown(driver, name))
    limits(driver, options)
    flag(options, "cache-disabled")
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidArgument(f"invalid {name} log option: {error}") from None
    try:
        gotemplate.parse(options.get("tag", ""))
    except gotemplate.TemplateError as error:
        raise InvalidArgument(f"invalid tag log option: {error}") from None
    checks = {"syslog": _check_syslog, "gelf": _check_gelf, "fluentd": _check_fluentd}
    if driver in checks:
        checks[driver](options)


def _unknown(driver: str, name: str) -> str:
    if driver == "gelf":
        return f'unknown log opt "{name}" for gelf log driver'
    if driver == "local":
        return f"unknown log opt '{name}' for log driver local"
    return f"unknown log opt '{name}' for {driver} log driver"


def _check_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" not in options:
        return
    if mode != "non-blocking":
        raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    try:
        parse_size(options["max-buffer-size"])
    except ValueError as error:
        raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from None


# --- files ---


def limits(driver: str, options: Mapping[str, str]) -> Limits:
    """How big the log's files may be. Remote drivers keep a spool as `local` does, with options `cache-…`.
    InvalidArgument."""
    prefix = "cache-" if driver in REMOTE else ""
    given = {name: options[prefix + name] for name in _FILE if prefix + name in options}
    default = _DEFAULTS.get(driver, _DEFAULTS["local"])
    max_size = _max_size(given["max-size"]) if "max-size" in given else default.max_size
    max_file = default.max_file if "max-size" not in given or driver != "json-file" else 1  # as Docker
    if "max-file" in given:
        max_file = _number(given["max-file"], 1, "max-file cannot be less than 1")
    compress = default.compress and max_file > 1
    if "compress" in given:
        compress = boolean(given["compress"], "compress")
    if compress and (max_file == 1 or not max_size):
        if "compress" in given:
            raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")
        compress = False
    buffer = 0
    if options.get("mode") == "non-blocking":
        buffer = parse_size(options["max-buffer-size"]) if "max-buffer-size" in options else _BUFFER
    return Limits(max_size, max_file, compress, buffer)


def _max_size(text: str) -> int:
    """Decimal units, as Docker counts here; -1: no limit."""
    if text == "-1":
        return 0
    match = _DECIMAL.match(text)
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'")
    size = int(float(match[1]) * 1000 ** "_kmgtp".index(match[2].lower() or "_"))
    if size <= 0:
        raise InvalidArgument("max-size must be a positive number")
    return size


def _number(text: str, least: int, problem: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise InvalidArgument(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if int(text) < least:
        raise InvalidArgument(problem)
    return int(text)


def boolean(text: str, name: str) -> bool:
    """As Go's strconv.ParseBool. InvalidArgument naming the option."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidArgument(f'invalid {name}: strconv.ParseBool: parsing "{text}": invalid syntax')


def flag(options: Mapping[str, str], name: str, default: bool = False) -> bool:
    """An option that is true or false."""
    return boolean(options[name], name) if name in options else default


def readable(driver: str, options: Mapping[str, str]) -> bool:
    """Whether the log can be read back."""
    return driver != "none" and not (driver in REMOTE and flag(options, "cache-disabled"))


# --- receivers ---


def _check_syslog(options: Mapping[str, str]) -> None:
    syslog_address(options)
    facility(options.get("syslog-facility", ""))
    if options.get("syslog-format", "") not in FORMATS:
        raise InvalidArgument("Invalid syslog format")


def syslog_address(options: Mapping[str, str]) -> Address | None:
    """Where to; None: the local daemon. InvalidArgument."""
    text = options.get("syslog-address", "")
    if not text:
        return None
    scheme, _, rest = text.partition("://")
    if scheme in ("unix", "unixgram") and rest.startswith("/"):
        return Address(scheme, rest)
    if scheme not in ("udp", "tcp", "tcp+tls"):
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    return _host(text, "tls" if scheme == "tcp+tls" else scheme, 514)


def facility(text: str) -> int:
    """A syslog facility by name or number. InvalidArgument."""
    if not text:
        return FACILITIES["daemon"]
    if text in FACILITIES:
        return FACILITIES[text]
    if text.isascii() and text.isdecimal() and int(text) <= 23:
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def gelf_address(options: Mapping[str, str]) -> Address:
    """InvalidArgument."""
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidArgument("gelf-address is a required parameter")
    scheme = text.partition("://")[0]
    if scheme not in ("udp", "tcp"):
        raise InvalidArgument("gelf: endpoint needs to be TCP or UDP")
    address = _host(text, scheme, 0)
    if not address.port:
        raise InvalidArgument("gelf: please provide gelf-address as proto://host:port")
    return address


def _check_gelf(options: Mapping[str, str]) -> None:
    kind = gelf_address(options).kind
    for name in ("gelf-compression-type", "gelf-compression-level"):
        if name not in options:
            continue
        if kind != "udp":
            raise InvalidArgument("compression is only supported on UDP")
        value = options[name]
        known = ("gzip", "zlib", "none") if name.endswith("type") else tuple(map(str, range(-1, 10)))
        if value not in known:
            raise InvalidArgument(f'unknown value "{value}" for log opt "{name}" for gelf log driver')
    for name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if name not in options:
            continue
        if kind != "tcp":
            raise InvalidArgument(f'"{name}" is only valid for TCP')
        if not options[name].isdecimal():
            raise InvalidArgument(f'"{name}" must be a positive integer')


def fluentd_address(options: Mapping[str, str]) -> Address:
    """InvalidArgument."""
    text = options.get("fluentd-address", "") or "tcp://127.0.0.1:24224"
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, text = "tcp", text, f"tcp://{text}"
    if scheme == "unix":
        if not rest.startswith("/"):
            raise InvalidArgument(f"invalid fluentd-address {text}: path is empty")
        return Address("unix", rest)
    if scheme not in ("tcp", "tls"):
        raise InvalidArgument(f"unsupported scheme: '{scheme}'")
    return _host(text, scheme, 24224)


def _check_fluentd(options: Mapping[str, str]) -> None:
    fluentd_address(options)
    if "fluentd-async" in options and "fluentd-async-connect" in options:
        raise InvalidArgument("conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'")
    for name in ("fluentd-async", "fluentd-async-connect", "fluentd-request-ack", "fluentd-sub-second-precision"):
        flag(options, name)
    for name in ("fluentd-retry-wait", "fluentd-async-reconnect-interval", "fluentd-write-timeout"):
        if name in options and not _DURATION.match(options[name]):
            raise InvalidArgument(f'invalid {name}: time: invalid duration "{options[name]}"')
    if "fluentd-max-retries" in options:
        _number(options["fluentd-max-retries"], 0, "invalid fluentd-max-retries: it cannot be negative")
    if "fluentd-buffer-limit" in options:
        try:
            parse_size(options["fluentd-buffer-limit"])
        except ValueError as error:
            raise InvalidArgument(f"invalid fluentd-buffer-limit: {error}") from None


def _host(text: str, kind: str, port: int) -> Address:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "127.0.0.1", parts.port or port
    except ValueError as error:
        raise InvalidArgument(f"invalid address {text}: {error}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise InvalidArgument(f"invalid address {text}: it has a host and a port only")
    return Address(kind, host, port)
