"""Go templates as `--format` takes them. The expected texts are what docker 28 prints for the same templates."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.proto.gotemplate import TemplateError, parse
from dockyard.proto.gotemplate_functions import Row

DATA: dict[str, Any] = {
    "A": {"b": 1, "c": [1, 2], "t": True},
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}], "81/tcp": None},
    "None": None,
    "Names": "a,b",
    "Id": "abc",
    "Empty": [],
    "Label": lambda name: f"<{name}>",
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{.A}}", "map[b:1 c:[1 2] t:true]"),
        ("{{.A.b}} {{json .A}}", '1 {"b":1,"c":[1,2],"t":true}'),
        ("{{.ID}}", "abc"),  # Docker's types say ID where its JSON says Id
        ("{{.None}}", "<no value>"),
        ("{{.Ports}}", "map[80/tcp:[{0.0.0.0 80}] 81/tcp:<nil>]"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "80"),
        ("{{range $k, $v := .A.c}}{{$k}}={{$v};{{end}}", None),
        ("{{range $k, $v := .A.c}}{{$k}}={{$v}};{{end}}", "0=1;1=2;"),
        ("{{range $v := .A.c}}{{$v}};{{end}}", "1;2;"),
        ("{{range .A.c}}{{.}}/{{$.A.b}} {{else}}no{{end}}", "1/1 2/1 "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $port, $_ := .Ports}}{{$port}} {{end}}", "80/tcp 81/tcp "),
        ("{{range 3}}{{.}}{{if eq . 1}}{{break}}{{end}}{{end}}", "01"),
        ("{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{if and .A .None}}y{{else if .A}}z{{else}}n{{end}}", "z"),
        ("{{if or .None .A}}y{{end}}", "y"),
        ("{{if not .None}}y{{end}}", "y"),
        ("{{with .None}}x{{else}}none{{end}}", "none"),
        ("{{with .A}}{{.b}}{{end}}", "1"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ('{{join (split .Names ",") "/"}}', "a/b"),
        ('{{.Label "x"}} {{.Names | upper}} {{"ABC" | lower}} {{title "some text"}}', "<x> A,B abc Some Text"),
        ('{{pad "x" 1 2}}|{{truncate "abcdef" 3}}', " x  |abc"),
        ("{{len .Names}} {{len .A}} {{slice .Names 0 1}} {{index .A.c 1}}", "3 3 a 2"),
        ('{{eq 1 1 2}} {{ne "a" "b"}} {{lt 1 2}} {{ge 2 3}} {{eq .A.b 2 1}}', "true true true false true"),
        ('{{printf "%-5s|%5d|%q|%v|%05.1f|%%|%x" "a" 3 "x" .A.c 2.25 255}}', 'a    |    3|"x"|[1 2]|002.2|%|ff'),
        ('{{println "a" 1}}{{print "a" 1 2 "b"}}', "a 1\na1 2b"),
        ("a {{- /* comment */ -}}  b", "ab"),
        ("a {{- .A.b -}}\n b", "a1b"),
        ("{{`raw \\n`}} {{\"t\\tu\"}} {{'a'}} {{0x10}} {{1.5}}", "raw \\n t\tu 97 16 1.5"),
        ("{{.A | json | len}}", "26"),
        ("{{html `<a>`}} {{urlquery `a b`}}", "&lt;a&gt; a+b"),
    ],
)
def test_render(template: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(TemplateError):
            parse(template)
        return
    assert parse(template).render(DATA) == expected


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{.Foo", "template: :1: unclosed action"),
        ("{{foo}}", 'template: :1: function "foo" not defined'),
        ("{{if .A}}", "template: :1: unexpected EOF"),
        ("a\n{{end}}", "template: :2: unexpected {{end}}"),
        ("{{$y}}", 'template: :1: undefined variable "$y"'),
        ("{{if}}x{{end}}", "template: :1: missing value for if"),
        ('{{"abc}}', "template: :1: unterminated quoted string"),
        ("{{(.A}}", "template: :1: unclosed left paren"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ('{{template "x"}}', "template: :1: {{template}} is not supported"),
        ("{{.A .b | }}", "template: :1: missing value for command"),
    ],
)
def test_no_template(template: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(template)
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
        ("{{.Id}} {{.A.c.Foo}}", 'template: :1:14: executing "" at <.A.c.Foo>: can\'t evaluate field Foo in [1 2]'),
        ("{{.None.X}}", 'template: :1:7: executing "" at <.None.X>: nil data; no entry for key "X"'),
        ("{{index .A.c 5}}", 'template: :1:2: executing "" at <index>: error calling index: index out of range: 5'),
        ('{{.Id "x"}}', 'template: :1:2: executing "" at <.Id>: Id has arguments but cannot be invoked as function'),
        ('{{eq 1 "a"}}', 'template: :1:2: executing "" at <eq>: error calling eq: incompatible types for comparison'),
        ("{{range .Id}}{{end}}", 'template: :1:8: executing "" at <.Id>: range can\'t iterate over abc'),
    ],
)
def test_data_does_not_fit(template: str, complaint: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(template).render(DATA)
    assert str(caught.value) == complaint


def test_fields_that_may_be_absent() -> None:
    absent = {"Health": "<nil>", "Cmd": "[]"}
    assert parse("{{.Health}} {{.Cmd}} {{if .Health}}h{{end}}").render({"Cmd": None}, absent) == "<nil> [] "
    with pytest.raises(TemplateError):
        parse("{{.Other}}").render({}, absent)


def test_a_rows_json_is_sorted_escaped_and_without_methods() -> None:
    row = Row({"b": "<&>", "a": "ü", "Label": lambda name: name})
    assert parse("{{json .}}").render(row) == '{"a":"ü","b":"\\u003c\\u0026\\u003e"}'


@given(st.text(st.sampled_from("{}.$|()\" -/*aAbrange if end:=0`'\\\n"), max_size=40))
def test_any_text_renders_or_is_a_template_error(text: str) -> None:
    try:
        parse("{{" + text).render(DATA)
    except TemplateError as error:
        assert str(error).startswith("template: :")


@given(st.text(st.characters(exclude_characters="{}")))
def test_text_without_actions_is_itself(text: str) -> None:
    assert parse(text).render({}) == text
