"""Tests of registries: names, paths, and what is said when neither leads anywhere."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from loopwright.registry import Registry, UnknownNameError, nearest_name


@pytest.fixture
def shapes() -> Registry[object]:
    registry: Registry[object] = Registry("shape")
    registry.add("circle", "a circle")
    return registry


def test_a_decorated_part_is_found_and_unchanged() -> None:
    registry: Registry[type] = Registry("shape")

    @registry.register("square")
    class Square:
        pass

    assert registry.get("square") is Square
    assert registry.names() == ("square",)
    assert "square" in registry
    assert list(registry) == ["square"]


def test_G_71_an_unknown_type_raises_value_error_and_names_it(shapes: Registry[object]) -> None:
    with pytest.raises(ValueError, match="no shape 'cirle'.*circle") as caught:
        shapes.get("cirle")
    assert isinstance(caught.value, UnknownNameError)
    assert caught.value.nearest == "circle"


def test_G_71_registering_twice_raises_value_error(shapes: Registry[object]) -> None:
    with pytest.raises(ValueError, match="already registered as 'circle'"):
        shapes.add("circle", "another")
    assert shapes.get("circle") == "a circle"


@pytest.mark.parametrize("name", ["", "a:b"])
def test_a_name_cannot_look_like_a_path(shapes: Registry[object], name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a shape"):
        shapes.add(name, "part")


def test_a_path_gives_the_attribute_of_a_module(shapes: Registry[object]) -> None:
    assert shapes.get("pathlib:Path") is Path


def test_G_72_a_path_imports_a_module_that_registers_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside_parts.py").write_text(
        "from loopwright.datasets import datasets, Iris\n"
        "@datasets.register('my_iris_for_G_72')\n"
        "class MyIris(Iris):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from loopwright.datasets import datasets

    try:
        found = datasets.get("outside_parts:my_iris_for_G_72")
        assert found.__name__ == "MyIris"
        assert datasets.get("outside_parts:MyIris") is found
    finally:
        datasets._parts.pop("my_iris_for_G_72", None)
        sys.modules.pop("outside_parts", None)


@pytest.mark.parametrize("path", ["no_such_module_at_all:X", "pathlib:Pth", ":X", "pathlib:"])
def test_a_path_that_leads_nowhere_says_so(shapes: Registry[object], path: str) -> None:
    with pytest.raises(UnknownNameError, match="names no shape"):
        shapes.get(path)


def test_a_misspelt_attribute_has_a_nearest_name(shapes: Registry[object]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        shapes.get("pathlib:PurePth")
    assert caught.value.nearest == "pathlib:PurePath"


def test_the_nearest_name_ignores_case() -> None:
    assert nearest_name("ADAM", ("adam", "sgd")) == "adam"
    assert nearest_name("zzz", ("adam", "sgd")) is None


@pytest.mark.parametrize(
    ("wrong", "meant"), [("adma", "adam"), ("rl", "lr"), ("se2qseq", "seq2seq")]
)
def test_swapped_letters_are_found(wrong: str, meant: str) -> None:
    assert nearest_name(wrong, ("adamax", "adam", "lr", "seq2seq")) == meant


def test_installed_packages_add_parts_by_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[loopwright.things]\nordered = collections:OrderedDict\nbroken = nowhere:Thing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[object] = Registry("thing", "loopwright.things")
    registry.add("own", list)
    assert registry.names() == ("broken", "ordered", "own")
    assert "ordered" in registry
    assert registry.get("ordered") is OrderedDict
    assert registry.get("ordered") is OrderedDict
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        registry.get("broken")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("orderd")
    assert caught.value.nearest == "ordered"
    assert "ordered" not in Registry[object]("thing")
