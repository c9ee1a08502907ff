"""COPY and ADD → a `CopyOp` and what it fetches.

Owns: sources (files, here-documents, URLs, repositories), destinations, flags, what their history says. Does not own:
copying, fetching.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from dockyard.model.errors import InvalidArgument
from dockyard.model.oci import check_digest
from dockyard.proto import buildcontext, dockerignore
from dockyard.proto.dockerfile import modes, scope
from dockyard.proto.dockerfile.building import Building, as_problem
from dockyard.proto.dockerfile.errors import Problem, quoted
from dockyard.proto.dockerfile.instructions import Add, Copy, Heredoc, Range
from dockyard.proto.dockerfile.ops import CopyOp, CopySource, FetchGit, FetchUrl, HeredocFile, SourceContext, Vertex

UNNAMED: Final = "__unnamed__"
_WILDCARD: Final = frozenset("*?[")
_PIVOT: Final = "/./"


def copy(stage: Building, instruction: Copy | Add, source: int | None, ignore: dockerignore.Ignore | None) -> int:
    """The vertex. `source`: where COPY --from reads, None for the build context. Problem."""
    return _Transfer(stage, instruction, source, ignore).carry_out()


class _Transfer:
    def __init__(
        self, stage: Building, instruction: Copy | Add, source: int | None, ignore: dockerignore.Ignore | None
    ) -> None:
        self.stage, self.instruction, self.ignore = stage, instruction, ignore
        self.from_context = source is None
        self._source = source
        self._inputs: list[int] = []
        self.add = instruction if isinstance(instruction, Add) else None
        self.parents = isinstance(instruction, Copy) and instruction.parents

    def carry_out(self) -> int:
        stage, instruction = self.stage, self.instruction
        words = [self.expand(word) for word in instruction.sources]
        written = self.expand(instruction.dest)
        chown, chmod = self.expand(instruction.chown), self.expand(instruction.chmod)
        excludes = tuple(self._exclude(self.expand(word)) for word in instruction.excludes)
        checksum = self.expand(self.add.checksum) if self.add else ""
        self._check_checksum(checksum, words)
        dest, directory = self._destination(written)
        many = len(words) + len(instruction.documents) > 1
        documents = [self._document(one, directory or many) for one in instruction.documents]
        sources = [self._word(word, checksum, directory or many) for word in words] + documents
        op = CopyOp(
            sources=tuple(sources),
            dest=dest,
            dest_directory=directory or many,
            chown=modes.check_owner(chown) if chown else "",
            chmod=modes.check_mode(chmod) if chmod else "",
            link=instruction.link,
            parents=self.parents,
            excludes=excludes,
            epoch=scope.epoch(stage.graph.options, stage.graph.scope),
        )
        vertex = stage.step(op, tuple(self._inputs), instruction, stage.display(instruction.text))
        stage.record(self._history(words, written, chown, chmod), vertex)
        return vertex

    def expand(self, text: str) -> str:
        return self.stage.expand(text, self.instruction)

    def _history(self, words: list[str], written: str, chown: str, chmod: str) -> str:
        parts = ["ADD" if self.add else "COPY"]
        parts += ["--parents"] if self.parents else []
        parts += [f"--chown={chown}"] if chown else []
        parts += [f"--chmod={chmod}"] if chmod else []
        parts += words + [f"<<{document.name}" for document in self.instruction.documents]
        return " ".join([*parts, written, "# buildkit"])

    # Sources ----------------------------------------------------------------------------------------------------

    def _input(self, vertex: int) -> int:
        """The position of a vertex among the inputs; the first is what is added to."""
        if vertex not in self._inputs:
            self._inputs.append(vertex)
        return self._inputs.index(vertex) + 1

    def _word(self, word: str, checksum: str, directory: bool) -> CopySource:
        try:
            git = buildcontext.parse_git(word)
        except InvalidArgument as error:
            raise as_problem(error, at=word) from None
        if git is not None:
            if self.add is None:
                raise Problem("source can't be a git ref for COPY", at=word)
            return self._repository(git, checksum)
        if buildcontext.is_http(word):
            if self.add is None:
                raise Problem("source can't be a URL for COPY", at=word)
            return self._url(word, checksum, directory)
        return self._files(word)

    def _repository(self, git: buildcontext.GitSource, checksum: str) -> CopySource:
        assert self.add is not None
        keep = self.add.keep_git_dir
        if keep is not None and git.keep_git_dir is not None and keep != git.keep_git_dir:
            raise Problem("inconsistent keep-git-dir configuration", at="--keep-git-dir")
        try:
            checksum = buildcontext.check_commit(checksum) if checksum else ""
        except InvalidArgument as error:
            raise as_problem(error, at=checksum) from None
        if checksum and git.checksum and checksum != git.checksum:
            raise Problem(f"checksum mismatch {quoted(checksum)} != {quoted(git.checksum)}", at="--checksum")
        op = FetchGit(
            url=git.url,
            ref=git.ref,
            subdir=git.subdir,
            keep_git_dir=bool(keep if git.keep_git_dir is None else git.keep_git_dir),
            checksum=checksum or git.checksum,
            submodules=git.submodules,
        )
        vertex = self._fetch(op, f"[git] {buildcontext.public(git.url)}{f'#{git.ref}' if git.ref else ''}")
        return CopySource(input=self._input(vertex), path="/", pattern=False)

    def _url(self, url: str, checksum: str, directory: bool) -> CopySource:
        assert self.add is not None
        at = url
        try:
            buildcontext.check_http(url)
            at = checksum
            digest = check_digest(checksum, "--checksum") if checksum else ""
        except InvalidArgument as error:
            raise as_problem(error, at=at) from None
        name = unquote(posixpath.basename(posixpath.normpath(urlsplit(url).path or "/")))
        if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > 255:
            if directory:
                raise Problem(f"cannot determine filename from url: {buildcontext.public(url)}", at=url)
            name = UNNAMED
        vertex = self._fetch(FetchUrl(url=url, name=name, checksum=digest), f"[http] {buildcontext.public(url)}")
        return CopySource(
            input=self._input(vertex),
            path=f"/{name}",
            pattern=False,
            unpack="always" if self.add.unpack else None,
        )

    def _fetch(self, op: FetchUrl | FetchGit, name: str) -> int:
        stage = self.stage
        vertex = Vertex(op=op, name=name, range=self.instruction.range, ignore_cache=stage.ignore_cache)
        return stage.vertices.share(vertex)

    def _files(self, word: str) -> CopySource:
        self._report_ignored(word)
        vertex = self._source
        if vertex is None:
            vertex = context_vertex(self.stage, "")
        unpack: str | None = None
        if self.add is not None and self.add.unpack is not False:
            unpack = "auto" if self.add.unpack is None else "always"
        pivot = 0
        if self.parents and _PIVOT in word:
            before, _, after = word.partition(_PIVOT)
            root = _clean(before)
            pivot = len([part for part in root.split("/") if part])
            path = posixpath.normpath(f"{root}/{_clean(after)}")
        else:
            path = _clean(word)
        path = "/" + path.lstrip("/")
        pattern = _has_wildcards(path)
        try:
            dockerignore.matcher(path, double_star=self.parents)
        except InvalidArgument as error:
            raise as_problem(error, at=word) from None
        return CopySource(
            input=self._input(vertex),
            path=path if pattern else re.sub(r"\\(.)", r"\1", path),
            pattern=pattern,
            unpack=unpack,  # type: ignore[arg-type]
            pivot=pivot,
        )

    def _document(self, document: Heredoc, directory: bool) -> CopySource:
        if directory and ("/" in document.name or document.name in (".", "..") or len(document.name.encode()) > 255):
            problem = f"the name of a here-document cannot be a path: {quoted(document.name)}"
            raise Problem(problem, at=document.name)
        content = document.content
        if document.expand:
            content = self.stage.expand_document(content, self.instruction)
        return CopySource(path=f"/{document.name}", pattern=False, document=HeredocFile(document.name, content))

    # Flags ------------------------------------------------------------------------------------------------------

    def _destination(self, written: str) -> tuple[str, bool]:
        directory = written.endswith(("/", "/.", "/..")) or written in ("", ".", "..")
        dest = posixpath.normpath(posixpath.join("/", self.stage.cwd, written))
        return "/" + dest.lstrip("/"), directory

    def _exclude(self, pattern: str) -> str:
        try:
            dockerignore.Ignore([pattern])
        except InvalidArgument as error:
            raise as_problem(error, at=pattern) from None
        return pattern

    def _check_checksum(self, checksum: str, words: list[str]) -> None:
        if not checksum:
            return
        if len(words) != 1 or self.instruction.documents:
            raise Problem("checksum can't be specified for multiple sources", at=checksum)
        try:
            remote = buildcontext.is_http(words[0]) or buildcontext.parse_git(words[0]) is not None
        except InvalidArgument as error:
            raise as_problem(error, at=words[0]) from None
        if not remote:
            raise Problem("checksum requires HTTP(S) or Git sources", at=checksum)

    def _report_ignored(self, word: str) -> None:
        if not self.from_context or not self.ignore or self.ignore.has_exclusions:
            return
        path = dockerignore.clean(word)
        root = path in (".", "/")
        if self.ignore.excludes_root if root else self.ignore.excluded(path.lstrip("/")):
            verb = "Add" if self.add else "Copy"
            text = f'Attempting to {verb} file "{path}" that is excluded by .dockerignore'
            self.stage.checks.report("CopyIgnoredFile", text, self.instruction)


def context_vertex(stage: Building, name: str, where: Range | None = None) -> int:
    """The vertex of the build context ("") or a named one."""
    shown = f"[context {name}] load from client" if name else "[internal] load build context"
    return stage.vertices.share(Vertex(op=SourceContext(name), name=shown, range=where or Range()))


def _clean(path: str) -> str:
    return "/" + posixpath.normpath(f"/{path}").lstrip("/")


def _has_wildcards(path: str) -> bool:
    at = 0
    while at < len(path):
        if path[at] == "\\":
            at += 1
        elif path[at] in _WILDCARD:
            return True
        at += 1
    return False
