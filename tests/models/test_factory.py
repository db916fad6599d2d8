from __future__ import annotations

from collections.abc import Callable

import pytest

from dwindle.errors import UsageError
from dwindle.models.factory import call_factory, load_factory, parameters


def test_a_factory_gets_only_what_its_signature_names(users_module: Callable[[str], str]) -> None:
    name = users_module("def one(size): return size\ndef none(**rest): return rest\n")
    assert call_factory(f"{name}:one", "model", size=3, other=4) == 3
    assert call_factory(f"{name}:none", "model", size=3) == {}


@pytest.mark.parametrize(
    ("source", "factory", "sentence"),
    [
        ("def network(): pass", "netwrok", "did you mean 'network'"),
        ("", "network", "there are none"),
        ("network = 3", "network", "is a int: it must be a function"),
        ("import nothing_of_this_name", "network", "can't be imported: ModuleNotFoundError"),
        ("def network(:", "network", "can't be imported: SyntaxError"),
        ("def network(): raise ValueError('out of ideas.\\nmore')", "network", "called: ValueError: out of ideas"),
        ("raise SystemExit('no GPU')", "network", "can't be imported: SystemExit: no GPU"),
        ("def network(): raise SystemExit(0)", "network", "failed when called: SystemExit: 0"),
        ("def network(depth): pass", "network", "failed when called: TypeError"),
    ],
)
def test_what_is_wrong_with_a_factory(
    users_module: Callable[[str], str], source: str, factory: str, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        call_factory(f"{users_module(source)}:{factory}", "model")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def network():\n    raise ValueError('out of ideas')\n", 2),
        ("import json\ndef network():\n    return json.loads('{')\n", 3),  # not where Python's own module raises it
        ("import json\n\njson.loads('{')\n", 3),
    ],
)
def test_the_line_of_the_users_code_is_named(users_module: Callable[[str], str], source: str, line: int) -> None:
    name = users_module(source)
    with pytest.raises(UsageError, match=rf"; .*{name}\.py, line {line}$"):
        call_factory(f"{name}:network", "model")


def test_where_no_line_of_theirs_is_at_fault_none_is_named(users_module: Callable[[str], str]) -> None:
    name = users_module("def network(depth): pass")
    with pytest.raises(UsageError, match=r"'depth'$"):
        call_factory(f"{name}:network", "model")


@pytest.mark.parametrize("spec", ["module:", ":factory", "module"])
def test_not_a_factory_at_all(spec: str) -> None:
    with pytest.raises(UsageError, match=r"not of the form package\.module:factory"):
        load_factory(spec, "data")


def test_our_own_errors_pass_through(users_module: Callable[[str], str]) -> None:
    name = users_module("from dwindle.errors import BudgetMissed\ndef f(): raise BudgetMissed('no')\n")
    with pytest.raises(Exception, match=r"^no$") as caught:
        call_factory(f"{name}:f", "data")
    assert type(caught.value).__name__ == "BudgetMissed"


def test_builtins_without_a_signature_take_nothing() -> None:
    assert parameters(map) == set()
