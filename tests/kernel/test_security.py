"""Security statements S1–S18 on real containers, through the OCI command and through zygote and monitor.

Each test carries its statement's number and is written so that a runtime without the protection fails it. Containers
are Docker's default ones as our engine makes them, unless a test says otherwise.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dockyard.linux import capabilities
from dockyard.model.container import ContainerConfig, HostConfig
from dockyard.runtime.bundle import BundleInput, BundleMount, Bundler, ExecInput, Host
from dockyard.runtime.bundle.security import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from tests.support.busybox import GROUP, PASSWD
from tests.support.ground import Ground, MonitorGround, Result
from tests.support.leaks import mounts
from tests.support.oci import Bundle, OciRuntime, docker_config
from tests.support.steps import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

FOREVER = "while :; do sleep 1000; done"


@pytest.fixture
def make(tmp_path: Path, bundler: Bundler) -> Callable[..., Bundle]:
    """A further bundle on the same root, of other settings."""
    return lambda **settings: Bundle(tmp_path / "bundle", docker_config(bundler, **settings))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that must stay empty and unmounted."""
    directory = tmp_path / "canary"
    directory.mkdir()
    before = mounts()
    yield directory
    assert list(directory.iterdir()) == []
    new = {point for point in mounts() - before if not point.startswith(str(tmp_path / "monitors"))}
    assert not {point for point in new if "canary" in point}, new


def exec_process(bundler: Bundler, script: str, **more: Any) -> dict[str, Any]:
    spec = BundleInput(id="f" * 64, name="t", config=ContainerConfig(), host=HostConfig(), args=["x"], hostname="box")
    return bundler.exec_process(spec, ExecInput(["/bin/sh", "-c", script], **more))


def remove_mounts(bundle: Bundle, *destinations: str) -> None:
    """Leave out default mounts at and below `destinations`."""
    bundle.config["mounts"] = [
        mount
        for mount in bundle.config["mounts"]
        if not any(mount["destination"] == d or mount["destination"].startswith(f"{d}/") for d in destinations)
    ]


