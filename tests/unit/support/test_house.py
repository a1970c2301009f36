"""The check of sizes (scripts/house.py) finds what is over its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import house


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "ftpfs").mkdir()
    (tmp_path / "tests").mkdir()
    return tmp_path


def found(package: Path, source: str) -> list[tuple[str, int]]:
    (package / "ftpfs/module.py").write_text(source)
    return [(each.what, each.size) for each in house.too_large(package)]


def test_long_class_is_found_unless_it_says_that_it_is_one_idea(package: Path) -> None:
    body = "    x = 1\n" * house.CLASS_LINES
    assert found(package, f"class A:\n{body}") == [("lines", house.CLASS_LINES + 1)]
    assert found(package, f'class A:\n    """Text.\n\n    One idea: why.\n    """\n{body}') == []


def test_class_with_many_attributes_is_found(package: Path) -> None:
    sets = "".join(f"        self.a{n} = {n}\n" for n in range(house.CLASS_ATTRIBUTES + 1))
    assert found(package, f"class A:\n    def f(self):\n{sets}") == [("attributes", 26)]


def test_long_function_is_found(package: Path) -> None:
    assert found(package, "def f():\n" + "    g()\n" * 60) == [("lines", 61)]


def test_deep_function_is_found_and_elif_is_no_level(package: Path) -> None:
    deep = (
        "def f():\n" + "".join(f"{'    ' * n}if x:\n" for n in range(1, 6)) + "    " * 6 + "g()\n"
    )
    assert found(package, deep) == [("levels", 5)]
    flat = "def f():\n    if a:\n        g()\n" + "    elif b:\n        g()\n" * 9
    assert found(package, flat) == []


def test_long_test_file_is_found(package: Path) -> None:
    (package / "tests/test_x.py").write_text("\n" * (house.TEST_FILE_LINES + 1))
    assert [each.where for each in house.too_large(package)] == ["tests/test_x.py"]
