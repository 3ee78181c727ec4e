"""The recorded declarations of operators, and messages without the rest of ``onnx``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from evonnx.compiler import messages
from evonnx.compiler.importer import declarations, signature
from evonnx.compiler.messages import make_node


def test_table_is_that_of_the_installed_onnx() -> None:
    text = declarations.TABLE.read_text(encoding="utf-8")
    assert text.splitlines() == list(declarations.lines())
    assert declarations.newest_opset() == onnx.defs.onnx_opset_version()


def test_every_declaration_is_what_onnx_answers() -> None:
    newest = onnx.defs.onnx_opset_version() + 2
    names = {(s.domain, s.name) for s in onnx.defs.get_all_schemas_with_history()}
    assert len(names) > 200
    for domain, op in names:
        for opset in range(newest):
            found = declarations.signature(domain, op, opset)
            assert found == declarations.asked(domain, op, opset), (domain, op, opset)


@pytest.mark.parametrize("opset", [-1, 0, 2**31 - 1, 2**31, 2**70])
@pytest.mark.parametrize("name", ["Conv", "", "Con", "conv", 'Conv","', "Abs\n", "C\u00f6nv"])
@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "no such"])
def test_strange_names_and_opsets(domain: str, name: str, opset: int) -> None:
    found = declarations.signature(domain, name, opset)
    assert found == declarations.asked(domain, name, opset)


def test_another_onnx_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    declarations.signature.cache_clear()
    monkeypatch.setattr(declarations, "_is_current", lambda: False)
    monkeypatch.setattr(declarations, "_table", lambda: pytest.fail("looked into the old table"))
    try:
        conv = declarations.signature("", "Conv", 13)
        assert conv is not None and conv.since == 11 and conv.inputs == (2, 3)
        assert declarations.signature("", "Convolve", 13) is None
        assert declarations.newest_opset() == onnx.defs.onnx_opset_version()
    finally:
        declarations.signature.cache_clear()


def test_defaults_of_a_body() -> None:
    found = declarations.signature("", "LayerNormalization", 17)
    assert found is not None and found.has_body
    values = signature.defaults(found)
    assert values["axis"].i == -1 and values["epsilon"].f == pytest.approx(1e-5)


@pytest.mark.parametrize("first", ["onnx", "evonnx.compiler.messages"])
def test_classes_are_those_of_onnx_whoever_comes_first(first: str) -> None:
    names = messages.__all__[:-1]
    code = f"""
import {first}, onnx, pickle
from evonnx.compiler import messages
for name in {names!r}:
    assert getattr(onnx, name) is getattr(messages, name), name
model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 19]> f (float[2] x) => (float[2] y) {{ y = Abs(x) }}')
assert isinstance(model, messages.ModelProto)
assert pickle.loads(pickle.dumps(messages.NodeProto(name="n"))).name == "n"
onnx.checker.check_model(model)
"""  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_is_imported_without_onnx(tmp_path: Path) -> None:
    node = helper.make_node("Clip", ["x"], ["y"], min=0.0, max=1.0)  # an old form: ``Ctx.lower``
    sizes = [helper.make_tensor_value_info(n, 1, [3]) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", sizes[:1], sizes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=4)
    onnx.save(model, tmp_path / "clip.onnx")
    code = """
import sys
from evonnx.compiler.importer import import_model
assert len(import_model(sys.argv[1]).outputs) == 1
assert "onnx" not in sys.modules, "the whole of onnx was imported"
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "clip.onnx")], check=True)


ATTRIBUTES: list[Any] = [
    0, -7, True, 1.5, "text", "", (1, 2), [3], (0.5, 1), (1.0,), ("a", "b"), None]


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_a_node_is_what_the_helper_of_onnx_makes(value: Any) -> None:
    made = make_node("Op", 2, 1, "name", "domain", {"b": value, "a": 3})
    expected = helper.make_node("Op", ["i0", "i1"], ["o0"], name="name", domain="domain",
                                b=value, a=3)  # fmt: skip
    assert {a.name: a for a in made.attribute} == {a.name: a for a in expected.attribute}
    for node in (made, expected):
        del node.attribute[:]
    assert made == expected


def test_attributes_without_a_type_are_refused() -> None:
    with pytest.raises(ValueError, match="attribute a: an empty sequence has no type"):
        make_node("Op", 0, 1, "", "", {"a": ()})
    with pytest.raises(TypeError, match=r"attribute a: .*neither numbers nor text"):
        make_node("Op", 0, 1, "", "", {"a": (1, "b")})
