"""Ports, mounts, environment files, units, columns: what users type and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.proto import envfile, mountspec, portspec, tabwriter, units
from dockyard.proto.portspec import Published

# -- ports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [Published("80/tcp", "", "")]),
        ("8080:80", [Published("80/tcp", "", "8080")]),
        ("127.0.0.1:53:53/UDP", [Published("53/udp", "127.0.0.1", "53")]),
        ("127.0.0.1::22", [Published("22/tcp", "127.0.0.1", "")]),
        ("[::1]:80:80", [Published("80/tcp", "::1", "80")]),
        ("::1:80:80", [Published("80/tcp", "::1", "80")]),
        ("7000-7005:70", [Published("70/tcp", "", "7000-7005")]),
        ("90-91:80-81/sctp", [Published("80/sctp", "", "90"), Published("81/sctp", "", "91")]),
        ("target=80,published=8080,protocol=udp", [Published("80/udp", "", "8080")]),
    ],
)
def test_publish(text: str, expected: list[Published]) -> None:
    assert portspec.parse_publish(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a:b", "invalid containerPort: b"),
        ("a:80", "invalid hostPort: a"),
        ("80:", "no port specified: 80:<empty>"),
        ("80/foo", "invalid proto: foo"),
        ("80-81:90-92", "invalid ranges specified for container and host Ports: 90-92 and 80-81"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("65536", "invalid containerPort: 65536"),
        ("90-80:1", "invalid hostPort: 90-80"),
        ("²", "invalid containerPort: ²"),
        ("[::1:80:80", "invalid port specification: [::1:80:80"),
        ("target=80,foo=1", "invalid publish opts format (should be name=value but got 'foo=1')"),
    ],
)
def test_bad_publish_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        portspec.parse_publish(text)
    assert str(caught.value) == complaint


@given(st.integers(1, 65000), st.integers(1, 65000), st.integers(0, 20), st.sampled_from(portspec.PROTOCOLS))
def test_a_range_keeps_its_order_and_distance(host: int, container: int, length: int, protocol: str) -> None:
    text = f"{host}-{host + length}:{container}-{container + length}/{protocol}"
    published = portspec.parse_publish(text)
    assert len(published) == length + 1
    for index, each in enumerate(published):
        assert (each.port, each.host_port) == (f"{container + index}/{protocol}", str(host + index))


@given(st.text(max_size=30))
def test_any_text_is_ports_or_a_value_error(text: str) -> None:
    for parse in (portspec.parse_publish, portspec.parse_expose):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


def test_expose() -> None:
    assert portspec.parse_expose("99") == ["99/tcp"]
    assert portspec.parse_expose("100-102/udp") == ["100/udp", "101/udp", "102/udp"]
    with pytest.raises(ValueError, match="invalid range format for --expose: foo"):
        portspec.parse_expose("foo")
    with pytest.raises(ValueError, match="invalid port format for --expose: 1:2"):
        portspec.parse_expose("1:2")


# -- volumes and mounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/anonymous", ("/anonymous", False)),
        ("/a:/b", ("/a:/b", True)),
        ("volume:/c:ro", ("volume:/c:ro", True)),
        ("./x:/d", ("/here/x:/d", True)),
        (".:/d", ("/here:/d", True)),
        ("../x:/d:ro", ("/x:/d:ro", True)),
        (".hidden:/d", (".hidden:/d", True)),
    ],
)
def test_volume(text: str, expected: tuple[str, bool]) -> None:
    assert mountspec.parse_volume(text, "/here") == expected


@pytest.mark.parametrize("text", ["", ":/a", "/a:"])
def test_bad_volume(text: str) -> None:
    with pytest.raises(ValueError, match="volume spec"):
        mountspec.parse_volume(text, "/")


def test_mount_has_every_part() -> None:
    text = "source=v,dst=/v,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=p,volume-subpath=x,ro"
    driver = {"Name": "local", "Options": {"o": "p"}}
    options = {"NoCopy": True, "Labels": {"a": "b"}, "DriverConfig": driver, "Subpath": "x"}
    expected = {"Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": True, "VolumeOptions": options}
    assert mountspec.parse_mount(text, "/") == expected
    tmpfs = mountspec.parse_mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1777", "/")
    assert tmpfs["TmpfsOptions"] == {"SizeBytes": 64 << 20, "Mode": 0o1777}


def test_mount_takes_csv_quoting() -> None:
    mount = mountspec.parse_mount('type=bind,"src=/a,b""c",dst=/c', "/")
    assert mount["Source"] == '/a,b"c'


def test_mount_source_is_made_absolute_for_binds_only() -> None:
    assert mountspec.parse_mount("type=bind,src=./a,dst=/b", "/here")["Source"] == "/here/a"
    assert mountspec.parse_mount("type=volume,src=a,dst=/b", "/here")["Source"] == "a"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "value is empty"),
        ("foo", "invalid field 'foo' must be a key=value pair"),
        ("type=bind", "target is required"),
        ("type=bind,dst=/a", "source is required for type=bind"),
        ("type=foo,dst=/a", "invalid mount type 'foo'"),
        ("type=bind,src=a,dst=/b,foo=x", "unexpected key 'foo' in 'foo=x'"),
        ("type=tmpfs,src=a,dst=/b", "source is not allowed for type=tmpfs"),
        ("type=tmpfs,dst=/b,tmpfs-size=much", "invalid value for tmpfs-size: much"),
        ("type=tmpfs,dst=/b,tmpfs-mode=rwx", "invalid value for tmpfs-mode: rwx"),
        ("type=tmpfs,dst=/b,volume-nocopy", "cannot mix 'volume-*' options with mount type 'tmpfs'"),
        ("type=bind,src=/a,dst=/b,readonly=maybe", "invalid value for readonly: maybe"),
        ("type=bind,src=/a,dst=/b,bind-recursive=readonly", "requires 'readonly'"),
        ("type=bind,src=/a,dst=/b,bind-recursive=x", "invalid value for bind-recursive: x"),
        ('type=bind,src="/a,dst=/b', "parse error on column 15: bare"),
    ],
)
def test_bad_mount_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("*", r"\*")):
        mountspec.parse_mount(text, "/")


@given(st.text(max_size=60))
def test_any_text_is_a_mount_or_a_value_error(text: str) -> None:
    try:
        assert mountspec.parse_mount(text, "/")["Target"]
    except ValueError as error:
        assert str(error)


# -- environment ------------------------------------------------------------------------------------------------------


def test_env_file() -> None:
    data = b'\xef\xbb\xbf# comment\nA=1\n  B=2 3 \r\nFOO\nNOPE\n\nQ="x"\nE=\n'
    assert envfile.parse_lines(data, "f", {"FOO": "bar"}) == ["A=1", "B=2 3 ", "FOO=bar", 'Q="x"', "E="]
    assert envfile.parse_lines(b"bare\n", "f", None) == ["bare"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"A B=1", "contains whitespaces in f"),
        (b"=1", "no variable name on line '=1' of f"),
        (b"\nA=\xff", "line 2 of f"),
    ],
)
def test_bad_env_file(data: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        envfile.parse_lines(data, "f", {})


def test_environment_value() -> None:
    assert envfile.environment_value("A=b", {}) == "A=b"
    assert envfile.environment_value("A", {"A": "c"}) == "A=c"
    assert envfile.environment_value("A", {}) == "A"
    with pytest.raises(ValueError, match="invalid environment variable: =x"):
        envfile.environment_value("=x", {})


@given(st.dictionaries(st.text("abc_", min_size=1), st.text(st.characters(exclude_characters="\n\r"))))
def test_what_is_written_as_env_file_is_read_back(variables: dict[str, str]) -> None:
    data = "".join(f"{name}={value}\n" for name, value in variables.items()).encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    assert envfile.as_mapping(envfile.parse_lines(data, "f", {})) == variables


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "digits", "text"),
    [
        (0, 4, "0B"),
        (999, 4, "999B"),
        (1000, 4, "1kB"),
        (1982411, 4, "1.982MB"),
        (1982411, 3, "1.98MB"),
        (10**12, 3, "1TB"),
    ],
)
def test_human_size(size: int, digits: int, text: str) -> None:
    assert units.human_size(size, digits) == text


def test_binary_size() -> None:
    assert units.binary_size(512 << 20) == "512MiB"
    assert units.binary_size(25276502016) == "23.54GiB"


@pytest.mark.parametrize(
    ("text", "size"),
    [("512m", 512 << 20), ("1.5GiB", 3 << 29), ("64kb", 65536), ("1024", 1024), ("1 k", 1024), ("7B", 7)],
)
def test_parse_size(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["lots", "", "-1", "1x", "m", "1kk", "1e3"])
def test_bad_size(text: str) -> None:
    with pytest.raises(ValueError, match=f"invalid size: '{text}'"):
        units.parse_size(text)


@given(st.integers(0, 2**50), st.sampled_from("bkmgtp"))
def test_sizes_are_read_in_powers_of_1024(number: int, unit: str) -> None:
    assert units.parse_size(f"{number}{unit}") == number * 1024 ** "bkmgtp".index(unit)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3600, "About an hour"),
        (3600 * 1.4, "About an hour"),
        (3600 * 1.6, "2 hours"),
        (3600 * 47, "47 hours"),
        (3600 * 48, "2 days"),
        (86400 * 14, "2 weeks"),
        (86400 * 60, "2 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_human_duration(seconds: float, text: str) -> None:
    assert units.human_duration(int(seconds * 1_000_000_000)) == text


# -- columns ----------------------------------------------------------------------------------------------------------


def test_columns() -> None:
    lines = tabwriter.align(["NAME\tIMAGE\tPORTS", "a\tvery-long-image-name\t", "名前\tb\tc"])
    assert lines[0] == "NAME      IMAGE                  PORTS"
    assert lines[1] == "a         very-long-image-name   "
    assert lines[2] == "名前      b                      c"


def test_a_line_without_a_cell_ends_the_column() -> None:
    assert tabwriter.align(["aaaaaaaaaaaaaaa\tb", "none", "a\tb"]) == ["aaaaaaaaaaaaaaa   b", "none", "a         b"]


@given(st.lists(st.lists(st.text("abc 名", max_size=12), min_size=1, max_size=4), max_size=6))
def test_alignment_keeps_the_text_and_the_order_of_cells(rows: list[list[str]]) -> None:
    lines = tabwriter.align(["\t".join(row) for row in rows])
    for row, line in zip(rows, lines, strict=True):
        assert "\t" not in line
        assert line.replace(" ", "") == "".join(row).replace(" ", "")
