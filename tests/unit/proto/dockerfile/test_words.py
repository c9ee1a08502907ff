"""Words: quotes, escapes, substitution with every modifier; never slow, never endless."""

from __future__ import annotations

import time

import pytest

from dockyard.proto.dockerfile import globs
from dockyard.proto.dockerfile.errors import Problem
from dockyard.proto.dockerfile.words import (
    MAX_DEPTH,
    MAX_RESULT,
    Rules,
    expand,
    json_words,
    split,
    split_flags,
    split_line,
)

VARIABLES = {"home": "/root", "empty": "", "s": "foobarbaz", "p": "a/b/c", "größe": "ü", "_1": "one"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        # quotes and escapes
        ("'a b'\"c d\"", "a bc d"),
        ("a\\ b\\'c", "a b'c"),
        ('"a\\"b\\\\c\\$d\\n"', 'a"b\\c$d\\n'),
        ("'a\\b$home'", "a\\b$home"),
        ("end\\", "end"),
        ("''", ""),
        # names
        ("$home/x", "/root/x"),
        ("${home}x", "/rootx"),
        ('"$home"', "/root"),
        ("$homex", ""),
        ("$größe", "ü"),
        ("$_1", "one"),
        ("$12x", "x"),
        ("${1}", ""),
        ("$", "$"),
        ("a$.", "a$."),
        ("\\$home \\${home}", "$home ${home}"),
        ("$?$@$#$-$!$0", ""),
        # - + ?
        ("${home:-x}", "/root"),
        ("${no:-x}", "x"),
        ("${empty:-x}", "x"),
        ("${empty-x}", ""),
        ("${no-x}", "x"),
        ("${home:+x}", "x"),
        ("${empty:+x}", ""),
        ("${empty+x}", "x"),
        ("${no+x}", ""),
        ("${home?missing}", "/root"),
        ("${empty?missing}", ""),
        ("${home:?missing}", "/root"),
        ("${no:-${empty:-${home}}}", "/root"),
        ("${no:-'a b'}", "a b"),
        ("${no:-\\$home}", "$home"),
        ("${home:+${no:-y}}", "y"),
        # # ## % %%
        ("${s#f*b}", "arbaz"),
        ("${s##f*b}", "az"),
        ("${s%b*}", "foobar"),
        ("${s%%b*}", "foo"),
        ("${s#x}", "foobarbaz"),
        ("${s#*}", "foobarbaz"),
        ("${s##*}", ""),
        ("${s%?}", "foobarba"),
        ("${p##*/}", "c"),
        ("${p%/*}", "a/b"),
        ("${p#${no:-a}}", "/b/c"),
        ("${no#x}", ""),
        # / //
        ("${s/ba/fo}", "fooforbaz"),
        ("${s//ba/fo}", "fooforfoz"),
        ("${s/b?r/-}", "foo-baz"),
        ("${s//a*/-}", "foob-"),
        ("${s/ba/}", "foorbaz"),
        ("${s//o/$home}", "f/root/rootbarbaz"),
        ("${p//\\//.}", "a.b.c"),
        ("${s/x/y}", "foobarbaz"),
    ],
)
def test_substitution(text: str, result: str) -> None:
    assert expand(text, VARIABLES).text == result


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("'a", "single-quote"),
        ('"a', "double-quote"),
        ("${home", "missing '}'"),
        ("${", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{x}", "bad substitution"),
        ("${:-x}", "bad substitution"),
        ("${.}", "unsupported modifier"),
        ("${home:x}", "unsupported modifier"),
        ("${home:#x}", "unsupported modifier"),
        ("${home=x}", "unsupported modifier"),
        ("${home^^}", "unsupported modifier"),
        ("${no:?}", "no: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${no?please set it}", "no: please set it"),
        ("${home/x}", "missing '/'"),
        ("${s#\\a}", "invalid escape"),
    ],
)
def test_bad_substitution(text: str, problem: str) -> None:
    with pytest.raises(Problem, match=problem.replace("}", "\\}").replace("(", "\\(")):
        expand(text, VARIABLES)


def test_escape_character() -> None:
    assert expand("C:\\dir`$home ``", VARIABLES, Rules("`")).text == "C:\\dir$home `"


def test_rules() -> None:
    assert expand("\"a\" 'b' $no ${no:-x} $home", VARIABLES, Rules(keep_quotes=True, keep_unset=True)).text == (
        "\"a\" 'b' $no ${no:-x} /root"
    )
    assert expand('it\'s "$home"', VARIABLES, Rules(ignore_quotes=True)).text == 'it\'s "/root"'


def test_which_variables_were_used() -> None:
    result = expand("$home ${no:-$empty}", VARIABLES)
    assert (result.used, result.unset) == ({"home", "empty"}, {"no"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        ("$l", ["x", "y"]),
        ('"$l" z', ["x y", "z"]),
        ("pre$l", ["prex", "y"]),
        ("''", [""]),
        ("", []),
        ("a\\ b", ["a b"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert expand(text, {"l": "x y"}).words == words


def test_split_keeps_quotes() -> None:
    assert split('a=1 b=\'x y\' c="p \\" q" d=e\\ f', "\\") == ["a=1", "b='x y'", 'c="p \\" q"', "d=e\\ f"]


def test_flags() -> None:
    assert split_flags('--a=b --c="d e" --f x --g', "\\") == (["--a=b", "--c=d e", "--f"], "x --g")
    assert split_flags("-- --a", "\\") == ([], "--a")
    assert split_flags("x --a", "\\") == ([], "x --a")
    assert split_line("  run\t--a=b  c  d ", "\\") == ("run", ["--a=b"], "c  d")
    assert split_line("RUN", "\\") == ("RUN", [], "")


def test_json_form() -> None:
    assert json_words('  ["a", "\\u00e9\\n"]  ') == ("a", "é\n")
    assert json_words("[]") == ()
    for text in ("['a']", '["a"', '["a"] x', "a", '{"a": 1}', "[" * 100_000):
        assert json_words(text) is None
    for text in ("[1]", '["a", null]', '[["a"]]'):
        with pytest.raises(Problem, match="comprised of strings only"):
            json_words(text)


# Hostile ---------------------------------------------------------------------------------------------------------


def test_depth_is_limited() -> None:
    assert expand("${a:-" * (MAX_DEPTH - 1) + "x" + "}" * (MAX_DEPTH - 1), {}).text == "x"
    with pytest.raises(Problem, match="nested deeper"):
        expand("${a:-" * 100_000 + "}" * 100_000, {})


def test_results_are_limited() -> None:
    with pytest.raises(Problem, match="longer than"):
        expand("$a" * 2000, {"a": "x" * 1000})
    with pytest.raises(Problem, match="longer than"):
        expand("${a//x/$b}", {"a": "x" * 10_000, "b": "y" * 10_000})
    assert len(expand("$a", {"a": "x" * MAX_RESULT}).text) == MAX_RESULT


@pytest.mark.parametrize("pattern", ["*a" * 200 + "b", "?*" * 200, "*" * 500, "a" * 200 + "*" + "b" * 200])
def test_patterns_take_no_exponential_time(pattern: str) -> None:
    value = "a" * 20_000
    started = time.monotonic()
    for longest in (False, True):
        globs.without_prefix(pattern, value, longest=longest)
        globs.without_suffix(pattern, value, longest=longest)
    globs.replace(pattern, value, "", everywhere=True, limit=1 << 20)
    assert time.monotonic() - started < 10
