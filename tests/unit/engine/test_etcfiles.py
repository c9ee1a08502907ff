"""hosts and resolv.conf."""

from __future__ import annotations

from dockyard.engine.etcfiles import hosts_text, own_names, parse_extra_hosts, resolv_text


def test_hosts() -> None:
    extra = parse_extra_hosts(["db:10.0.0.9", "gw:host-gateway", "six=[::2]", "v6:fe80::1"], "172.30.0.1")
    text = hosts_text([("172.30.0.2", own_names("web", "example.org"))], extra)
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-5:] == [
        "10.0.0.9\tdb", "172.30.0.1\tgw", "::2\tsix", "fe80::1\tv6", "172.30.0.2\tweb.example.org web",
    ]  # fmt: skip


def test_own_names() -> None:
    assert own_names("web", "") == ["web"]
    assert own_names("web.example.org", "") == ["web.example.org", "web"]
    assert own_names("web.a", "example.org") == ["web.a.example.org", "web"]


def test_resolvers_of_the_host() -> None:
    host = "# c\nnameserver 127.0.0.53\nnameserver 10.1.1.1\nsearch a.org b.org\noptions ndots:2\n"
    text = resolv_text(host, (), (), (), keep_local=False)
    assert text == "nameserver 10.1.1.1\nsearch a.org b.org\noptions ndots:2\n"
    assert resolv_text(host, (), (), (), keep_local=True).startswith("nameserver 127.0.0.53\n")


def test_only_local_resolvers_fall_back() -> None:
    assert resolv_text("nameserver 127.0.0.1\n", (), (), (), keep_local=False) == (
        "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    )


def test_given_ones_replace() -> None:
    host = "nameserver 10.1.1.1\nsearch a.org\noptions ndots:2\n"
    assert resolv_text(host, ["9.9.9.9"], ["."], ["rotate"], keep_local=False) == "nameserver 9.9.9.9\noptions rotate\n"
