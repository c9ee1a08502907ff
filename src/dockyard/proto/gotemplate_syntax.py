"""Go's text/template syntax → a tree.

Owns: tokens, actions (`if else range with break continue end`, variables, pipelines, comments, trim markers) and their
positions. Does not own: what a tree means (`proto.gotemplate`). Not supported, and said so by name: `define`,
`template`, `block`. Grammar: https://pkg.go.dev/text/template.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class TemplateError(ValueError):
    """The template is wrong, or does not fit its data. The text begins `template: :LINE:` as Go's does."""


class At(NamedTuple):
    """Where something stands: line from 1, column from 0."""

    line: int
    column: int


class Operand(NamedTuple):
    """A value in a command. `kind`: literal, field, variable, function, nested (`base` is its pipeline)."""

    kind: str
    at: At
    text: str
    value: Any = None  # literal's value; variable's or function's name
    names: tuple[str, ...] = ()  # fields that follow: .A.B
    base: Any = None


class Pipe(NamedTuple):
    declared: tuple[str, ...]  # "$x", "$i"
    assigns: bool  # `=` instead of `:=`
    commands: tuple[tuple[Operand, ...], ...]
    at: At


class Node(NamedTuple):
    """`kind`: text, action, if, range, with, break, continue."""

    kind: str
    at: At
    text: str = ""
    pipe: Any = None
    body: tuple[Any, ...] = ()
    otherwise: tuple[Any, ...] = ()


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<char>'(?:\\.|[^'\\\n])+')"""
    r"""|(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?"""
    r"""|\.[0-9]+))|(?P<variable>\$\w*)|(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<word>[^\W\d]\w*)"""
    r"""|(?P<op>:=|=|\||\(|\)|,)"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


class _Token(NamedTuple):
    kind: str
    text: str
    at: At
    spaced: bool  # whitespace before it


def unquote(text: str) -> str:
    """Go's interpreted string or rune literal, with its quotes → the text."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        if code.isdecimal():
            return chr(int(code, 8))
        if code not in _ESCAPES:
            raise ValueError(text)
        return _ESCAPES[code]

    return _ESCAPE.sub(one, text[1:-1])


