"""`make test-vm`: the tests on a stock kernel, Debian's, in a virtual machine: cgroup v2, AppArmor or SELinux, device
mapper.

The machine is emulated (TCG: no KVM is needed, ten times slower than real), has no network, and ends with the tests:

    Debian's linux-image-cloud-amd64, unpacked, not installed
    an initramfs of busybox and six virtio modules, which mounts /dev/vda and switches to it
    /dev/vda  Debian's minimal system with python3 and the tools the tests use; made once, kept in .cache/vm, never
              written to: what is written goes to an overlay's upper directory on /dev/vdb
    /dev/vdb  this project and its Python packages, copied anew each time and compiled here (the interpreter is
              Debian's: wheels of the same minor version fit)

Its serial line is our output; the last thing it says is pytest's exit code. With `CI` set, what failed is run once more
by itself and counts by that, as `make test` does it. PID 1 is a script that runs the tests, or,
with `--systemd`, systemd with one unit that does. With `--selinux` the kernel has SELinux in AppArmor's place, and the
script loads the policy of tests/data/selinux and enforces it. Without arguments there are four machines: two for the
tests marked `vm`, one for a few with systemd (all of them with `--systemd` alone), one for those of SELinux. As many as
there are processors run side by side; each writes to a throw-away layer upon the same disks.

    python -m tools.vm [--systemd|--selinux] [PYTEST ARGUMENTS]

Owns: making and booting it. Does not own: what is tested.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(".cache/vm").absolute()
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
PACKAGES = (
    "python3,python3-distutils,busybox-static,kmod,iproute2,nftables,iptables,libnftables1,libseccomp2,procps,mount,"
    "apparmor,runc,crun,util-linux,ca-certificates,e2fsprogs,xfsprogs,btrfs-progs,systemd,dbus"
)
LEFT_OUT = (
    "moto",
    "cfnlint",
    "sympy",
    "networkx",
    "botocore",
    "boto3",
    "mypy",
    "mypyc",
    "obstore",
    "pip",
    "setuptools",
)
SAYS_CODE = re.compile(r"^vm: pytest ended with (\d+)\s*$")
MEMORY, PROCESSORS = "3072", "2"

INITRD = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t devtmpfs d /dev; $b mount -t sysfs s /sys
for m in {modules}; do $b insmod /mod/$m.ko; done
$b insmod /mod/overlay.ko
$b mount -t ext4 -o ro /dev/vda /lower && $b mount -t ext4 /dev/vdb /data
$b mkdir -p /data/upper /data/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/data/upper,workdir=/data/work o /new
$b mkdir -p /new/data && $b mount --move /data /new/data
exec $b switch_root /new $program
"""

SETUP = r"""
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /run; mount -t devpts -o ptmxmode=666 devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t securityfs s /sys/kernel/security
mkdir /sys/fs/cgroup/tests && echo $$ > /sys/fs/cgroup/tests/cgroup.procs
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
"""

# The policy has to be written in one piece. The host's programs stay in the kernel's domain, which may do everything.
SELINUX_SETUP = r"""
mkdir -p /etc/selinux/tests/contexts && cp /data/selinux/config /etc/selinux/ || exit 1
cp /data/selinux/lxc_contexts /etc/selinux/tests/contexts/
mount -t selinuxfs selinuxfs /sys/fs/selinux
dd if=/data/selinux/policy of=/sys/fs/selinux/load bs=16M status=none && echo 1 > /sys/fs/selinux/enforce
"""

LOADED = "veth bridge br_netfilter nf_tables nft_chain_nat nft_ct nft_masq tun xfs btrfs loop"
START = r"""#!/bin/sh
export PATH=/data/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
{setup}
mkdir -p /data/tmp && chmod 1777 /data/tmp && mount --bind /data/tmp /tmp
for m in {modules}; do modprobe -q $m; done
ip link set lo up
hostname vm
cd /data/project
script() {
    printf '#!/usr/bin/python3\nimport sys\nfrom %s import main\nsys.exit(main())\n' $2 >/usr/bin/$1
    chmod 755 /usr/bin/$1
}
script dockyard dockyard.edge.cli.main; script dockyardd dockyard.daemon; script dockyard-runtime dockyard.runtime.oci
export PYTHONPATH=/data/project/src:/data/site-packages DOCKYARD_TEST_VM=1 CI=$CI
echo "vm: $(uname -r), $(python3 --version), controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
tests() { python3 -m pytest -o cache_dir=/tmp/pytest-cache {arguments} "$@"; code=$?; }
tests
if [ $code = 1 ] && [ -n "$CI" ]; then
    echo "vm: what failed, once more; what passes now is unsteady"
    tests --last-failed --last-failed-no-failures=none
fi
echo "vm: pytest ended with $code"
sync; echo o > /proc/sysrq-trigger; sleep 60
"""