def replace_by_link(path: Path, target: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


# S1: the interpreter cannot be written to.


_OVERWRITE = """
import os
def attempt(what, function):
    try:
        function()
        print(what, "done", flush=True)
    except OSError as error:
        print(what, error.strerror, flush=True)
status = os.stat("/proc/self/exe")
print("exe", status.st_ino, flush=True)
fd = os.open("/proc/self/exe", os.O_RDONLY)
for path in ("/proc/self/exe", f"/proc/self/fd/{fd}"):
    attempt("chmod", lambda: os.chmod(path, status.st_mode & 0o7777))
    attempt("open", lambda: os.open(path, os.O_WRONLY | os.O_TRUNC))
os.dup2(fd, 9)
os.execv("/bin/sh", ["sh", "-c", "chmod 755 /proc/self/fd/9 2>&1; (: > /proc/self/fd/9) 2>&1; true"])
"""


def check_overwriting(result: Result, interpreter: Path, before: os.stat_result) -> None:
    output = result.output
    assert f"exe {before.st_ino}\n" in output, f"the host's interpreter was not reached: {output}"
    assert output.count("Read-only file system") == 6, output
    assert interpreter.stat().st_ctime_ns == before.st_ctime_ns


class TestS1:
    """An image whose program is /proc/self/exe, that is, what ran before it: the interpreter of the engine."""

    interpreter = Path(os.path.realpath(sys.executable))

    @pytest.fixture
    def evil(self, make: Callable[..., Bundle]) -> Bundle:
        """The interpreter finds its libraries (the host's, read-only), so that it runs the image's code."""
        home = f"PYTHONHOME={os.path.realpath(sys.base_prefix)}"
        bundle = make(mounts=host_programs(), config=ContainerConfig(env=[home]))
        replace_by_link(bundle.root / "bin" / "evil", "/proc/self/exe")
        (bundle.root / "overwrite.py").write_text(_OVERWRITE)
        return bundle

    @pytest.mark.parametrize("program", ["/bin/evil", "/proc/self/exe", "/proc/1/exe"])
    def test_s1_run_of_proc_self_exe(self, ground: Ground, evil: Bundle, program: str) -> None:
        before = self.interpreter.stat()
        evil.config["process"]["args"] = [program, "/overwrite.py"]
        check_overwriting(ground.run(evil), self.interpreter, before)

    def test_s1_exec_of_proc_self_exe(self, ground: Ground, evil: Bundle) -> None:
        before = self.interpreter.stat()
        running = ground.start(evil.sh(FOREVER))
        process = evil.config["process"] | {"args": ["/bin/evil", "/overwrite.py"]}
        check_overwriting(running.exec(process), self.interpreter, before)

    def test_s1_a_script_whose_interpreter_is_proc_self_exe(self, ground: Ground, evil: Bundle) -> None:
        before = self.interpreter.stat()
        (evil.root / "bin" / "script").write_text(f"#!/proc/self/exe\n{_OVERWRITE}")
        (evil.root / "bin" / "script").chmod(0o755)
        evil.config["process"]["args"] = ["/bin/script"]
        check_overwriting(ground.run(evil), self.interpreter, before)

    def test_s1_processes_of_the_engine_cannot_be_looked_into(
        self, ground: Ground, bundle: Bundle, bundler: Bundler
    ) -> None:
        """While execs come in, a process in the container tries to open their /proc/PID/exe and /proc/PID/fd."""
        script = """
        : > /seen
        while :; do for p in /proc/[0-9]*; do
            [ $p = /proc/1 ] || [ $p = /proc/$$ ] && continue
            l=$(readlink $p/exe 2>/dev/null) && case $l in *python*) echo $p $l >> /seen;; esac
        done; done"""
        running = ground.start(bundle.sh(script))
        eventually(lambda: (bundle.root / "seen").exists())
        for _ in range(10):
            assert running.exec(exec_process(bundler, "true")).code == 0
        assert (bundle.root / "seen").read_text() == ""


# S2: no descriptor above 2.


def test_s2_no_descriptor_above_2(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    running = ground.start(bundle.sh(FOREVER))
    assert set(os.listdir(f"/proc/{running.pid}/fd")) == {"0", "1", "2"}
    shown = running.exec(exec_process(bundler, "ls /proc/$$/fd; readlink /proc/1/cwd"))
    assert shown.output.split() == ["0", "1", "2", "/"]


def test_s2_descriptors_of_the_caller_do_not_get_in(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    with (tmp_path / "host-file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        done = ours.run(bundle.sh("ls -l /proc/$$/fd; true"), close_fds=False)
    assert [line.split(" -> ")[0].split()[-1] for line in done.stdout.splitlines()[1:]] == ["0", "1", "2"]
    assert "host-file" not in done.stdout


# S3: the working directory is inside.

_IS_INSIDE = f"""
root=$(stat -c %d:%i /)
cd {"../" * 15} && [ $(stat -c %d:%i .) = $root ] && echo inside"""


@pytest.mark.parametrize("where", ["/proc/self/fd/{}", "/proc/self/fd/{}/..", "/proc/thread-self/fd/{}/../../.."])
def test_s3_the_working_directory_is_no_descriptor_of_ours(ground: Ground, bundle: Bundle, where: str) -> None:
    bundle.sh(_IS_INSIDE)
    numbers = (*range(3, 16), *range(200, 206)) if where == "/proc/self/fd/{}" else (4, 5, 7, 9, 201)
    refused = 0
    for number in numbers:
        bundle.config["process"]["cwd"] = where.format(number)
        result = ground.run(bundle)
        assert result.error or result.out == "inside\n", f"{where.format(number)}: {result}"
        refused += bool(result.error)
    assert refused, "every descriptor was a fine working directory: the test reaches nothing"


@pytest.mark.parametrize("below", ["", "/..", "/../.."])
def test_s3_a_directory_that_the_caller_left_open(ours: OciRuntime, bundle: Bundle, tmp_path: Path, below: str) -> None:
    """CVE-2024-21626 itself: a descriptor of a directory of the host, inheritable, reaches the container's init."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.set_inheritable(fd, True)
        bundle.sh(_IS_INSIDE).config["process"]["cwd"] = f"/proc/self/fd/{fd}{below}"
        done = ours.run(bundle, check=False, close_fds=False)
    finally:
        os.close(fd)
    assert done.stdout == "inside\n" or (done.returncode == 1 and "dockyard-runtime: " in done.stderr), done


def test_s3_of_exec_too(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    running = ground.start(bundle.sh(FOREVER))
    for number in range(3, 16):
        result = running.exec(exec_process(bundler, _IS_INSIDE, cwd=f"/proc/self/fd/{number}"))
        assert result.error or result.out == "inside\n", f"{number}: {result}"


def test_s3_a_link_in_the_image_as_working_directory(ground: Ground, bundle: Bundle) -> None:
    for number in (4, 5, 6, 7, 8):
        replace_by_link(bundle.root / "data", f"/proc/self/fd/{number}")
        bundle.sh(_IS_INSIDE).config["process"]["cwd"] = "/data"
        result = ground.run(bundle)
        assert result.error or result.out == "inside\n", f"{number}: {result}"


# S4: masking fails closed.


@pytest.mark.parametrize("kind", ["link", "file", "other device"])
def test_s4_masking_needs_a_real_dev_null(ground: Ground, bundle: Bundle, kind: str) -> None:
    """The container has the image's /dev, whose null is not what it should be."""
    remove_mounts(bundle, "/dev")
    null = bundle.root / "dev" / "null"
    if kind == "link":
        null.symlink_to("/etc/passwd")
    elif kind == "file":
        null.write_text("content of the image")
    else:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    result = ground.run(bundle.sh("touch /ran; cat /proc/interrupts /proc/keys"))
    assert result.error, result
    assert "/dev/null" in result.error
    assert not (bundle.root / "ran").exists()


def test_s4_the_images_dev_null_does_not_matter_with_a_dev_of_ones_own(ground: Ground, bundle: Bundle) -> None:
    (bundle.root / "dev" / "null").symlink_to("/etc/passwd")
    assert ground.run(bundle.sh("stat -c %t:%T /dev/null; cat /proc/keys")).output == "1:3\n"


# S5: the console.


def test_s5_the_console_is_the_containers_terminal(ours: OciRuntime, bundle: Bundle, tmp_path: Path) -> None:
    host_file = tmp_path / "host-file"
    host_file.write_text("untouched")
    replace_by_link(bundle.root / "dev" / "console", str(host_file))
    bundle.config["process"]["terminal"] = True
    done = ours.run(bundle.sh("stat -c '%F %t' /dev/console; stat -c %d:%i /dev/console /dev/pts/0"))
    kind, console, terminal = done.stdout.splitlines()
    assert kind == "character special file 88"
    assert console == terminal
    assert host_file.read_text() == "untouched"


@pytest.mark.parametrize("name", ["dev/ptmx", "dev/pts", "dev/console"])
def test_s5_without_a_dev_of_ones_own_the_image_cannot_lend_a_terminal(
    ours: OciRuntime, bundle: Bundle, canary: Path, name: str
) -> None:
    remove_mounts(bundle, "/dev")
    bundle.config["linux"]["maskedPaths"] = []
    replace_by_link(bundle.root / name, str(canary / "made"))
    bundle.config["process"]["terminal"] = True
    result = ours.run(bundle.sh("tty; ls -ld /dev/console"), check=False)
    assert result.returncode != 0 or "/dev/pts/" in result.stdout


# S6: what is written to /proc is written to procfs.


def test_s6_sysctls_do_not_land_in_the_image(ground: Ground, bundle: Bundle) -> None:
    remove_mounts(bundle, "/proc")
    bundle.config["linux"] |= {"maskedPaths": [], "readonlyPaths": [], "sysctl": {"kernel.domainname": "written"}}
    fake = bundle.root / "proc" / "sys" / "kernel" / "domainname"
    fake.parent.mkdir(parents=True)
    fake.write_text("fake")
    result = ground.run(bundle.sh("true"))
    assert "is not a proc file system" in result.error, result
    assert fake.read_text() == "fake"


def test_s6_the_oom_score_does_not_land_in_the_image(ground: Ground, bundle: Bundle) -> None:
    fake = bundle.root / "proc" / "self" / "oom_score_adj"
    fake.parent.mkdir(parents=True)
    fake.write_text("fake")
    bundle.config["process"]["oomScoreAdj"] = 321
    assert ground.run(bundle.sh("cat /proc/self/oom_score_adj")).output == "321\n"
    assert fake.read_text() == "fake"


# S7, S8: links in the image at mount points.


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["dev", "dev/ptmx", "dev/pts", "dev/shm", "proc", "sys"])
def test_s7_links_at_the_places_of_mounts(
    ground: Ground, bundle: Bundle, canary: Path, name: str, relative: bool
) -> None:
    target = "../" * 30 + str(canary).lstrip("/") if relative else str(canary)
    replace_by_link(bundle.root / name, target)
    result = ground.run(bundle.sh("touch /dev/made; ls /dev /proc /sys > /dev/null; true"))
    assert result.error or result.code == 0
    # the canary fixture looks at the host


def test_s7_proc_and_sys_are_never_links(ground: Ground, bundle: Bundle) -> None:
    (bundle.root / "elsewhere").mkdir()
    replace_by_link(bundle.root / "proc", "elsewhere")
    result = ground.run(bundle.sh("true"))
    assert result.error, "procfs was mounted through a link of the image"


@pytest.mark.parametrize("form", ["/link/new/dir", "/data/../link/new", "/link"])
@pytest.mark.parametrize("what", ["directory", "file", "tmpfs"])
def test_s8_missing_mount_points_are_made_inside(
    ground: Ground, make: Callable[..., Bundle], canary: Path, tmp_path: Path, form: str, what: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "marker").write_text("content")
    source = tmp_path / "source" if what == "directory" else tmp_path / "source" / "marker"
    mount = BundleMount(form, type="tmpfs") if what == "tmpfs" else BundleMount(form, str(source))
    bundle = make(mounts=[mount])
    for target in (str(canary), "../" * 30 + str(canary).lstrip("/")):
        replace_by_link(bundle.root / "link", target)
        result = ground.run(bundle.sh(f"grep -c '{canary}' /proc/mounts"))
        assert result.error or result.out == "1\n", f"not mounted at the place inside: {result}"


# S9: a shared volume in which links are swapped.


def test_s9_swapping_links_in_a_shared_volume(
    ground: Ground, make: Callable[..., Bundle], canary: Path, tmp_path: Path
) -> None:
    """Twenty starts (the statement's 10,000 are too many for a suite) against a loop that swaps all the time."""
    volume = tmp_path / "volume"
    (volume / "a" / "b").mkdir(parents=True)
    (volume / "b").symlink_to("../" * 30 + str(canary).lstrip("/"))
    stop = threading.Event()

    libc = ctypes.CDLL(None)
    one, two = bytes(volume / "a"), bytes(volume / "b")
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            swaps += libc.renameat2(-100, one, -100, two, 2) == 0  # RENAME_EXCHANGE

    bundle = make(mounts=[BundleMount("/v", str(volume)), BundleMount("/v/a/x", type="tmpfs")])
    bundle.sh("touch /v/a/x/made 2>/dev/null; true")
    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = []
    try:
        for _ in range(20):
            outcomes.append(ground.run(bundle))
            assert list(canary.iterdir()) == []
    finally:
        stop.set()
        thread.join()
    assert any(not outcome.error for outcome in outcomes), outcomes[0]
    assert swaps > 100


def test_s9_a_part_of_a_volume_that_is_swapped(
    ground: Ground, make: Callable[..., Bundle], canary: Path, tmp_path: Path
) -> None:
    """The part that is mounted is now a directory, now a link to the host: it is the directory, or the start fails."""
    volume = tmp_path / "volume"
    (volume / "a" / "inside").mkdir(parents=True)
    (volume / "b").symlink_to(canary.parent)
    stop = threading.Event()
    libc = ctypes.CDLL(None)

    def swap() -> None:
        while not stop.is_set():
            libc.renameat2(-100, bytes(volume / "a"), -100, bytes(volume / "b"), 2)  # RENAME_EXCHANGE

    bundle = make(mounts=[BundleMount("/v", str(volume), subpath="a")]).sh("ls /v")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        outcomes = [ground.run(bundle) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert {outcome.out for outcome in outcomes if not outcome.error} == {"inside\n"}, outcomes
    assert all("subpath a of" in outcome.error for outcome in outcomes if outcome.error), outcomes


@pytest.mark.parametrize("subpath", ["", "part", "out", "up"])
def test_s8_an_image_mounted_at_a_link(
    ground: Ground, make: Callable[..., Bundle], canary: Path, tmp_path: Path, subpath: str
) -> None:
    """An image mount lands inside, and a part of it is never what a link in it leads to outside."""
    layers = [tmp_path / "upper", tmp_path / "lower"]
    for layer in layers:
        (layer / "part").mkdir(parents=True)
    (layers[1] / "part" / "marker").write_text("content")
    (layers[0] / "out").symlink_to(canary.parent)
    (layers[0] / "up").symlink_to("../../..")
    image = {"type": "overlay", "base": str(tmp_path), "lower": ["upper", "lower"]}
    bundle = make(mounts=[BundleMount("/link/x", "img", type="image", image=image, subpath=subpath)])
    replace_by_link(bundle.root / "link", str(canary))
    (bundle.root / str(canary).lstrip("/")).mkdir(parents=True)
    script = f"cat {canary}/x/marker {canary}/x/part/marker 2>/dev/null; touch /link/x/new 2>&1 | grep -c Read-only"
    result = ground.run(bundle.sh(script))
    if subpath in ("out", "up"):
        assert f"subpath {subpath} of img: it leads out of it" in result.error
    else:
        assert result.out == "content1\n", result


# S10: control groups.


def test_s10_control_groups_are_private_and_read_only(ground: Ground, bundle: Bundle) -> None:
    script = """
    cat /proc/self/cgroup
    for f in $(find /sys/fs/cgroup -name release_agent -o -name cgroup.procs -o -name notify_on_release); do
        (echo /x > $f) 2>/dev/null && echo wrote $f
    done
    mkdir /sys/fs/cgroup/new 2>/dev/null && echo made
    mkdir /tmp/c && mount -t cgroup -o memory none /tmp/c 2>/dev/null && echo mounted
    mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted
    true"""
    lines = ground.run(bundle.sh(script)).output.splitlines()
    assert lines
    assert all(line.endswith(":/") for line in lines), lines


def test_s10_in_the_hosts_cgroup_namespace_only_the_own_group_is_mounted(
    ground: Ground, make: Callable[..., Bundle]
) -> None:
    bundle = make(host=HostConfig(cgroupns_mode="host", pids_limit=77))
    result = ground.run(bundle.sh("cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/pids.max; ls -d /sys/fs/cgroup/*/*/"))
    if Host.probe().cgroup_version == 2:
        pytest.skip("v2 shows the one tree, as other runtimes do")
    assert "/dockyard-test-" in result.out, "the namespace is not the host's"
    assert "\n77\n" in result.out
    assert "No such file" in result.err, f"groups of others are seen: {result.out}"


def test_s10_writable_control_groups_are_seen_as_such(ground: Ground, make: Callable[..., Bundle]) -> None:
    """The test above can fail: the same script finds what is writable."""
    bundle = make(host=HostConfig(security_opt=["writable-cgroups=true"]))
    script = (
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/n 2>/dev/null && rmdir $d/n && echo made; done; true"
    )
    assert "made" in ground.run(bundle.sh(script)).output


# S11, S12: capabilities.


def sets(output: str) -> dict[str, int]:
    pairs = (line.split() for line in output.splitlines() if line.startswith("Cap"))
    return {name.rstrip(":"): int(value, 16) for name, value in pairs}


_CAPS = "grep ^Cap /proc/self/status"


def test_s11_nothing_is_inheritable(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    running = ground.start(bundle.sh(FOREVER))
    first = sets(Path(f"/proc/{running.pid}/status").read_text())
    plain = sets(running.exec(exec_process(bundler, _CAPS)).output)
    privileged = sets(running.exec(exec_process(bundler, _CAPS, privileged=True)).output)
    user = sets(running.exec(exec_process(bundler, _CAPS, user="dock")).output)
    for found in (first, plain, privileged, user):
        assert found["CapInh"] == found["CapAmb"] == 0
    assert plain == first
    assert privileged["CapEff"] > plain["CapEff"]
    assert user["CapEff"] == user["CapPrm"] == 0
    assert user["CapBnd"] == plain["CapBnd"]


def test_s12_default_capabilities_are_dockers(ground: Ground, bundle: Bundle) -> None:
    found = sets(ground.run(bundle.sh(_CAPS)).output)
    expected = capabilities.to_mask(DEFAULT_CAPABILITIES)
    assert bin(expected).count("1") == 14
    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"] == expected


def test_s12_capabilities_can_be_dropped(ground: Ground, make: Callable[..., Bundle]) -> None:
    bundle = make(host=HostConfig(cap_drop=["NET_RAW", "MKNOD"]))
    result = ground.run(bundle.sh(f"{_CAPS}; mknod /n c 1 3 2>&1; ping -c 1 127.0.0.1 2>&1; true"))
    assert not sets(result.output)["CapBnd"] & capabilities.to_mask(["CAP_NET_RAW", "CAP_MKNOD"])
    assert "mknod: /n: Operation not permitted" in result.output


@pytest.mark.parametrize("user", ["dock", "1000", "1000:1000"])
def test_s12_a_user_has_no_capabilities(ground: Ground, make: Callable[..., Bundle], user: str) -> None:
    found = sets(ground.run(make(config=ContainerConfig(user=user)).sh(_CAPS)).output)
    assert found["CapPrm"] == found["CapEff"] == 0


# S13: masked and read-only paths.

_LIST = """
for p in {}; do
    [ -e $p ] || continue
    if [ -d $p ]; then n=$(ls -A $p | wc -l); else n=$(cat $p | head -c 9 | wc -c); fi
    echo $p $n
done"""


def test_s13_masked_paths_are_empty(ground: Ground, make: Callable[..., Bundle]) -> None:
    script = _LIST.format(" ".join(MASKED_PATHS))
    readable = make(host=HostConfig(masked_paths=[], readonly_paths=[])).sh(script)
    open_ones = dict(line.split() for line in ground.run(readable).output.splitlines())
    masked = dict(line.split() for line in ground.run(make().sh(script)).output.splitlines())
    assert set(masked) == set(open_ones)
    assert set(masked.values()) == {"0"}
    assert any(size != "0" for size in open_ones.values()), "nothing to hide on this host: the test shows nothing"


def test_s13_masked_directories_cannot_be_written(ground: Ground, bundle: Bundle) -> None:
    script = "for p in {}; do [ -d $p ] && touch $p/new 2>/dev/null && echo $p; done; true".format(
        " ".join(MASKED_PATHS)
    )
    assert ground.run(bundle.sh(script)).output == ""


def test_s13_read_only_paths(ground: Ground, bundle: Bundle, make: Callable[..., Bundle]) -> None:
    script = """
    for p in {}; do
        f=$(find $p -type f -perm -200 2>/dev/null | head -n 1)
        [ -n "$f" ] && (: >> $f) 2>&1
    done; true"""
    output = ground.run(bundle.sh(script.format(" ".join(READONLY_PATHS)))).output
    assert output and all("Read-only file system" in line for line in output.splitlines()), output
    open_one = make(host=HostConfig(masked_paths=[], readonly_paths=[]))
    assert "Read-only" not in ground.run(open_one.sh("(: >> /proc/sys/kernel/domainname) 2>&1; true")).output


def test_s13_paths_cannot_be_unmasked(ground: Ground, bundle: Bundle) -> None:
    script = "umount /proc/keys 2>&1; mount -o remount,rw /proc/sys 2>&1; mkdir /p && mount -t proc p /p 2>&1; true"
    lines = ground.run(bundle.sh(script)).output.splitlines()
    assert len(lines) == 3
    assert all("ermitted" in line or "denied" in line for line in lines), lines


# S14, S15: with the host's programs bound into the container.


def host_programs() -> list[BundleMount]:
    """The host's dynamic programs, libraries and this interpreter, read-only, at their places."""
    paths = ["/usr", "/lib", "/lib64", os.path.realpath(sys.base_prefix)]
    found = {os.path.realpath(path): path for path in paths if os.path.isdir(path)}
    return [BundleMount(path, os.path.realpath(path), read_only=True) for path in dict.fromkeys(found.values())]


_SYSCALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
x86 = os.uname().machine == "x86_64"
def call(name, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) for a in arguments])
    print(name, "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()], flush=True)
socket = 41 if x86 else 198
call("inet", socket, 2, 1, 0)
call("alg", socket, 38, 5, 0)
call("vsock", socket, 40, 1, 0)
call("keyctl", 250 if x86 else 219, 0, -3, 0)
call("add_key", 248 if x86 else 217, 0, 0, 0, 0, 0)
call("bpf", 321 if x86 else 280, 0, 0, 0)
call("userfaultfd", 323 if x86 else 282, 0)
call("io_uring_setup", 425, 1, 0)
call("unshare", 272 if x86 else 97, 0x10000000)
call("clone", 56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, 0, 0)
call("mount", 165 if x86 else 40, 0, 0, 0, 0, 0)
call("newer", 480)
"""


def run_python(ground: Ground, bundle: Bundle, script: str) -> Result:
    (bundle.root / "script.py").write_text(script)
    bundle.config["process"]["args"] = [os.path.realpath(sys.executable), "-I", "-S", "/script.py"]
    return ground.run(bundle)


def test_s14_the_default_filter_denies(ground: Ground, make: Callable[..., Bundle]) -> None:
    result = run_python(ground, make(mounts=host_programs()), _SYSCALLS)
    found = dict(line.split() for line in result.output.splitlines())
    allowed, missing = {"inet": "ok"}, {"clone3": "ENOSYS", "newer": "ENOSYS"}
    assert found == dict.fromkeys(found, "EPERM") | allowed | missing
    assert len(found) == 13


def test_s14_without_the_filter_they_are_there(ground: Ground, make: Callable[..., Bundle]) -> None:
    """The test above can fail."""
    host = HostConfig(security_opt=["seccomp=unconfined"])
    script = "\n".join(line for line in _SYSCALLS.splitlines() if not line.startswith('call("clone"'))
    result = run_python(ground, make(mounts=host_programs(), host=host), script)
    found = dict(line.split() for line in result.output.splitlines())
    assert found["keyctl"] == found["unshare"] == "ok"
    assert found["clone3"] == "EINVAL"


def test_s14_exec_has_the_filter_too(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    running = ground.start(bundle.sh(FOREVER))
    shown = running.exec(exec_process(bundler, "grep ^Seccomp: /proc/self/status; unshare -U true 2>&1; true"))
    assert shown.output.split()[:2] == ["Seccomp:", "2"]
    assert "not permitted" in shown.output


@pytest.mark.parametrize("restricted", [True, False])
def test_s15_no_new_privileges(ground: Ground, make: Callable[..., Bundle], restricted: bool) -> None:
    """A set-uid copy of the host's `id` (busybox gives set-uid up by itself) gains root, or does not."""
    bundle = make(
        config=ContainerConfig(user="dock"),
        host=HostConfig(security_opt=["no-new-privileges"] if restricted else []),
        mounts=host_programs(),
    )
    program = bundle.root / "suid-id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    shown = ground.run(bundle.sh("/suid-id; grep NoNewPrivs /proc/self/status")).output
    assert "uid=1000(dock)" in shown
    assert ("euid=0" in shown) is not restricted
    assert f"NoNewPrivs:\t{int(restricted)}" in shown


def test_s15_of_exec_too(ground: Ground, bundler: Bundler, make: Callable[..., Bundle]) -> None:
    host = HostConfig(security_opt=["no-new-privileges"])
    running = ground.start(make(host=host).sh(FOREVER))
    spec = BundleInput(id="f" * 64, name="t", config=ContainerConfig(), host=host, args=["x"], hostname="box")
    process = bundler.exec_process(spec, ExecInput(["grep", "NoNewPrivs", "/proc/self/status"]))
    assert running.exec(process).output.split() == ["NoNewPrivs:", "1"]


# S16, S17: users.

_WHO = "id -u; id -g; id -G; echo $HOME"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", ["0", "0", "0 10", "/root"]),
        ("dock", ["1000", "1000", "1000 50", "/home/dock"]),
        ("1000", ["1000", "1000", "1000 50", "/home/dock"]),
        ("4711", ["4711", "0", "0", "/"]),
        ("33:50", ["33", "50", "50", "/www"]),
    ],
)
def test_s16_users(ground: Ground, make: Callable[..., Bundle], user: str, expected: list[str]) -> None:
    bundle = make(config=ContainerConfig(user=user))
    (bundle.root / "etc" / "passwd").write_bytes(PASSWD + b"1000:x:0:0:evil:/evil:/bin/sh\n")
    (bundle.root / "etc" / "group").write_bytes(GROUP + b"wheel:x:10:root\n")
    found = ground.run(bundle.sh(_WHO)).output.splitlines()
    found[2] = " ".join(sorted(found[2].split(), key=lambda gid: (gid != found[1], int(gid))))
    assert found == expected


def test_s16_of_exec_too(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    running = ground.start(bundle.sh(FOREVER))
    assert running.exec(exec_process(bundler, _WHO, user="www:staff")).output.splitlines() == ["33", "50", "50", "/www"]
    failed = running.exec(exec_process(bundler, _WHO, user="nobody"))
    assert "unable to find user nobody: no matching entries in passwd file" in failed.error


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [
        ("nobody", [], "unable to find user nobody: no matching entries in passwd file"),
        ("root:nogroup", [], "unable to find group nogroup: no matching entries in group file"),
        ("root", ["extra"], "unable to find group extra: no matching entries in group file"),
    ],
)
def test_s16_absent_users_and_groups_fail(
    ground: Ground, make: Callable[..., Bundle], user: str, groups: list[str], message: str
) -> None:
    bundle = make(config=ContainerConfig(user=user), host=HostConfig(group_add=groups))
    result = ground.run(bundle.sh("touch /ran"))
    assert message in result.error
    assert not (bundle.root / "ran").exists()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"root:x:0:0:root:/root:/bin/sh\n")
        file.truncate(1 << 30)


def _link_to_host(path: Path) -> None:
    path.symlink_to("../" * 20 + "etc/passwd-host")


def _link_to_tty(path: Path) -> None:
    path.symlink_to("/dev/tty")


def _link_to_descriptor(path: Path) -> None:
    path.symlink_to("/proc/self/fd/5")


@pytest.mark.parametrize("put", [_fifo, _zero, _huge, _link_to_host, _link_to_tty, _link_to_descriptor])
@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("user", ["dock", "1000:1000", ""])
def test_s17_hostile_passwd_and_group_files(
    ground: Ground, make: Callable[..., Bundle], name: str, put: Callable[[Path], None], user: str
) -> None:
    bundle = make(config=ContainerConfig(user=user))
    path = bundle.root / "etc" / name
    path.unlink()
    put(path)
    before = time.monotonic()
    result = ground.run(bundle.sh("grep ^Uid /proc/self/status"))  # `id` would read the files itself
    assert time.monotonic() - before < 10
    if put is _huge and (name == "passwd" or user != "1000:1000"):
        assert f"/etc/{name}: larger than 1048576 bytes" in result.error
    elif name == "passwd" and user == "dock":
        assert "unable to find user dock" in result.error
    else:
        assert result.output.split()[1] == ("0" if user == "" else "1000")


# S18: nothing of the image is executed or imported by the engine.


def poison(root: Path) -> None:
    """Traps at every place where an interpreter or a C library may look."""
    source = Path(__file__).parents[2] / "src" / "dockyard" / "runtime"
    bomb = "# -*- coding: evil -*-\nimport os\nos.system('touch /pwned')\nopen('/pwned', 'w')\n"
    prefixes = {os.path.realpath(sys.base_prefix), "/usr", "/usr/local"}
    for prefix in prefixes:
        for library in (f"{prefix}/lib/python3.11", f"{prefix}/lib/python3.11/encodings", f"{prefix}/lib/python3"):
            directory = root / library.lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
            for module in (
                "evil",
                "traceback",
                "linecache",
                "tokenize",
                "encodings/evil",
                "sitecustomize",
                "codecs",
                "pwd",
            ):
                path = directory / f"{module}.py"
                if path.parent.is_dir():
                    path.write_text(bomb)
    for module in source.glob("*.py"):  # where a traceback would look for lines
        path = root / str(module).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if module.name == "init.py":
            os.mkfifo(path)
        else:
            path.write_text(bomb)
    for name in ("libnss_files.so.2", "libnss_dns.so.2", "libc.so.6", "gconv/gconv-modules", "locale/locale-archive"):
        for directory in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64"):
            path = root / directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no library")
    (root / "etc" / "nsswitch.conf").write_text("passwd: evil\ngroup: evil\n")
    (root / "etc" / "ld.so.preload").write_text("/lib64/libnss_files.so.2\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda process: None, ""),
        (lambda process: process.update(args=["none"]), "executable file not found"),
        (lambda process: process.update(args=["/etc/passwd"]), "permission denied"),
        (lambda process: process["user"].update(username="none"), "unable to find user none"),
        (lambda process: process["user"].update(username="n\u00ffne"), "unable to find user n\u00ffne"),
        (lambda process: process.update(cwd="/etc/passwd"), "/etc/passwd"),
        (lambda process: process.update(args=["/bin/sh\0x"]), ""),
        (lambda process: process.update(args=["/bin/" + "x" * 300]), "x"),
    ],
)
def test_s18_a_poisoned_image_runs_nothing_in_the_engine(
    ground: Ground, bundle: Bundle, bundler: Bundler, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    poison(bundle.root)
    bundle.sh("true")
    change(bundle.config["process"])
    before = time.monotonic()
    result = ground.run(bundle)
    assert message in result.error
    assert result.error or result.code == 0
    assert "Traceback" not in result.error + result.err
    assert time.monotonic() - before < 10, "something waited for the FIFO at init's source path"
    assert not (bundle.root / "pwned").exists()


def test_s18_exec_in_a_poisoned_image(ground: Ground, bundle: Bundle, bundler: Bundler) -> None:
    poison(bundle.root)
    running = ground.start(bundle.sh(FOREVER))
    assert running.exec(exec_process(bundler, "echo fine")).output == "fine\n"
    for process in (
        exec_process(bundler, "true") | {"args": ["none"]},
        exec_process(bundler, "true", user="none"),
        exec_process(bundler, "true", cwd="/none"),
    ):
        failed = running.exec(process)
        assert failed.error and "Traceback" not in failed.error
    assert not (bundle.root / "pwned").exists()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_s18_after_the_pivot_only_files_of_the_container_are_opened(
    ours: OciRuntime, bundle: Bundle, tmp_path: Path
) -> None:
    """No module, library, codec or locale is opened between pivot_root and the user's program."""
    log = tmp_path / "trace"
    ours.command = ["strace", "-f", "-e", "trace=openat,openat2,open,execve,pivot_root", "-o", str(log), *ours.command]
    bundle.config["process"]["user"] = {"username": "dock", "uid": 0, "gid": 0}
    ours.run(bundle.sh("true"))
    lines = log.read_text().splitlines()
    (pivot,) = [at for at, line in enumerate(lines) if "pivot_root(" in line]
    pid = lines[pivot].split()[0]
    after = [line for line in lines[pivot:] if line.startswith(pid)]
    program = next(at for at, line in enumerate(after) if "execve(" in line and '"/bin/sh"' in line)
    opened = [line.split('"')[1] for line in after[:program] if '"' in line and "open" in line]
    assert "/etc/passwd" in opened
    allowed = ("/proc", "/sys", "/dev", "/etc/passwd", "/etc/group", "/", ".", "sys/")  # the last beneath /proc
    assert [path for path in opened if not path.startswith(allowed)] == []
    foreign = [path for path in opened if path.endswith((".py", ".pyc", ".so")) or "locale" in path or "gconv" in path]
    assert foreign == []


# What the container sees of itself.

_MIRROR = """
grep -E '^(Sig(Pnd|Blk|Ign|Cgt)|ShdPnd|Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid|Umask|Cpus_allowed:)' /proc/self/status
umask
cat /proc/self/limits
env | grep -v ^HOSTNAME | sort
for fd in /proc/$$/fd/*; do echo ${fd##*/}; done
cut -d ' ' -f 6,18,19 /proc/$$/stat
cat /proc/self/oom_score_adj /proc/self/cgroup /proc/self/personality
ls -1 /dev /dev/pts | grep -v console
stat -c '%n %a %u %g %t %T' /dev/null /dev/zero /dev/full /dev/tty /dev/random /dev/ptmx /dev/shm /dev
cut -d ' ' -f 4,5,6 /proc/self/mountinfo | grep -v cgroup | sort
ip link | grep -c lo
"""


def test_what_a_container_sees_of_itself_is_what_it_sees_under_runc(
    ground: Ground, runc: OciRuntime, tmp_path: Path, bundler: Bundler
) -> None:
    def config() -> dict[str, Any]:
        made = docker_config(bundler, config=ContainerConfig(user="0:0"))
        made["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [0, 10]}
        made["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600}]
        made["process"].pop("seccompFlags", None)
        del made["dockyard"]
        made["linux"].pop("sysctl", None)
        return made

    mirror = Bundle(tmp_path / "one", config()).sh(_MIRROR)
    shown = ground.run(mirror).output.replace(str(mirror.root), "ROOT")
    peers = Bundle(tmp_path / "two", config()).sh(_MIRROR)
    expected = runc.run(peers).stdout.replace(str(peers.root), "ROOT")
    assert _without_ignored(shown) == _without_ignored(expected)
    assert re.search(r"^SigIgn:\s+0+$", shown, re.MULTILINE)


def _without_ignored(text: str) -> list[str]:
    """runc hands on what its caller ignores, and the tests may have been started with something ignored."""
    return [line for line in text.splitlines() if not line.startswith("SigIgn:")]


def test_the_callers_state_does_not_get_in(bundle: Bundle, tmp_path: Path) -> None:
    """A daemon with an odd umask, ignored and blocked signals, a nice value and an environment: none of it is seen."""
    script = f"""
import os, signal, sys
os.umask(0o077); os.nice(7); os.environ["SECRET"] = "leak"
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGCHLD])
sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
import json
from pathlib import Path
from tests.support.ground import MonitorGround
from tests.support.oci import Bundle
ground = MonitorGround(Path({str(tmp_path / "odd")!r}))
try:
    directory = Path({str(bundle.directory)!r})
    config = json.loads((directory / "config.json").read_text())
    print(ground.run(Bundle(directory, config)).output)
finally:
    ground.close()
"""
    bundle.sh("grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; umask; env; cut -d ' ' -f 19 /proc/$$/stat").write()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    zero = "0000000000000000"
    assert lines[:6] == ["SigBlk:", zero, "SigIgn:", zero, "SigCgt:", zero]
    assert lines[6] == "0022"
    assert lines[-1] == "0"
    assert "SECRET" not in done.stdout


def test_engine_processes_cannot_be_traced_from_within(bundle: Bundle, bundler: Bundler, tmp_path: Path) -> None:
    """The monitor stays outside: no process of the container's pid namespace but its own."""
    ground = MonitorGround(tmp_path / "monitors")
    try:
        running = ground.start(bundle.sh(FOREVER))
        shown = running.exec(exec_process(bundler, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done"))
        assert "python" not in shown.output and "dockyard" not in shown.output
    finally:
        ground.close()
