"""What `info` tells of registries."""

from __future__ import annotations

from dockyard.edge.api.system import registry_config
from dockyard.proto.registries import RegistryRules


def test_settings_of_registries_as_docker_parses_them() -> None:
    rules = RegistryRules.make(
        ["https://m.example", "https://n.example/", "quay.io=https://q.example/x"],
        ["10.1.2.3/8", "R.example:5000"],
        [],
        ["f.example", "10.0.0.0/8"],
    )
    assert registry_config(rules, (1, 48)) == {
        "AllowNondistributableArtifactsCIDRs": ["10.0.0.0/8"],
        "AllowNondistributableArtifactsHostnames": ["f.example"],
        "InsecureRegistryCIDRs": ["10.0.0.0/8", "::1/128", "127.0.0.0/8"],
        "IndexConfigs": {
            "docker.io": {
                "Name": "docker.io", "Mirrors": ["https://m.example/", "https://n.example/"], "Secure": True,
                "Official": True,
            },
            "r.example:5000": {"Name": "r.example:5000", "Mirrors": [], "Secure": False, "Official": False},
            "quay.io": {
                "Name": "quay.io", "Mirrors": ["https://q.example/x/"], "Secure": True, "Official": False,
            },
        },
        "Mirrors": ["https://m.example/", "https://n.example/"],
    }  # fmt: skip


def test_without_settings() -> None:
    found = registry_config(RegistryRules(), (1, 49))
    assert found["InsecureRegistryCIDRs"] == ["::1/128", "127.0.0.0/8"] and found["Mirrors"] == []
    assert list(found["IndexConfigs"]) == ["docker.io"]
