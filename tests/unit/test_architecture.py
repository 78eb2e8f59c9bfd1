"""docs/architecture.md says of each room there is what it has, and its picture is made from the import rules."""

import re

from support import rooms

TEXT = (rooms.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def named(section):
    part = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", part, re.MULTILINE)


def test_the_picture_of_the_rooms_is_what_the_import_rules_give():
    made = rooms.drawn()
    shown = rooms.PICTURE.read_text(encoding="utf-8")
    assert made == shown, "make it anew: PYTHONPATH=tests .venv/bin/python -m support.rooms"


def test_each_room_has_a_line_and_they_stand_as_in_the_picture():
    services, shared, _ = rooms.rules()
    there = [room for floor in (*services, *shared) for room in floor.rooms]
    assert named("The rooms") == there
    assert all(rooms.folder(room).exists() for room in there)


def test_no_room_is_left_out_of_the_rules():
    services, shared, _ = rooms.rules()
    there = {room for floor in (*services, *shared) for room in floor.rooms}
    packages = {path.parent.name for path in (rooms.ROOT / "services").glob("*/__init__.py")}
    assert packages == {room for room in there if "." not in room}


def test_each_word_of_the_glossary_is_one_of_the_code():
    table = TEXT.partition("\n## Glossary\n")[2]
    words = [word for row in re.findall(r"^\| ([^|`]+) \|", table, re.MULTILINE)[1:] for word in row.split(", ")]
    assert len(words) > 40
    code = " ".join(path.read_text() for top in ("shared", "services") for path in (rooms.ROOT / top).rglob("*.py"))
    used = {word: re.search(rf"(?i)(?<![a-z]){re.sub('[ _]', '[ _]?', word)}", code) for word in words}
    assert [word for word, found in used.items() if not found] == []


def test_what_the_page_names_in_the_code_is_there():
    for module in set(re.findall(r"\b((?:qkdrelay|kme|coordinator|qkdrelay_\w+)(?:\.[a-z_]+)+)\b", TEXT)):
        assert rooms.folder(module).exists(), module
