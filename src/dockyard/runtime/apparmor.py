"""The AppArmor profile that containers get where the kernel has AppArmor.

Owns: the profile's text and loading it into the kernel at the daemon's start (each time: what an administrator or
another version has loaded under the name does not stay, S19). Does not own: which container gets which profile
(`runtime.bundle`), putting a process under it (`linux.apparmor`).

Loading needs the program apparmor_parser (Debian: apparmor). Source: apparmor.d(5).
"""

from __future__ import annotations

import shutil
import subprocess

from dockyard.linux import apparmor

NAME = "dockyard-default"
_SECONDS = 30

# Everything that capabilities and mounts allow, but: no mounting, nothing of the host through /proc and /sys, and
# signals and traces stay among containers. Paths are as seen inside; masked and read-only paths are the first wall.
PROFILE = f"""
abi <abi/3.0>,
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  unix,
  signal (receive) peer=unconfined,
  signal (send,receive) peer={NAME},
  ptrace (trace,read,tracedby,readby) peer={NAME},

  deny mount,
  deny pivot_root,

  deny /proc/kcore rwklx,
  deny /proc/mem rwklx,
  deny /proc/kmem rwklx,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/[a-rt-z]* w,
  deny /proc/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** wklx,
  deny /proc/sys/{{abi,debug,dev,fs,sunrpc,user,vm}}/** wklx,
  deny /proc/sys/kernel/{{core_*,modprobe,hotplug,poweroff_cmd,kexec*,panic*,printk*,perf*,sysrq,tainted}} wklx,
  deny /proc/sys/kernel/{{cap_*,ctrl-alt-del,dmesg_restrict,kptr_restrict,pid_max,threads-max,randomize*}} wklx,
  deny /proc/sys/kernel/{{keys,random,usermodehelper,yama,seccomp,sched*,ftrace*,unprivileged_*}}{{,/**}} wklx,

  deny /sys/{{block,bus,class,dev,devices,hypervisor,kernel,module,power}}/** wklx,
  deny /sys/fs/{{bpf,btrfs,ext4,fuse,nfs*,pstore,resctrl,selinux,xfs}}/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def load_default() -> tuple[str, str]:
    """Load the profile; (its name or "", why there is none). Where the kernel has no AppArmor both are ""."""
    if not apparmor.enabled():
        return "", ""
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    if parser is None:
        return "", "AppArmor is on, but apparmor_parser is not installed: containers run unconfined by it"
    try:
        subprocess.run(
            [parser, "--skip-cache", "--replace"], input=PROFILE.encode(), capture_output=True, check=True,
            timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return "", f"AppArmor's profile {NAME} cannot be loaded, containers run unconfined by it: {said}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"AppArmor's profile {NAME} cannot be loaded, containers run unconfined by it: {error}"
    return NAME, ""
