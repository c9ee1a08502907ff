"""Log drivers: options, Docker's texts, limits."""

from __future__ import annotations

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto.logdrivers import Address, Limits, check, fluentd_address, gelf_address, limits, syslog_address

GELF = {"gelf-address": "udp://h:1"}
GELF_TCP = {"gelf-address": "tcp://h:1"}


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("pigeon", {}, "logger: no log driver named 'pigeon' is registered"),
        ("json-file", {"odd": "1"}, "unknown log opt 'odd' for json-file log driver"),
        ("json-file", {"syslog-address": "udp://h"}, "unknown log opt 'syslog-address' for json-file log driver"),
        ("syslog", {"cache-disabled": "x"}, 'invalid cache-disabled: strconv.ParseBool: parsing "x": invalid syntax'),
        ("local", {"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ("syslog", {"odd": ""}, "unknown log opt 'odd' for syslog log driver"),
        ("journald", {"odd": ""}, "unknown log opt 'odd' for journald log driver"),
        ("fluentd", {"odd": ""}, "unknown log opt 'odd' for fluentd log driver"),
        ("gelf", {**GELF, "odd": ""}, 'unknown log opt "odd" for gelf log driver'),
        ("json-file", {"max-size": "x"}, "invalid size: 'x'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "maybe"}, 'invalid compress: strconv.ParseBool: parsing "maybe": invalid syntax'),
        ("json-file", {"compress": "true", "max-file": "1"},
         "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ("json-file", {"compress": "true", "max-size": "-1"},
         "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ("json-file", {"mode": "fast"}, "logger: logging mode not supported: fast"),
        ("json-file", {"max-buffer-size": "1m"},
         "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "x"},
         "error parsing option max-buffer-size: invalid size: 'x'"),
        ("syslog", {"syslog-address": "http://h"}, "syslog-address should be in form proto://address, got http://h"),
        ("syslog", {"syslog-facility": "moon"}, "invalid syslog facility"),
        ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "rfc1"}, "Invalid syslog format"),
        ("gelf", {}, "gelf-address is a required parameter"),
        ("gelf", {"gelf-address": "unix:///x"}, "gelf: endpoint needs to be TCP or UDP"),
        ("gelf", {"gelf-address": "udp://h"}, "gelf: please provide gelf-address as proto://host:port"),
        ("gelf", {**GELF_TCP, "gelf-compression-type": "gzip"}, "compression is only supported on UDP"),
        ("gelf", {**GELF, "gelf-compression-type": "lz4"},
         'unknown value "lz4" for log opt "gelf-compression-type" for gelf log driver'),
        ("gelf", {**GELF, "gelf-compression-level": "10"},
         'unknown value "10" for log opt "gelf-compression-level" for gelf log driver'),
        ("gelf", {**GELF, "gelf-tcp-max-reconnect": "1"}, '"gelf-tcp-max-reconnect" is only valid for TCP'),
        ("gelf", {**GELF_TCP, "gelf-tcp-max-reconnect": "-1"}, '"gelf-tcp-max-reconnect" must be a positive integer'),
        ("fluentd", {"fluentd-address": "http://h"}, "unsupported scheme: 'http'"),
        ("fluentd", {"fluentd-address": "h:port"}, None),
        ("fluentd", {"fluentd-address": "tcp://h:1/path"}, None),
        ("fluentd", {"fluentd-retry-wait": "soon"}, 'invalid fluentd-retry-wait: time: invalid duration "soon"'),
        ("fluentd", {"fluentd-async": "1", "fluentd-async-connect": "1"},
         "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'"),
        ("json-file", {"labels-regex": "("}, None),
        ("json-file", {"tag": "{{.ID"}, None),
    ],
)  # fmt: skip
def test_refusals(driver: str, options: dict[str, str], text: str | None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(driver, options)
    assert text is None or str(caught.value) == text


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("none", {"anything": "goes"}),
        ("json-file", {"tag": "{{.Name}}", "labels": "a,b", "env-regex": "^A", "mode": "non-blocking"}),
        ("syslog", {"syslog-address": "tcp+tls://h:6514", "syslog-facility": "local7", "syslog-format": "rfc5424"}),
        ("syslog", {"cache-max-size": "1m", "cache-compress": "false"}),
        ("gelf", {**GELF, "gelf-compression-level": "-1"}),
        ("fluentd", {"fluentd-async": "true", "fluentd-buffer-limit": "8m", "fluentd-retry-wait": "1s"}),
    ],
)
def test_what_is_allowed(driver: str, options: dict[str, str]) -> None:
    check(driver, options)


@pytest.mark.parametrize(
    ("driver", "options", "wanted"),
    [
        ("json-file", {}, Limits(100_000_000, 5, False)),
        ("json-file", {"max-size": "-1"}, Limits(0, 1, False)),
        ("json-file", {"max-size": "10m"}, Limits(10_000_000, 1, False)),
        ("json-file", {"max-size": "1.5k", "max-file": "3", "compress": "true"}, Limits(1500, 3, True)),
        ("json-file", {"max-file": "2"}, Limits(100_000_000, 2, False)),
        ("json-file", {"mode": "non-blocking"}, Limits(100_000_000, 5, False, 1_000_000)),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "4m"}, Limits(100_000_000, 5, False, 4 << 20)),
        ("local", {}, Limits(20 << 20, 5, True)),
        ("local", {"max-size": "1m", "max-file": "1"}, Limits(1_000_000, 1, False)),
        ("syslog", {"cache-max-file": "2"}, Limits(20 << 20, 2, True)),
    ],
)
def test_limits(driver: str, options: dict[str, str], wanted: Limits) -> None:
    assert limits(driver, options) == wanted


def test_addresses() -> None:
    assert syslog_address({}) is None
    assert syslog_address({"syslog-address": "udp://[::1]"}) == Address("udp", "::1", 514)
    assert syslog_address({"syslog-address": "tcp+tls://h:1"}) == Address("tls", "h", 1)
    assert syslog_address({"syslog-address": "unixgram:///dev/log"}) == Address("unixgram", "/dev/log")
    assert gelf_address(GELF) == Address("udp", "h", 1)
    assert fluentd_address({}) == Address("tcp", "127.0.0.1", 24224)
    assert fluentd_address({"fluentd-address": "h"}) == Address("tcp", "h", 24224)
    assert fluentd_address({"fluentd-address": "unix:///s"}) == Address("unix", "/s")
