"""`python -m dockyard.edge.registry serve|gc|check`: what `dockyard registry` executes.

Owns: the process's arguments, its log, its exit code. It is a process of its own because the client imports no server.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import uvloop

from dockyard.edge.registry.configuration import Configuration, load
from dockyard.model.errors import DockyardError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        configuration = load(options.config, _overrides(options))
        logging.basicConfig(
            level=configuration.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
        )
        code: int = uvloop.run(
            {"serve": _serve, "gc": _collect, "check": _check}[options.action](configuration, options)
        )
        return code
    except DockyardError as error:
        print(f"dockyard registry: {error.message}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dockyard registry")
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("serve", "gc", "check"):
        action = actions.add_parser(name)
        action.add_argument("--config", type=Path)
        action.add_argument("--root")
    serve = actions.choices["serve"]
    serve.add_argument("--listen", action="append")
    serve.add_argument("--read-only", action="store_true")
    serve.add_argument("--log-level")
    actions.choices["gc"].add_argument("--untagged", action="store_true")
    actions.choices["gc"].add_argument("--once", action="store_true")
    actions.choices["check"].add_argument("--quick", action="store_true")
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(options, name, None) for name in ("listen", "read_only", "log_level")}
    return found | ({"storage": {"filesystem": {"root": options.root}}} if options.root else {})


async def _serve(configuration: Configuration, options: argparse.Namespace) -> int:
    from dockyard.edge.registry.server import serve

    await serve(configuration, lambda addresses: print("\n".join(addresses), flush=True))
    return 0


async def _collect(configuration: Configuration, options: argparse.Namespace) -> int:
    from dockyard.edge.registry.service import Core

    configuration.collection.untagged |= options.untagged
    core = Core(configuration)
    try:
        report = await (core.collector.round() if options.once else core.collector.collect())
    finally:
        await core.close()
    print(
        f"{report.blobs} blobs ({report.bytes} bytes) deleted, {report.condemned} condemned; removed:"
        f" {report.manifests} manifests, {report.uploads} uploads, {report.refs} references"
    )
    return 0


async def _check(configuration: Configuration, options: argparse.Namespace) -> int:
    from dockyard.edge.registry.service import Core

    core = Core(configuration)
    checker = core.checker(contents=not options.quick)
    wrong = 0
    try:
        async for problem in checker.findings():
            wrong += 1
            print(problem)
    finally:
        await core.close()
    print(
        f"{checker.tags} tags, {checker.checked_manifests} manifests, {checker.checked_blobs} blobs: "
        + (f"{wrong} problems" if wrong else "all verify")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
