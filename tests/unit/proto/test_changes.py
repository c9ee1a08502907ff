"""The instructions of `import` and `commit`."""

from __future__ import annotations

from typing import Any

import pytest

from dockyard.model.container import ContainerConfig, HealthConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto import changes

GOOD: dict[str, tuple[str, Any]] = {
    'CMD ["sh", "-c"]': ("cmd", ["sh", "-c"]),
    "cmd echo  hi": ("cmd", ["/bin/sh", "-c", "echo  hi"]),
    'ENTRYPOINT ["a"]': ("entrypoint", ["a"]),
    'ENV A=1 B=\'2 3\' C="x\\"y"': ("env", ["A=1", "B=2 3", 'C=x"y']),
    "ENV A some words": ("env", ["A=some words"]),
    'LABEL a="b c" d=e': ("labels", {"a": "b c", "d": "e"}),
    "EXPOSE 80 53/udp 7000-7002": (
        "exposed_ports",
        {"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}},
    ),
    "USER 1000:1000": ("user", "1000:1000"),
    'VOLUME ["/a", "/b"]': ("volumes", {"/a": {}, "/b": {}}),
    "VOLUME /a /b": ("volumes", {"/a": {}, "/b": {}}),
    "WORKDIR a/../b": ("working_dir", "/b"),
    "ONBUILD RUN true": ("on_build", ["RUN true"]),
    "STOPSIGNAL SIGINT": ("stop_signal", "SIGINT"),
    "HEALTHCHECK --interval=5s --retries=3 CMD curl x": (
        "healthcheck",
        HealthConfig(test=["CMD-SHELL", "curl x"], interval=5_000_000_000, retries=3),
    ),
    'HEALTHCHECK CMD ["true"]': ("healthcheck", HealthConfig(test=["CMD", "true"])),
    "HEALTHCHECK NONE": ("healthcheck", HealthConfig(test=["NONE"])),
}


@pytest.mark.parametrize("line", GOOD)
def test_good_lines(line: str) -> None:
    config = ContainerConfig()
    changes.apply(config, [line])
    name, value = GOOD[line]
    assert getattr(config, name) == value
    setattr(config, name, getattr(ContainerConfig(), name))
    assert config == ContainerConfig()


def test_later_lines_add_to_earlier_ones() -> None:
    config = ContainerConfig(env=["A=0", "P=/bin"])
    changes.apply(
        config, ["ENV A=1\nENV A=2 B=3", "ENV P=/foo", "# a remark", "EXPOSE 1", "EXPOSE 2", "WORKDIR /a", "WORKDIR b"]
    )
    assert config.env == ["A=2", "P=/foo", "B=3"]  # each stays where it was
    assert config.exposed_ports == {"1/tcp": {}, "2/tcp": {}}
    assert config.working_dir == "/a/b"


def test_variables_have_the_values_that_they_had_before_the_line() -> None:
    config = ContainerConfig(env=["PATH=/bin", "A=x y"])
    lines = [
        "ENV PATH=/opt:$PATH B='$A' C=$A",
        "LABEL ${A}=$NONE",
        "WORKDIR /$B/${D:-d}",
        "CMD echo $A",
        "EXPOSE ${E:-8 9}",
    ]
    changes.apply(config, lines)
    assert config.env == ["PATH=/opt:/bin", "A=x y", "B=$A", "C=x y"]
    assert (config.labels, config.working_dir) == ({"x y": ""}, "/$A/d")
    assert config.cmd == ["/bin/sh", "-c", "echo $A"], "the shell's"
    assert config.exposed_ports == {"8/tcp": {}, "9/tcp": {}}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("RUN true", "RUN is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("CMD", "CMD requires at least one argument"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("ENV =1", "ENV must have two arguments"),
        ("LABEL a='b", "unexpected end of statement"),
        ("ONBUILD ONBUILD x", "Chaining ONBUILD"),
        ("HEALTHCHECK --bad=1 CMD x", "Unknown flag: bad"),
        ("HEALTHCHECK --retries=x CMD x", "HEALTHCHECK --retries"),
        ("HEALTHCHECK SOMETIMES", "Unknown type"),
    ],
)
def test_bad_lines(line: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        changes.apply(ContainerConfig(), [line])
