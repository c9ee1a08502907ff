"""SELinux labels of containers, where the kernel has SELinux: in CI in the virtual machine (tools.vm --selinux)."""

from __future__ import annotations

import pytest

from dockyard.linux import selinux

pytestmark = [pytest.mark.vm, pytest.mark.skipif(not selinux.enabled(), reason="the kernel has no SELinux")]


def test_it_is_on() -> None:
    assert selinux.enforcing()
    assert selinux.process_context() == "system_u:system_r:kernel_t:s0"
    assert selinux.known("system_u:system_r:container_t:s0:c1,c2")
    assert not selinux.known("system_u:system_r:nosuch_t:s0")
