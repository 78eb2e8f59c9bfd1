"""The code stays in pieces that can be read: no long module, no hall of a class, no circle, and one name a thing."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX, CLASS_LINES_MAX, NAMES_TWICE_MAX = 300, 250, 8


def modules():
    for folder in ("shared", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path.read_text()


SOURCES = dict(modules())
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def test_no_module_is_longer_than_can_be_taken_in():
    assert len(SOURCES) > 150
    assert {name: lines for name in SOURCES if (lines := SOURCES[name].count("\n")) > MODULE_LINES_MAX} == {}


def test_no_class_is_a_hall():
    classes = [
        (name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    lines = {f"{name}.{node.name}": node.end_lineno - node.lineno + 1 for name, node in classes}
    assert {name: long for name, long in lines.items() if long > CLASS_LINES_MAX} == {}


def imported(tree):
    """The modules that a module imports, also those for the type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                within = f"{node.module}.{alias.name}"
                yield within if within in SOURCES else node.module


def circle(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    assert circle({name: set(imported(tree)) & SOURCES.keys() - {name} for name, tree in TREES.items()}) == []


@pytest.mark.parametrize(("imports", "found"), [({"a": {"b"}, "b": {"c"}}, False), ({"a": {"b"}, "b": {"a"}}, True)])
def test_a_circle_is_found(imports, found):
    assert bool(circle(imports)) == found


def test_hardly_a_public_name_is_defined_in_two_modules():
    where = defaultdict(list)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                where[node.name].append(module)
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert len(twice) <= NAMES_TWICE_MAX, twice
