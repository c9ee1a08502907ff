"""`make test`: the suites one after the other, each a pytest run of its own, and one closing line for all.

Extra arguments go to every run (`-k exec`, `-x`, `--engine dockyardd`). Exit code 0 only when no test failed and at
least one ran.

These tests are about real processes on a real machine, and some of them about what happens within a time. With `CI`
set, what failed is run once more by itself; what passes then is named as unsteady at the end, to be looked at, and does
not fail the run. What fails twice does. By hand nothing is run twice.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

SUITES = ("unit", "kernel", "conformance")
NO_TESTS = 5  # pytest's exit code
COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|deselected|xfailed|xpassed|warnings?)")


def run_suite(name: str, arguments: list[str]) -> tuple[int, dict[str, int]]:
    """(exit code, counts) of one suite; its output appears as it comes."""
    command = [sys.executable, "-m", "pytest", f"tests/{name}", "-q", "--durations=5", *arguments]
    print(f"\n=== {name}: {' '.join(command[1:])}", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        last = line if COUNT.search(line) and " in " in line else last
    code = process.wait()
    return code, {word.rstrip("s"): int(number) for number, word in COUNT.findall(last)}


def last_failed(name: str) -> list[str]:
    """The tests of a suite that failed in the run before, as pytest remembers them."""
    try:
        remembered = json.loads(Path(".pytest_cache/v/cache/lastfailed").read_text())
        return sorted(test for test in remembered if test.startswith(f"tests/{name}/"))
    except FileNotFoundError:
        return []


def once_more(name: str, counts: dict[str, int]) -> tuple[int, dict[str, int], list[str]]:
    """Run what failed again: (exit code, counts of both runs together, what passed only now)."""
    before = last_failed(name)
    print(f"\n{len(before)} failed; once more:\n  " + "\n  ".join(before), flush=True)
    code, again = run_suite(name, ["--last-failed", "--last-failed-no-failures=none"])
    after = set(last_failed(name)) if code else set()
    together = {**counts, "failed": again.get("failed", 0), "error": again.get("error", 0)}
    together["passed"] = counts.get("passed", 0) + again.get("passed", 0)
    return code, together, [test for test in before if test not in after]


def main() -> int:
    begun, total, bad = time.monotonic(), dict.fromkeys(("passed", "failed", "skipped", "error"), 0), []
    unsteady: list[str] = []
    for name in SUITES:
        if not any(Path("tests", name).glob("**/test_*.py")):
            print(f"\n=== {name}: no tests")
            continue
        code, counts = run_suite(name, sys.argv[1:])
        if code == 1 and os.environ.get("CI"):
            code, counts, passed_now = once_more(name, counts)
            unsteady += passed_now
        for word in total:
            total[word] += counts.get(word, 0)
        if code not in (0, NO_TESTS):
            bad.append(name)
    seconds = time.monotonic() - begun
    total["errors"] = total.pop("error")
    summary = ", ".join(f"{total[word]} {word}" for word in ("failed", "passed", "skipped", "errors") if total[word])
    if unsteady:
        print("\nunsteady (failed, then passed):\n  " + "\n  ".join(unsteady))
    print(f"\nsuites that failed: {', '.join(bad) or 'none'}")
    print(f"{'=' * 20} {summary or 'no tests ran'} in {seconds:.2f}s {'=' * 20}", flush=True)
    return 1 if bad or total["failed"] or total["errors"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
