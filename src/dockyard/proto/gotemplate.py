"""Go templates over JSON-like data, as `--format` takes them.

Owns: what a template's tree means: values, fields, truth, printing as Go's fmt prints, variables, control flow.
`parse(text).render(data)` gives the text; `TemplateError` has Go's wording. The functions are
`proto.gotemplate_functions`, the grammar `proto.gotemplate_syntax`. Data is what JSON gives (dict, list, str, int,
float, bool, None); a callable value is a method. Source: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dockyard.proto.gotemplate_functions import FUNCTIONS, go_text, truth
from dockyard.proto.gotemplate_syntax import At, Node, Operand, Pipe, TemplateError
from dockyard.proto.gotemplate_syntax import parse as _parse

__all__ = ["Template", "TemplateError", "parse"]


def parse(text: str) -> Template:
    """TemplateError where `text` is no template or names a function that does not exist."""
    nodes = _parse(text)
    _check_functions(nodes)
    return Template(nodes)


class Template:
    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.nodes = nodes

    def render(self, data: Any, absent: Mapping[str, str] | None = None) -> str:
        """`absent`: fields that may be missing or null, with how an action then prints them (`[]`, `map[]`, `<nil>`).

        Any other missing field is a TemplateError, as Docker has it (missingkey=error).
        """
        run = _Run(data, absent or {})
        run.nodes(self.nodes, data)
        return "".join(run.out)


def _check_functions(nodes: tuple[Node, ...]) -> None:
    for node in nodes:
        if node.pipe is not None:
            _check_pipe(node.pipe)
        _check_functions(node.body)
        _check_functions(node.otherwise)


def _check_pipe(pipe: Pipe) -> None:
    for operand in (operand for command in pipe.commands for operand in command):
        if operand.kind == "function" and operand.value not in FUNCTIONS and operand.value not in ("and", "or"):
            raise TemplateError(f'template: :{operand.at.line}: function "{operand.value}" not defined')
        if operand.base is not None:
            _check_pipe(operand.base)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_NOTHING = object()  # "no piped value", which is not nil


class _Run:
    """One rendering: the output so far and the variables in sight."""

    def __init__(self, root: Any, absent: Mapping[str, str]) -> None:
        self.out: list[str] = []
        self.absent = absent
        self.variables: list[tuple[str, Any]] = [("$", root)]

    def fail(self, at: At, text: str, message: str) -> TemplateError:
        return TemplateError(f'template: :{at.line}:{at.column}: executing "" at <{text}>: {message}')

    # -- control flow -----------------------------------------------------------------------------------------------

    def nodes(self, nodes: tuple[Node, ...], dot: Any) -> None:
        for node in nodes:
            match node.kind:
                case "text":
                    self.out.append(node.text)
                case "action":
                    value = self.pipe(node.pipe, dot)
                    if not node.pipe.declared:
                        self.out.append(self.show(node.pipe, value))
                case "if" | "with":
                    self.branch(node, dot)
                case "range":
                    self.loop(node, dot)
                case "break":
                    raise _Break
                case "continue":
                    raise _Continue

    def branch(self, node: Node, dot: Any) -> None:
        mark = len(self.variables)
        value = self.pipe(node.pipe, dot)
        if truth(value):
            self.nodes(node.body, value if node.kind == "with" else dot)
        else:
            self.nodes(node.otherwise, dot)
        del self.variables[mark:]

    def loop(self, node: Node, dot: Any) -> None:
        mark = len(self.variables)
        value = self.pipe(node.pipe._replace(declared=()), dot)
        items = self.items(node, value)
        for key, item in items:
            del self.variables[mark:]
            self.variables += list(zip(node.pipe.declared[-2:], (key, item)[-len(node.pipe.declared) :], strict=False))
            try:
                self.nodes(node.body, item)
            except _Continue:
                continue
            except _Break:
                break
        del self.variables[mark:]
        if not items:
            self.nodes(node.otherwise, dot)

    def items(self, node: Node, value: Any) -> list[tuple[Any, Any]]:
        if value is None:
            return []
        if isinstance(value, Mapping):
            return sorted(value.items())
        if isinstance(value, list | tuple):
            return list(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return [(number, number) for number in range(value)]
        at = node.pipe.at
        raise self.fail(at, _pipe_text(node.pipe), f"range can't iterate over {go_text(value)}")

    # -- values -----------------------------------------------------------------------------------------------------

    def pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = _NOTHING
        for command in pipe.commands:
            value = self.command(command, dot, value)
        for name in pipe.declared:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))
        return value

    def assign(self, name: str, value: Any) -> None:
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return

    def command(self, command: tuple[Operand, ...], dot: Any, piped: Any) -> Any:
        first, rest = command[0], command[1:]
        if first.kind == "function":
            if first.value in ("and", "or"):
                return self.short_circuit(first.value, rest, dot, piped)
            arguments = [self.operand(each, dot) for each in rest] + ([] if piped is _NOTHING else [piped])
            return self.call(first, FUNCTIONS[first.value], arguments)
        if not rest and piped is _NOTHING:
            return self.operand(first, dot)
        if first.kind in ("field", "variable", "nested") and first.names:
            owner = self.base(first, dot)
            for name in first.names[:-1]:
                owner = self.field(owner, name, first)
            method = owner.get(first.names[-1]) if isinstance(owner, Mapping) else None
            if callable(method):
                arguments = [self.operand(each, dot) for each in rest] + ([] if piped is _NOTHING else [piped])
                return self.call(first, method, arguments)
            message = f"{first.names[-1]} has arguments but cannot be invoked as function"
            raise self.fail(first.at, first.text, message)
        raise self.fail(first.at, first.text, f"can't give argument to non-function {first.text}")

    def short_circuit(self, name: str, rest: tuple[Operand, ...], dot: Any, piped: Any) -> Any:
        value: Any = _NOTHING
        for operand in rest:
            value = self.operand(operand, dot)
            if truth(value) == (name == "or"):
                return value
        return value if piped is _NOTHING else piped

    def call(self, operand: Operand, function: Callable[..., Any], arguments: list[Any]) -> Any:
        try:
            return function(*arguments)
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            detail = str(error) if isinstance(error, ValueError) else "wrong number or type of arguments"
            raise self.fail(
                operand.at, operand.text, f"error calling {operand.value or operand.text}: {detail}"
            ) from None

    def operand(self, operand: Operand, dot: Any) -> Any:
        if operand.kind == "literal":
            return operand.value
        if operand.kind == "function":
            return self.command((operand,), dot, _NOTHING)
        value = self.base(operand, dot)
        for name in operand.names:
            value = self.field(value, name, operand)
        return value

    def base(self, operand: Operand, dot: Any) -> Any:
        if operand.kind == "variable":
            return next(value for name, value in reversed(self.variables) if name == operand.value)
        if operand.kind == "nested":
            return self.pipe(operand.base, dot)
        return dot

    def field(self, owner: Any, name: str, operand: Operand) -> Any:
        """One `.Name`. Case may differ: Docker's types say ID where its JSON says Id."""
        if isinstance(owner, Mapping):
            if name not in owner:
                folded = name.lower()
                same = [key for key in owner if isinstance(key, str) and key.lower() == folded]
                if len(same) != 1:
                    if name in self.absent:
                        return None
                    raise self.fail(operand.at, operand.text, f'map has no entry for key "{name}"')
                name = same[0]
            value = owner[name]
            return self.call(operand, value, []) if callable(value) else value
        if owner is None:
            raise self.fail(operand.at, operand.text, f'nil data; no entry for key "{name}"')
        raise self.fail(operand.at, operand.text, f"can't evaluate field {name} in {go_text(owner)}")

    def show(self, pipe: Pipe, value: Any) -> str:
        if value is None:
            operand = pipe.commands[-1][0]
            return self.absent.get(operand.names[-1], "<no value>") if operand.names else "<no value>"
        return go_text(value)


def _pipe_text(pipe: Pipe) -> str:
    return " | ".join(" ".join(operand.text for operand in command) for command in pipe.commands)
