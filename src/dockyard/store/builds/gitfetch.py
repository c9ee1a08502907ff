"""A git repository as a tree: what `git` fetches, without what a repository could make it do.

Owns: the worker functions `resolve` (which commit a ref is now) and `checkout`. Does not own: URLs (those that begin
with "-" are refused by `proto.buildcontext`), keeping checkouts.

The program runs with an environment of its own: no configuration of the host, no prompts, no hooks, no templates, no
file protocol (also not in submodules: CVE-2022-39253), http, https, git and ssh only. Whatever a URL or ref is, it
comes after `--` or in a place where git takes no options.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any, Final

from dockyard.model.errors import InvalidArgument, NotFound, SystemFailure
from dockyard.store.mergedtree import MergedTree
from dockyard.store.trees import remove_tree

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SECONDS: Final = 600
_SETTINGS: Final = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.askPass", "/bin/false"),
    ("credential.helper", ""),
    ("protocol.allow", "never"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    ("protocol.git.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("protocol.file.allow", "never"),
    ("protocol.ext.allow", "never"),
    ("init.defaultBranch", "main"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("safe.directory", "*"),
    ("http.followRedirects", "initial"),
    ("submodule.recurse", "false"),
    ("transfer.fsckObjects", "true"),
)
_KEPT: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")


def resolve(*, fds: Sequence[int], url: str, ref: str, agent: str = "") -> dict[str, Any]:
    """Worker: {"commit"} that `ref` ("" = the default branch) is now. NotFound naming repository and ref."""
    if _COMMIT.match(ref):
        return {"commit": ref}
    with tempfile.TemporaryDirectory(prefix="dockyard-git-") as home:
        wanted = [ref, f"refs/heads/{ref}", f"refs/tags/{ref}", f"refs/tags/{ref}^{{}}"] if ref else ["HEAD"]
        listed = _git(["ls-remote", "--", url, *wanted], home, home, agent, url)
    found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    for name in (f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}", f"refs/tags/{ref}", ref) if ref else ("HEAD",):
        if name in found and _COMMIT.match(found[name]):
            return {"commit": found[name]}
    if found:
        return {"commit": next(iter(found.values()))}
    if re.fullmatch(r"[0-9a-fA-F]{7,63}", ref):
        return {"commit": ""}  # the beginning of a commit, which only a whole clone can tell
    raise NotFound(f"repository {_shown(url)} does not contain ref {ref or 'HEAD'}")


def checkout(
    *,
    fds: Sequence[int],
    url: str,
    ref: str,
    commit: str,
    target: str,
    keep_git_dir: bool,
    submodules: bool,
    agent: str = "",
) -> dict[str, Any]:
    """Worker: have the commit's files in the empty directory `target`; {"commit"}. InvalidArgument with git's words."""
    with tempfile.TemporaryDirectory(prefix="dockyard-git-") as home:

        def git(*arguments: str) -> str:
            return _git(list(arguments), target, home, agent, url)

        git("init", "--quiet", "--template=")
        git("remote", "add", "--", "origin", url)
        commit = _fetch(git, ref, commit)
        git("checkout", "--quiet", "--force", "--detach", commit)
        if submodules and os.path.lexists(f"{target}/.gitmodules"):
            git("submodule", "update", "--quiet", "--init", "--recursive", "--depth=1")
        if not keep_git_dir:
            _remove_git(target)
        else:
            shutil.rmtree(f"{target}/.git/hooks", ignore_errors=True)
    return {"commit": commit}


def _fetch(git: Any, ref: str, commit: str) -> str:
    """Fetch as little as gives the commit; its full name."""
    if commit:
        try:
            git("fetch", "--quiet", "--depth=1", "--no-tags", "origin", commit)
            return commit
        except InvalidArgument:
            pass  # a server that gives out no single commits
    git("fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
    name = commit or ref or "HEAD"
    found: str = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").strip()
    return found


def _git(arguments: list[str], directory: str, home: str, agent: str, url: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, env=_environment(home, agent), stdin=subprocess.DEVNULL,
            capture_output=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise SystemFailure("git is not installed on this host: apt-get install git") from None
    except subprocess.TimeoutExpired:
        raise InvalidArgument(f"failed to fetch remote {_shown(url)}: no end within {_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().replace(url, _shown(url))[-1000:]
        raise InvalidArgument(f"failed to fetch remote {_shown(url)}: git {arguments[0]}: {said}")
    return done.stdout.decode("utf-8", "replace")


def _environment(home: str, agent: str) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": home,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new "
        f"-o UserKnownHostsFile={home}/known_hosts",
        "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
    }
    for number, (key, value) in enumerate(_SETTINGS):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    if agent:
        environment["SSH_AUTH_SOCK"] = agent
    return environment


def _remove_git(target: str) -> None:
    """Every .git: the repository's own directory, and the files by which submodules point into it."""
    for directory, directories, names, at in os.fwalk(target, follow_symlinks=False):
        if ".git" in names:
            os.unlink(".git", dir_fd=at)
        if ".git" in directories:
            directories.remove(".git")
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove_tree(opened, ".git")
            finally:
                os.close(opened)


def subdirectory(root: str, path: str) -> str:
    """The directory at `path` of a checkout, links followed within the checkout (S44). NotFound; InvalidArgument."""
    if not path:
        return root
    with MergedTree([root]) as tree:
        found = tree.lookup(os.fsencode(path), follow=True)
        if found is None:
            raise NotFound(f"subdirectory {path!r} is not in the repository")
        if not stat.S_ISDIR(found.status.st_mode):
            raise InvalidArgument(f"subdirectory {path!r} of the repository is no directory")
        return f"{root}/{os.fsdecode(found.path)}" if found.path else root


def _shown(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)
