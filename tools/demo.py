"""`make run`: Dockyard's main job on this machine, in one go, leaving nothing behind.

A daemon on a private root, the image `demo` made from busybox-static, a web server in a container with a published
port, its page fetched from outside, ps, logs and exec by the command-line client, the time a container takes. Ends with
0 only when the page really came.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.support import busybox, steps
from tests.support.engines import Dockyardd, Engine, EngineFailed, why_no_dockyardd

RUNS = 20
CANDIDATES = [f"10.{second}.77.0/24" for second in range(231, 255)]


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def free_subnet() -> str:
    """A range that no route of this machine touches."""
    routes = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[at]), "little") for at in (1, 7))
        if mask:
            routes.append(ipaddress.ip_network((address, bin(mask).count("1")), strict=False))
    for candidate in CANDIDATES:
        if not any(route.overlaps(ipaddress.ip_network(candidate)) for route in routes):
            return candidate
    raise EngineFailed("no free address range for the demonstration's bridge")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def client() -> list[str]:
    """Our own client beside this interpreter."""
    return [str(Path(sys.executable).with_name("dockyard"))]


def say(engine: Engine, *arguments: str, quiet: bool = False) -> str:
    """Run a client command as a user would, show it and what it prints."""
    shown = " ".join(arguments)
    print(f"$ dockyard {shown}", flush=True)
    done = subprocess.run(
        [*client(), *arguments], env=engine.cli_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    output = done.stdout + done.stderr
    if done.returncode != 0:
        raise EngineFailed(f"dockyard {shown} ended with {done.returncode}: {output}")
    if not quiet and output:
        print(output.rstrip(), flush=True)
    return done.stdout.strip()


def fetch(port: int, seconds: float = 10.0) -> bytes:
    """The page, as soon as the server inside listens."""
    end = time.monotonic() + seconds
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
            print(f"HTTP {answer.status}, {len(body)} bytes: {body.decode().strip()}")
            return body
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        finally:
            connection.close()


def measure(engine: Engine) -> list[float]:
    """Seconds from the request to create to the end of the request to start, some times over."""
    times = []
    with engine.api() as api:
        for _ in range(RUNS):
            begun = time.perf_counter()
            identifier = steps.create(api, "true", Image="demo")
            steps.start(api, identifier)
            times.append(time.perf_counter() - begun)
            steps.wait(api, identifier)
            steps.remove(api, identifier)
    return times


def show(engine: Engine) -> bool:
    """All steps; True when the page came as it is in the image."""
    heading("An image from busybox-static, imported through the API")
    with engine.api(120) as api:
        query = {"fromSrc": "-", "repo": "demo", "changes": 'CMD ["httpd","-f","-v","-p","80","-h","/www"]'}
        steps.expect(api.request("POST", "/images/create", query=query, raw=busybox.rootfs_tar()), 200)
    say(engine, "images")

    heading("A web server in a container, its port published")
    port = free_port()
    say(engine, "run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "demo")
    print(f"GET http://127.0.0.1:{port}/")
    page = fetch(port)

    heading("What runs, what it said, a command inside")
    say(engine, "ps")
    say(engine, "logs", "web")
    say(engine, "exec", "web", "ps")

    heading(f"How long a container takes to start ({RUNS} times, over the API)")
    times = measure(engine)
    print(f"create + start: median {statistics.median(times) * 1000:.1f} ms, best {min(times) * 1000:.1f} ms")

    heading("Cleaning up")
    say(engine, "rm", "-f", "web")
    return page == busybox.PAGE


def main() -> int:
    missing = why_no_dockyardd()
    if missing:
        print(f"make run: {missing}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    bridge = f"dydemo{os.getpid() % 10000}"
    engine = Dockyardd(private_network=False, bridge=bridge, subnet=free_subnet())
    good = False
    try:
        heading(f"dockyardd on a private root: {engine.root}, bridge {bridge} {engine.subnet}")
        engine.start()
        good = show(engine)
    except (EngineFailed, AssertionError, OSError, subprocess.SubprocessError) as error:
        print(f"\nmake run failed: {error}\n\nthe daemon's last words:\n{engine.log_tail()}", file=sys.stderr)
    finally:
        engine.close()
        tidy_network(bridge)
    verdict = "the page came" if good else "FAILED"
    print(f"\n{verdict}; everything is cleaned away ({time.monotonic() - begun:.1f} s)", flush=True)
    return 0 if good else 1


def tidy_network(bridge: str) -> None:
    """The bridge and the table stay when a daemon stops (containers may live on); here they go."""
    if re.fullmatch(r"dydemo\d+", bridge) and Path("/sys/class/net", bridge).exists():
        subprocess.run([shutil.which("ip") or "/sbin/ip", "link", "delete", bridge], check=False)


if __name__ == "__main__":
    sys.exit(main())
