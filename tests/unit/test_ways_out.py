"""What is printed leaves in one place, which escapes it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
TERMINAL = ROOT / "shared" / "qkdrelay" / "terminal"
OUTPUT, COMPLETION = TERMINAL / "output.py", TERMINAL / "completion.py"
"""What people read; and what the shell does, which gets names of KMEs and what it gave itself."""


def prints(path):
    """Where a module prints by itself, takes markup for styles, or makes a console that does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in (
            "print",
            "typer.echo",
            "typer.secho",
            "Console",
            "rich.print",
            "Text.from_markup",
            "Text.from_ansi",
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {called}"
        elif called.endswith((".stdout.write", ".stderr.write")) or any(
            key.arg == "markup" and ast.unparse(key.value) != "False" for key in node.keywords
        ):
            yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"


def test_nothing_prints_but_what_escapes():
    modules = [path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py")]
    assert OUTPUT in modules
    assert len(list(prints(OUTPUT))) > 2
    assert [found for path in modules if path not in (OUTPUT, COMPLETION) for found in prints(path)] == []
