"""The table of dockyardd's options: their names on the command line and in the file, as dockerd has them.

Owns: `OPTIONS`. Does not own: reading them (`values`, the package itself), what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dockyard.configuration.values import (
    boolean,
    flag_bytes,
    flag_pair,
    flag_pool,
    flag_runtime,
    flag_switch,
    flag_ulimit,
    integer,
    pools,
    runtimes,
    size,
    switches,
    text,
    text_map,
    texts,
    ulimits,
)


@dataclass(frozen=True, slots=True)
class Option:
    """`key` in the file, `flags` on the command line; `attribute` of `Configuration` when it differs from the key."""

    key: str
    flags: tuple[str, ...]
    read: Callable[[Any], Any]
    help: str
    attribute: str = ""
    item: Callable[[str], Any] = str  # one value of a repeated flag

    @property
    def target(self) -> str:
        return self.attribute or self.key.replace("-", "_")


OPTIONS = (
    Option("hosts", ("-H", "--host"), texts, "where to listen: unix://PATH, tcp://HOST:PORT, fd:// (repeatable)"),
    Option("data-root", ("--data-root",), text, "directory of everything that is kept"),
    Option("exec-root", ("--exec-root",), text, "directory of what is lost at a reboot"),
    Option("pidfile", ("-p", "--pidfile"), text, "file for the daemon's process id"),
    Option("group", ("-G", "--group"), text, "group that may use the unix socket"),
    Option("debug", ("-D", "--debug"), boolean, "log more"),
    Option("log-level", ("-l", "--log-level"), text, "debug, info, warn, error or fatal"),
    Option("metrics-addr", ("--metrics-addr",), text, "ADDRESS:PORT where /metrics tells figures to Prometheus"),
    Option("oom-score-adjust", ("--oom-score-adjust",), integer, "oom_score_adj of the daemon, -1000 to 1000"),
    Option("authorization-plugins", ("--authorization-plugin",), texts, "refused: there are no plugins"),
    Option("shutdown-timeout", ("--shutdown-timeout",), integer, "seconds that running requests get at the end"),
    Option("labels", ("--label",), texts, "label of this engine, NAME=VALUE (repeatable)"),
    Option("default-runtime", ("--default-runtime",), text, "OCI runtime of containers that name none"),
    Option("runtimes", ("--add-runtime",), runtimes, "another OCI runtime, NAME=PATH (repeatable)",
           item=flag_runtime),
    Option("default-ulimits", ("--default-ulimit",), ulimits, "NAME=SOFT[:HARD] for containers (repeatable)",
           item=flag_ulimit),
    Option("log-driver", ("--log-driver",), text, "log driver of containers that name none"),
    Option("log-opts", ("--log-opt",), text_map, "option of that driver, NAME=VALUE (repeatable)", item=flag_pair),
    Option("storage-driver", ("-s", "--storage-driver"), text, "overlay, btrfs or vfs; chosen by a probe otherwise"),
    Option("storage-opts", ("--storage-opt",), texts,
           "option of the storage driver: overlay2.size=SIZE, of containers that name none (repeatable)"),
    Option("discard-blobs", ("--discard-blobs",), boolean, "keep no compressed layer that a registry has"),
    Option("image-gc-high", ("--image-gc-high",), integer, "percent of the disk at which unused images go; 0: never"),
    Option("image-gc-low", ("--image-gc-low",), integer, "percent of the disk at which that ends (10 below)"),
    Option("image-gc-keep-last", ("--image-gc-keep-last",), integer,
           "newest images of a repository that stay; older unused ones go; 0: all stay"),
    Option("cgroup-parent", ("--cgroup-parent",), text, "parent of the containers' control groups"),
    Option("exec-opts", ("--exec-opt",), texts, "native.cgroupdriver=systemd|cgroupfs: who makes control groups"),
    Option("cpu-rt-period", ("--cpu-rt-period",), integer, "cgroup v1: microseconds of which containers may have"),
    Option("cpu-rt-runtime", ("--cpu-rt-runtime",), integer, "that many of real time, all together"),
    Option("seccomp-profile", ("--seccomp-profile",), text, "default seccomp profile of containers"),
    Option("userns-remap", ("--userns-remap",), text,
           "USER[:GROUP] whose subordinate ids containers get, or default; empty: the host's ids"),
    Option("no-new-privileges", ("--no-new-privileges",), boolean, "setuid programs gain nothing in containers"),
    Option("init", ("--init",), boolean, "an init is PID 1 of containers that say nothing about it"),
    Option("default-ipc-mode", ("--default-ipc-mode",), text, "IPC namespace of such containers: private, shareable"),
    Option("default-cgroupns-mode", ("--default-cgroupns-mode",), text, "their cgroup namespace: private, host"),
    Option("default-shm-size", ("--default-shm-size",), size, "size of their /dev/shm", item=flag_bytes),
    Option("selinux-enabled", ("--selinux-enabled",), boolean, "containers get SELinux labels"),
    Option("cdi-spec-dirs", ("--cdi-spec-dir",), texts,
           "directory of CDI specifications; a later one comes before an earlier (repeatable)"),
    Option("features", ("--feature",), switches, "switch a feature, NAME=BOOL: cdi (repeatable)", item=flag_switch),
    Option("bridge", ("-b", "--bridge"), text, "bridge of the default network, made if missing; none: no network"),
    Option("bip", ("--bip",), text, "address of that bridge, ADDRESS/PREFIX"),
    Option("default-address-pools", ("--default-address-pool",), pools,
           "base=RANGE,size=PREFIX: where networks get their ranges from (repeatable)", item=flag_pool),
    Option("fixed-cidr", ("--fixed-cidr",), text, "range that containers on it get addresses from"),
    Option("default-gateway", ("--default-gateway",), text, "gateway of containers on it"),
    Option("ip", ("--ip",), text, "address of published ports that name none"),
    Option("mtu", ("--mtu",), integer, "MTU of container networks"),
    Option("icc", ("--icc",), boolean, "containers on the default network may reach each other"),
    Option("ip-forward", ("--ip-forward",), boolean, "switch forwarding on"),
    Option("iptables", ("--iptables",), boolean, "make firewall rules"),
    Option("ip-masq", ("--ip-masq",), boolean, "what containers send to elsewhere has the host's address"),
    Option("userland-proxy", ("--userland-proxy",), boolean, "accepted; ports need no proxy here"),
    Option("dns", ("--dns",), texts, "name server of containers (repeatable)"),
    Option("dns-opts", ("--dns-opt",), texts, "resolver option of containers (repeatable)"),
    Option("dns-search", ("--dns-search",), texts, "search domain of containers (repeatable)"),
    Option("host-gateway-ip", ("--host-gateway-ip",), text, "what host-gateway means; the bridge's address otherwise"),
    Option("insecure-registries", ("--insecure-registry",), texts, "registry without TLS (repeatable)"),
    Option("registry-mirrors", ("--registry-mirror",), texts,
           "mirror, [REGISTRY=]URL; docker.io's if it names none (repeatable)"),
    Option("allow-nondistributable-artifacts", ("--allow-nondistributable-artifacts",), texts,
           "registry that foreign layers are pushed to (repeatable)"),
    Option("trusted-realms", ("--trusted-realm",), texts,
           "token server that gets credentials of registries elsewhere (repeatable)"),
    Option("max-concurrent-downloads", ("--max-concurrent-downloads",), integer, "layers pulled at a time"),
    Option("max-concurrent-uploads", ("--max-concurrent-uploads",), integer, "layers pushed at a time"),
    Option("max-download-attempts", ("--max-download-attempts",), integer, "tries for a layer whose download breaks"),
    Option("live-restore", ("--live-restore",), boolean, "accepted; containers always outlive the daemon"),
    Option("containerd", ("--containerd",), text, "accepted; there is no containerd here"),
    Option("containerd-namespace", ("--containerd-namespace",), text, "accepted"),
    Option("containerd-plugin-namespace", ("--containerd-plugins-namespace",), text, "accepted",
           attribute="containerd_plugins_namespace"),
    Option("experimental", ("--experimental",), boolean, "accepted; nothing here is switched on by it"),
    Option("init-path", ("--init-path",), text, "accepted; the init is built in"),
    Option("tls", ("--tls",), boolean, "TLS on TCP; false: TCP for everybody who reaches it (dangerous)"),
    Option("tlsverify", ("--tlsverify",), boolean, "TLS, and clients need a certificate"),
    Option("tlscacert", ("--tlscacert",), text, "certificates that sign the clients'"),
    Option("tlscert", ("--tlscert",), text, "this server's certificate"),
    Option("tlskey", ("--tlskey",), text, "its key"),
)  # fmt: skip
REPEATED = (texts, text_map, runtimes, ulimits, switches, pools)
MAPS = (text_map, runtimes, switches)
