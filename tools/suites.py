"""`make test`: the suites one after the other, each a pytest run of its own, and one closing line for all.

Extra arguments go to every run (`-k exec`, `-x`, `--engine dockyardd`). Exit code 0 only when no test failed and at
least one ran.
"""

from __future__ import annotations

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


def main() -> int:
    begun, total, bad = time.monotonic(), dict.fromkeys(("passed", "failed", "skipped", "error"), 0), []
    for name in SUITES:
        if not any(Path("tests", name).glob("**/test_*.py")):
            print(f"\n=== {name}: no tests")
            continue
        code, counts = run_suite(name, sys.argv[1:])
        for word in total:
            total[word] += counts.get(word, 0)
        if code not in (0, NO_TESTS):
            bad.append(name)
    seconds = time.monotonic() - begun
    total["errors"] = total.pop("error")
    summary = ", ".join(f"{total[word]} {word}" for word in ("failed", "passed", "skipped", "errors") if total[word])
    print(f"\nsuites that failed: {', '.join(bad) or 'none'}")
    print(f"{'=' * 20} {summary or 'no tests ran'} in {seconds:.2f}s {'=' * 20}", flush=True)
    return 1 if bad or total["failed"] or total["errors"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