# Nothing of a usual boot: systemd, the bus and the tests.
UNITS = {
    "tests.service": """[Unit]
DefaultDependencies=no
Requires=dbus.service
After=dbus.service
[Service]
ExecStart=/data/start-systemd
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS0
TasksMax=infinity
""",
    "dbus.service.d/early.conf": "[Unit]\nDefaultDependencies=no\n",
    "dbus.socket.d/early.conf": "[Unit]\nDefaultDependencies=no\n",
}
SYSTEMD = "/lib/systemd/systemd"
SYSTEMD_OPTIONS = "systemd.unit=tests.service systemd.show_status=no systemd.log_level=warning"
BY_SYSTEMD = ("tests/kernel/test_systemd.py", "tests/kernel/test_journald.py")
BY_SELINUX = "tests/kernel/test_selinux.py"
SELINUX = Path("tests/data/selinux")
FEW = "limits_stay or slice or out_of_memory or journald"  # of them, when both are booted: `--systemd` alone runs all
QUICK = ["-p", "no:hypothesispytest"]  # seconds, in there, to import what they do not use
DEFAULT = ["-q", "--color=no", "--durations=10", "--engine=dockyardd", "--timeout=600", *QUICK]
# For speed only: what a real processor is told to do against attacks that an emulated one does not know.
QUICKLY = "mitigations=off init_on_alloc=0"


def run(*command: str | Path, **more: object) -> str:
    """A command's output; CalledProcessError if it fails."""
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload]
    return str(done.stdout)


def kernel() -> tuple[Path, Path]:
    """(vmlinuz, modules' directory) of Debian's newest cloud kernel, fetched once."""
    place = CACHE / "kernel"
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        package = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", "linux-image-cloud-amd64"))
        if package is None:
            raise SystemExit("vm: apt knows no linux-image-cloud-amd64 (apt-get update?)")
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", "-q", package[1], cwd=place)
        run("dpkg", "-x", next(place.glob("*.deb")), place)
        (place / "done").touch()
    modules = next((place / "lib/modules").iterdir())
    return place / f"boot/vmlinuz-{modules.name}", modules


def system(modules: Path) -> Path:
    """The disk image of the root, made once a kernel and list of packages."""
    image, stamp = CACHE / "root.ext4", CACHE / "root.stamp"
    wanted = f"{modules.name} {PACKAGES}"
    if stamp.exists() and stamp.read_text() == wanted:
        return image
    tree = CACHE / "root"
    shutil.rmtree(tree, ignore_errors=True)
    print("vm: making Debian's minimal system (once)", flush=True)
    run("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={PACKAGES}", "-q", "bookworm", tree)
    for unwanted in ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(tree / unwanted, ignore_errors=True)
    shutil.copytree(modules, tree / "usr/lib/modules" / modules.name)
    run("depmod", "-b", tree, modules.name)
    (tree / "etc/hostname").write_text("vm\n")
    _disk(image, tree, 1200)
    shutil.rmtree(tree)
    stamp.write_text(wanted)
    return image


def _disk(image: Path, tree: Path, spare: int) -> None:
    """An ext4 image of a tree with `spare` MB more than it needs."""
    image.unlink(missing_ok=True)
    size = int(run("du", "-sm", tree).split()[0]) + spare
    with open(image, "wb") as file:
        file.truncate(size << 20)
    run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", tree, image)


