"""AppArmor's two files that a process needs: is it on, and which profile the next program gets.

Source: Documentation/admin-guide/LSM/apparmor.rst, aa_change_onexec(2). Standard library only.
"""

from __future__ import annotations

from dockyard.linux import attributes

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_NAMES = ("apparmor/exec", "exec")  # Linux 5.8 has the first


def enabled() -> bool:
    """Whether this kernel confines by AppArmor."""
    try:
        with open(_ENABLED) as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def change_on_exec(profile: str) -> None:
    """The next execve(2) of this thread puts it under `profile` ("unconfined": under none).

    Raises OSError: ENOENT when no such profile is loaded, EPERM when /proc is not the kernel's.
    """
    attributes.write(_NAMES, f"exec {profile}")
