"""`make test`: the suites, each a pytest run of its own, and one closing line for all.

Three lanes run side by side, because each mostly waits: kernel and a part of the conformance of dockyardd, one after
the other; unit, and when the kernel suite has ended the other part, on a daemon of its own; and the conformance suite
against Debian's dockerd. What runs beside the kernel suite has a mount namespace of its own, so that its look at the
machine does not see it. The output of the second and third lane comes after a suite of the first.

Extra arguments go to every run (`-k exec`, `-x`); with `--engine` there is one lane and one conformance run. Exit code
0 only when no test failed and at least one ran.

These tests are about real processes on a real machine, and some of them about what happens within a time. With `CI`
set, what failed is run once more by itself; what passes then is named as unsteady at the end, to be looked at, and does
not fail the run. What fails twice does. By hand nothing is run twice.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NO_TESTS = 5  # pytest's exit code
HALF = "test_dockyard"  # the files of the conformance suite before it take as long as those from it on
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|deselected|xfailed|xpassed|warnings?)")


@dataclass
class Suite:
    """One pytest run: its directory below tests, its own arguments, what it is run by, and what came of it."""

    directory: str
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    aside: bool = False  # its output is kept until `show`
    after: Suite | None = None  # begins when this one has ended
    counts: dict[str, int] = field(default_factory=dict)
    code: int = 1  # until it has run
    unsteady: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    seconds: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        return " ".join((self.directory, *self.arguments))

    @property
    def cache(self) -> Path:
        return Path(".pytest_cache", "-".join((self.directory, *self.arguments)).replace("--", ""))

    def run(self, more: list[str]) -> None:
        """Run it, and in CI what failed once more."""
        if self.after is not None:
            self.after.ended.wait()
        begun = time.monotonic()
        self.code, self.counts = self._pytest(more)
        if self.code == 1 and os.environ.get("CI"):
            self._once_more()
        self.seconds = time.monotonic() - begun
        self.ended.set()

    def show(self) -> None:
        """Print what was kept, once."""
        print("".join(self.output), end="", flush=True)
        self.output.clear()

    def _pytest(self, more: list[str]) -> tuple[int, dict[str, int]]:
        command = [sys.executable, "-m", "pytest", f"tests/{self.directory}", "-q", "--durations=5"]
        command += ["-o", f"cache_dir={self.cache}", *self.arguments, *more]
        self._say(f"\n=== {self.name}: {' '.join(command[1:])}\n")
        process = subprocess.Popen([*self.prefix, *command], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            self._say(line)
            last = line if COUNT.search(line) and " in " in line else last
        return process.wait(), {word.rstrip("s"): int(number) for number, word in COUNT.findall(last)}

    def _say(self, text: str) -> None:
        if self.aside:
            self.output.append(text)
        else:
            print(text, end="", flush=True)

    def _last_failed(self) -> list[str]:
        """The tests that failed in the run before, as pytest remembers them."""
        try:
            return sorted(json.loads((self.cache / "v/cache/lastfailed").read_text()))
        except FileNotFoundError:
            return []

    def _once_more(self) -> None:
        before = self._last_failed()
        self._say(f"\n{len(before)} failed; once more:\n  " + "\n  ".join(before) + "\n")
        self.code, again = self._pytest(["--last-failed", "--last-failed-no-failures=none"])
        after = set(self._last_failed()) if self.code else set()
        self.counts |= {"failed": again.get("failed", 0), "error": again.get("error", 0)}
        self.counts["passed"] = self.counts.get("passed", 0) + again.get("passed", 0)
        self.unsteady = [test for test in before if test not in after]


def lanes(arguments: list[str]) -> list[list[Suite]]:
    """What runs side by side; the first one's output is shown while it comes."""
    apart = not any(argument.startswith("--engine") for argument in arguments)
    if not apart or os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("dockerd"):
        return [[Suite("unit"), Suite("kernel"), Suite("conformance")]]
    private = ("unshare", "--mount", "--propagation=private")
    kernel, ours = Suite("kernel"), "--engine=dockyardd"
    return [
        [kernel, Suite("conformance", (ours, f"--from={HALF}"))],
        [Suite("unit", (), private, True), Suite("conformance", (ours, f"--before={HALF}"), (), True, kernel)],
        [Suite("conformance", ("--engine=dockerd",), private, True)],
    ]


def run_lane(suites: list[Suite], arguments: list[str], beside: Sequence[Suite] = ()) -> None:
    """One after the other; after each, the output of those `beside` that have ended."""
    for suite in suites:
        suite.run(arguments)
        for other in beside:
            if other.ended.is_set():
                other.show()


def summarize(suites: list[Suite], seconds: float) -> int:
    """The closing lines; the exit code of the whole."""
    words = ("failed", "passed", "skipped", "error")
    total = {word: sum(suite.counts.get(word, 0) for suite in suites) for word in words}
    bad = [suite.name for suite in suites if suite.code not in (0, NO_TESTS)]
    unsteady = [test for suite in suites for test in suite.unsteady]
    print("\n" + "\n".join(f"{suite.name}: {suite.seconds:.0f} s" for suite in suites))
    if unsteady:
        print("\nunsteady (failed, then passed):\n  " + "\n  ".join(unsteady))
    print(f"\nsuites that failed: {', '.join(bad) or 'none'}")
    text = ", ".join(f"{count} {word}" for word, count in total.items() if count)
    print(f"{'=' * 20} {text or 'no tests ran'} in {seconds:.2f}s {'=' * 20}", flush=True)
    return 1 if bad or total["failed"] or total["error"] or not total["passed"] else 0


def main() -> int:
    begun, arguments = time.monotonic(), sys.argv[1:]
    first, *others = lanes(arguments)
    beside = [suite for lane in others for suite in lane]
    threads = [threading.Thread(target=run_lane, args=(lane, arguments), daemon=True) for lane in others]
    for thread in threads:
        thread.start()
    run_lane(first, arguments, beside)
    for thread in threads:
        thread.join()
    for suite in beside:
        suite.show()
    return summarize([*first, *beside], time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(main())