def project(place: Path, machines: list[Machine]) -> Path:
    """The disk image with this project, its packages and what each machine is to do with them."""
    tree = place / "data"
    ours = tree / "project"
    ours.mkdir(parents=True)
    for name in ("src", "tests", "tools", "pyproject.toml"):
        (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, ours / name)
    if client := shutil.which("docker"):
        (tree / "bin").mkdir()
        shutil.copy(client, tree / "bin/docker")
    packages = Path(sys.prefix, f"lib/python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    skip = shutil.ignore_patterns(*LEFT_OUT, "*__mypyc*", "_editable*", "*.pth")
    shutil.copytree(packages, tree / "site-packages", ignore=skip)
    words = {word for machine in machines for word in machine.arguments}
    _compile(tree, {word for word in words if Path(word.split("::")[0]).exists()})
    for machine in machines:
        _start(tree, machine)
    image = place / "data.ext4"
    _disk(image, tree, 3000)
    shutil.rmtree(tree)
    return image


def _compile(tree: Path, tests: set[str]) -> None:
    """Python's and pytest's compiled files, which take an emulated machine a minute. Nothing depends on them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = f"{tree / 'project/src'}:{tree / 'site-packages'}"
    collect = ["pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *QUICK, *sorted(tests)]
    for words in (["compileall", "-q", "src"], collect):
        command = [sys.executable, "-m", *words]
        subprocess.run(command, cwd=tree / "project", env=environment, capture_output=True, check=False)


def _start(tree: Path, machine: Machine) -> None:
    """What runs the tests: a script, for systemd its unit, for SELinux a policy."""
    script, mode = tree / f"start-{machine.name}", machine.mode
    setup = {"plain": SETUP, "systemd": "", "selinux": SETUP + SELINUX_SETUP}[mode]
    text = START.replace("{setup}", setup).replace("{arguments}", shlex.join(machine.arguments))
    text = text.replace("{modules}", "loop" if mode == "selinux" else LOADED)  # those tests have no network
    script.write_text(text.replace("$CI", os.environ.get("CI", "")))
    script.chmod(0o755)
    if mode == "selinux":
        _policy(tree / "selinux")
    if mode == "systemd":
        etc = tree / "upper/etc"
        for name, unit in UNITS.items():
            path = etc / "systemd/system" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(unit)
        (etc / "machine-id").write_text("0123456789abcdef" * 2 + "\n")  # else this is a first boot, with presets


def _policy(place: Path) -> None:
    """The policy for the kernel, and the files beside it that programs read."""
    place.mkdir()
    for name in ("config", "lxc_contexts"):
        shutil.copy(SELINUX / name, place)
    categories = "\n".join(f"category c{number};" for number in range(1, 1024))
    text = (SELINUX / "policy.conf").read_text().replace("CATEGORIES", f"\n{categories}")
    (place / "policy.conf").write_text(text)
    run("checkpolicy", "-M", "-U", "allow", "-o", place / "policy", place / "policy.conf")


def initrd(modules: Path) -> Path:
    """What finds the disks and executes `program=` of the kernel's command line as PID 1; made once a kernel."""
    image, tree = CACHE / f"initrd-{modules.name}.gz", CACHE / "initrd"
    wanted = INITRD.format(modules=" ".join(MODULES))
    if image.exists() and (tree / "init").exists() and (tree / "init").read_text() == wanted:
        return image
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("bin", "mod", "proc", "dev", "sys", "new", "lower", "data"):
        (tree / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    for name in (*MODULES, "overlay"):
        shutil.copy(next(modules.rglob(f"{name}.ko")), tree / "mod")
    (tree / "init").write_text(wanted)
    (tree / "init").chmod(0o755)
    run("sh", "-c", f"find . | cpio -o -H newc --quiet | gzip -1 > {shlex.quote(str(image))}", cwd=tree)
    return image


class Machine:
    """One that is booted once. `mode`: plain, systemd or selinux; `arguments`: pytest's."""

    def __init__(self, name: str, mode: str, arguments: list[str]) -> None:
        self.name, self.mode, self.arguments = name, mode, arguments
        self.code = 1  # pytest's exit code; 1 if it did not get to say one
        self._kept: list[str] | None = []  # what it has said, until it may say it
        self._lock = threading.Lock()

    def _options(self) -> str:
        """For the kernel and PID 1."""
        module = "selinux" if self.mode == "selinux" else "apparmor"
        options = f"console=ttyS0 quiet panic=-1 lsm=landlock,yama,{module} {QUICKLY}"
        if self.mode == "systemd":
            return f"{options} program={SYSTEMD} {SYSTEMD_OPTIONS}"
        return f"{options} program=/data/start-{self.name}"

    def boot(self, vmlinuz: Path, initial: Path, root: Path, data: Path) -> None:
        """Returns when it has ended. It dies with us."""
        command = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]
        command += ["-smp", PROCESSORS, "-m", MEMORY, "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]
        command += ["-kernel", str(vmlinuz), "-initrd", str(initial), "-append", self._options()]
        command += ["-drive", f"file={root},if=virtio,format=raw,readonly=on"]
        command += ["-drive", f"file={data},if=virtio,format=raw,cache=unsafe,snapshot=on"]
        begun = time.monotonic()
        environment = {**os.environ, "TMPDIR": str(data.parent)}  # the throw-away layer
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", env=environment
        ) as vm:
            assert vm.stdout is not None
            for line in vm.stdout:
                line = line.replace("\r", "")
                self._say(line)
                if found := SAYS_CODE.match(line):
                    self.code = int(found[1])
        self._say(f"vm {self.name}: {time.monotonic() - begun:.1f} s\n")

    def _say(self, line: str) -> None:
        with self._lock:
            if self._kept is None:
                print(line, end="", flush=True)
            else:
                self._kept.append(line)

    def speak(self) -> None:
        """What it says from now on is said at once, and now what it has said."""
        with self._lock:
            kept, self._kept = self._kept or [], None
            print(f"=== vm {self.name}\n{''.join(kept)}", end="", flush=True)


def marked() -> list[str]:
    """The files with tests that are marked `vm`: to collect all tests takes a minute in there."""
    files = sorted(str(path) for path in Path("tests").rglob("test_*.py") if "pytest.mark.vm" in path.read_text())
    return [path for path in files if path not in (*BY_SYSTEMD, BY_SELINUX)]


def wanted(given: list[str]) -> list[Machine]:
    """What to boot for our arguments."""
    if given[:1] == ["--systemd"]:
        return [Machine("systemd", "systemd", given[1:] or [*BY_SYSTEMD, *DEFAULT])]
    if given[:1] == ["--selinux"]:
        return [Machine("selinux", "selinux", given[1:] or [BY_SELINUX, *DEFAULT])]
    if given:
        return [Machine("plain", "plain", given)]
    parts: dict[str, list[str]] = {}
    for path in marked():
        parts.setdefault(Path(path).parts[1], []).append(path)
    plain = [Machine(name, "plain", [*files, "-m", "vm", *DEFAULT]) for name, files in sorted(parts.items())]
    few = [*BY_SYSTEMD, "-k", FEW, *DEFAULT]
    return [*plain, Machine("systemd", "systemd", few), Machine("selinux", "selinux", [BY_SELINUX, *DEFAULT])]


@contextmanager
def alone() -> Iterator[None]:
    """One at a time makes what is kept."""
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    os.chdir(Path(__file__).parent.parent)
    machines = wanted(sys.argv[1:])
    CACHE.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with alone():
        vmlinuz, modules = kernel()
        root, initial = system(modules), initrd(modules)
        for old in CACHE.glob("run-*"):  # of runs that were killed
            if time.time() - old.stat().st_mtime > 7200:
                shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as name:
        data = project(Path(name), machines)
        print(f"vm: {time.monotonic() - begun:.1f} s: booting", flush=True)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            runs = [pool.submit(machine.boot, vmlinuz, initial, root, data) for machine in machines]
            for machine, done in zip(machines, runs, strict=True):
                machine.speak()
                done.result()
    ended = ", ".join(f"{machine.name} {machine.code}" for machine in machines)
    print(f"vm: done in {time.monotonic() - begun:.1f} s; pytest's exit codes: {ended}", flush=True)
    return next((machine.code for machine in machines if machine.code), 0)


if __name__ == "__main__":
    sys.exit(main())