def parse(text: str) -> tuple[Node, ...]:
    """The template's tree. TemplateError where it is not one."""
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0  # in the text, behind the last action
        self.tokens: list[_Token] = []
        self.index = 0
        self.loops = 0
        self.trim_next = False
        self.ended_by = ""  # else / end that closed the last list
        self.scopes: list[set[str]] = [{"$"}]

    # -- text and actions -------------------------------------------------------------------------------------------

    def parse(self) -> tuple[Node, ...]:
        return self.sequence(closed=False)

    def fail(self, message: str, at: At | None = None) -> TemplateError:
        line = at.line if at else self.text.count("\n", 0, self.position) + 1
        return TemplateError(f"template: :{line}: {message}")

    def place(self, offset: int) -> At:
        line_start = self.text.rfind("\n", 0, offset) + 1
        return At(self.text.count("\n", 0, offset) + 1, offset - line_start)

    def sequence(self, closed: bool) -> tuple[Node, ...]:
        """Nodes up to the `end` or `else` that belongs to the caller (`closed`), or up to the end of the text."""
        nodes: list[Node] = []
        while True:
            start = self.text.find("{{", self.position)
            self.add_text(nodes, self.text[self.position : start if start >= 0 else len(self.text)], start)
            if start < 0:
                self.position = len(self.text)
                if closed:
                    raise self.fail("unexpected EOF")
                return tuple(nodes)
            if self.open_action(start):
                continue
            node = self.action(start)
            if node is None:
                if not closed:
                    raise self.fail(f"unexpected {{{{{self.ended_by}}}}}")
                return tuple(nodes)
            nodes.append(node)

    def add_text(self, nodes: list[Node], text: str, action: int) -> None:
        at = self.place(self.position)
        if self.trim_next:
            text = text.lstrip(" \t\r\n")
        if action >= 0 and self.text.startswith("{{-", action) and self.text[action + 3 : action + 4].isspace():
            text = text.rstrip(" \t\r\n")
        if text:
            nodes.append(Node("text", at, text))
        self.trim_next = False

    def open_action(self, start: int) -> bool:
        """Reads the tokens of the action at `start`; True if it was a comment."""
        inner = start + 2
        if self.text.startswith("-", inner) and self.text[inner + 1 : inner + 2].isspace():
            inner += 2
        if self.text.startswith("/*", inner):
            end = self.text.find("*/", inner)
            close = re.compile(r"\s+-\}\}|\}\}").match(self.text, end + 2) if end >= 0 else None
            if close is None:
                raise self.fail("unclosed comment", self.place(start))
            self.position, self.trim_next = close.end(), len(close[0]) > 2
            return True
        self.tokens, self.index = [], 0
        spaced = False
        while True:
            close = re.compile(r"[ \t\r\n]-\}\}|\}\}").match(self.text, inner)
            if close:
                self.position, self.trim_next = close.end(), len(close[0]) > 2
                return False
            token = _TOKEN.match(self.text, inner)
            if token is None:
                raise self.bad_input(inner, start)
            kind = token.lastgroup or ""
            if kind != "space":
                self.tokens.append(_Token(kind, token[0], self.place(inner), spaced))
            spaced = kind == "space"
            inner = token.end()

    def bad_input(self, offset: int, start: int) -> TemplateError:
        at = self.place(start)
        if offset >= len(self.text):
            return self.fail("unclosed action", at)
        if self.text[offset] in "\"'`":
            return self.fail("unterminated quoted string", at)
        return self.fail(f"unexpected {self.text[offset]!r} in command", at)

    def action(self, start: int) -> Node | None:
        at = self.place(start + 2)
        word = self.peek_word()
        if word in ("end", "else"):
            self.ended_by = word
            if word == "end":
                self.next()
                self.expect_no_more("end")
            return None
        if word in ("if", "range", "with"):
            self.next()
            return self.block(word, at)
        if word in ("break", "continue"):
            self.next()
            if not self.loops:
                raise self.fail(f"{{{{{word}}}}} outside {{{{range}}}}", at)
            return Node(word, at)
        if word in ("define", "template", "block"):
            raise self.fail(f"{{{{{word}}}}} is not supported", at)
        return Node("action", at, pipe=self.pipeline(word, top=True))

    def block(self, kind: str, at: At) -> Node:
        self.scopes.append(set())
        pipe = self.pipeline(kind, top=True)
        self.loops += kind == "range"
        body = self.sequence(closed=True)
        self.loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if self.ended_by == "else":
            self.next()
            chained = self.peek_word()
            if chained in ("if", "with") and chained == kind:
                self.next()
                otherwise = (self.block(kind, at),)
            else:
                self.expect_no_more("else")
                otherwise = self.sequence(closed=True)
                if self.ended_by != "end":
                    raise self.fail("expected end; found {{else}}")
        self.scopes.pop()
        return Node(kind, at, pipe=pipe, body=body, otherwise=otherwise)

    # -- tokens -----------------------------------------------------------------------------------------------------

    def peek(self) -> _Token | None:
        return self.tokens[self.index] if self.index < len(self.tokens) else None

    def peek_word(self) -> str:
        token = self.peek()
        return token.text if token and token.kind == "word" else ""

    def is_op(self, *texts: str) -> bool:
        token = self.peek()
        return token is not None and token.kind == "op" and token.text in texts

    def next(self) -> _Token:
        token = self.tokens[self.index]
        self.index += 1
        return token

    def expect_no_more(self, context: str) -> None:
        token = self.peek()
        if token:
            raise self.fail(f"unexpected <{token.text}> in {context}", token.at)

    # -- pipelines --------------------------------------------------------------------------------------------------

    def pipeline(self, context: str, top: bool) -> Pipe:
        first = self.peek()
        if first is None:
            raise self.fail(f"missing value for {context or 'command'}")
        declared, assigns = self.declaration(context)
        commands = [self.command()]
        while self.is_op("|"):
            self.next()
            commands.append(self.command())
        if top:
            self.expect_no_more(context or "command")
        if declared and not assigns:
            self.scopes[-1].update(declared)
        return Pipe(declared, assigns, tuple(commands), first.at)

    def declaration(self, context: str) -> tuple[tuple[str, ...], bool]:
        mark, names = self.index, []
        while (token := self.peek()) and token.kind == "variable":
            names.append(self.next().text)
            if self.is_op(":=", "="):
                return tuple(names), self.next().text == "="
            if not (context == "range" and len(names) == 1 and self.is_op(",")):
                break
            self.next()
        self.index = mark
        return (), False

    def command(self) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while (token := self.peek()) and not self.is_op("|", ")"):
            if operands and not token.spaced:
                raise self.fail(f"unexpected <{token.text}> in operand", token.at)
            operands.append(self.operand())
        if not operands:
            raise self.fail("missing value for command")
        return tuple(operands)

    def operand(self) -> Operand:
        token = self.next()
        base = self.simple(token)
        names: list[str] = []
        at, text = token.at, token.text
        if token.kind == "field":
            names.append(token.text[1:])
        if base.kind == "nested":
            text = "(…)"
        while (follow := self.peek()) and follow.kind == "field" and not follow.spaced:
            if base.kind in ("literal", "function"):
                raise self.fail(f"unexpected <{follow.text}> after {token.text}", follow.at)
            self.next()
            names.append(follow.text[1:])
            at, text = follow.at, text + follow.text
        return base._replace(names=tuple(names), at=at, text=text)

    def simple(self, token: _Token) -> Operand:
        at, text = token.at, token.text
        match token.kind:
            case "field" | "dot":
                return Operand("field", at, text)
            case "variable":
                if not any(text in scope for scope in self.scopes):
                    raise self.fail(f'undefined variable "{text}"', at)
                return Operand("variable", at, text, value=text)
            case "string" | "char":
                try:
                    value = unquote(text)
                except ValueError:
                    raise self.fail(f"invalid syntax: {text}", at) from None
                return Operand("literal", at, text, value=value if token.kind == "string" else ord(value))
            case "raw":
                return Operand("literal", at, text, value=text[1:-1])
            case "number":
                return Operand("literal", at, text, value=self.number(text, at))
            case "word":
                constants = {"true": True, "false": False, "nil": None}
                if text in constants:
                    return Operand("literal", at, text, value=constants[text])
                return Operand("function", at, text, value=text)
        if text != "(":
            raise self.fail(f"unexpected <{text}> in operand", at)
        pipe = self.pipeline("parenthesized pipeline", top=False)
        if not self.is_op(")"):
            raise self.fail("unclosed left paren", at)
        self.next()
        return Operand("nested", at, text, base=pipe)

    def number(self, text: str, at: At) -> int | float:
        try:
            return int(text, 0) if not re.match(r"[+-]?0[0-9]", text) else int(text, 8)
        except ValueError:
            pass
        try:
            return float(text)
        except ValueError:
            raise self.fail(f'bad number syntax: "{text}"', at) from None
