"""What `run` makes calls of, and what it says about inputs that it cannot use."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.cli.inputs import Call, Inputs, calls_of, check_call, named_values, program_call
from starburst_executor.errors import ConfigError


def measure(sample, x: int, scale: float = 1.0, *, folder: Path = Path(), code: str = "", fast: bool = False):
    """A function of the user's, as good as annotated."""


def given(function: Any = None, **sources: Any) -> list[Call]:
    return list(calls_of(Inputs(**sources), function))


def test_each_source_makes_a_call_of_each_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lines").write_text("one\r\ntwo\n")
    Path("rows.jsonl").write_text('{"x": 1}\n\n[2, 3]\n')
    Path("b.txt").touch()
    Path("a.txt").touch()
    assert [call.args for call in given(range_="0:3")] == [(0,), (1,), (2,)]
    assert [call.args for call in given(range_="4:0:-2")] == [(4,), (2,)]
    assert [call.args for call in given(lines="lines")] == [("one",), ("two",)]
    assert given(jsonl="rows.jsonl") == [Call((), {"x": 1}), Call(([2, 3],), {})]
    assert [call.args for call in given(files="*.txt")] == [(f"{tmp_path}/a.txt",), (f"{tmp_path}/b.txt",)]
    assert given(constants=("x=1",)) == [Call((), {"x": 1})]
    assert given(range_="0:1000000000000", limit=2, constants=("y=z",)) == [
        Call((0,), {"y": "z"}),
        Call((1,), {"y": "z"}),
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("from\nstdin"))
    assert [call.args for call in given(lines="-")] == [("from",), ("stdin",)]


def test_cells_become_what_annotations_say_and_numbers_without(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("sample,x,scale,folder,code,fast\n012,3,2,/data,12,yes\n1e3,4,0.5,/d,x,false\n-7,5,1,/d,x,0\n")
    first, second, third = [call.kwargs for call in given(measure, csv=str(path))]
    assert first == {"sample": "012", "x": 3, "scale": 2.0, "folder": Path("/data"), "code": "12", "fast": True}
    assert [type(first["scale"]), second["sample"], second["fast"], third["sample"]] == [float, 1000.0, False, -7]


def test_lines_and_files_become_what_the_first_annotation_says_and_stay_texts_without(tmp_path: Path) -> None:
    def number(n: int):
        """Annotated."""

    def path(p: Path):
        """Annotated."""

    def plain(x):
        """Not annotated."""

    lines = tmp_path / "lines"
    lines.write_text("1\n-20\n")
    assert [call.args for call in given(number, lines=str(lines))] == [(1,), (-20,)]
    assert [call.args for call in given(plain, lines=str(lines))] == [("1",), ("-20",)]
    assert [call.args for call in given(path, files=f"{tmp_path}/*")] == [(lines,)]
    assert [call.args for call in given(plain, files=f"{tmp_path}/*")] == [(str(lines),)]
    lines.write_text("1\nx\n")
    with pytest.raises(ConfigError, match=r"lines, line 2: 'x' is no int"):
        given(number, lines=str(lines))


def test_values_have_the_names_of_columns_and_of_the_first_parameter() -> None:
    assert named_values(Call((), {"x": 1}), measure) == {"x": 1}
    assert named_values(Call((7,), {"x": 1}), measure) == {"x": 1, "sample": 7}
    assert named_values(Call(("a",), {}), None)["line"] == "a"
    assert named_values(Call((7,), {}), lambda: None) == {}


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"range_": "0-5"}, "write 100, 0:100"),
        ({"range_": "0:5:0"}, "write 100, 0:100"),
        ({"range_": "0:5", "lines": "x"}, "--range and --lines"),
        ({"range_": "9" * 5000}, "--range '99999"),
        ({"csv": "doubled.csv"}, "--csv doubled.csv: two columns are called 'x'"),
        ({"lines": "latin"}, "--lines latin: cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ({"lines": "nowhere"}, "--lines nowhere: cannot be read: No such file"),
        ({"files": "*.nothing"}, "quote the pattern"),
        ({"files": "."}, "a folder; for the files in it write '*'"),
        ({"constants": ("2x=3",)}, "write name=value"),
        ({"csv": "short.csv"}, "line 3: not as many cells as columns"),
        ({"csv": "wrong.csv"}, "wrong.csv, line 2, column x: 'three' is no int"),
        ({"jsonl": "bad.jsonl"}, "bad.jsonl, line 2: Expecting value"),
        ({"csv": "short.csv", "constants": ("x=1",)}, "--arg x: the inputs have a column of that name"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("sample,x\na,1\nb\n")
    Path("doubled.csv").write_text("x,sample,x\n1,a,2\n")
    Path("latin").write_bytes(b"\xff\n")
    Path("wrong.csv").write_text("sample,x\na,three\n")
    Path("bad.jsonl").write_text("{}\nnope\n")
    with pytest.raises(ConfigError) as raised:
        given(measure, **sources)
    assert words in str(raised.value)


def test_a_number_that_python_does_not_read_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"sample\n{'9' * 5000}\n")
    assert given(csv=str(path)) == [Call((), {"sample": "9" * 5000})]
    path.write_text(f"x\n{'9' * 5000}\n")
    with pytest.raises(ConfigError) as raised:
        given(measure, csv=str(path))
    assert len(str(raised.value)) < 300


def test_a_function_that_does_not_take_the_inputs_is_refused_before_anything_starts() -> None:
    check_call(measure, Call((), {"sample": 1, "x": 2}))
    check_call(dict, Call((), {"tells": "no signature"}))
    with pytest.raises(ConfigError) as raised:
        check_call(measure, Call((), {"sample": 1, "x": 1, "z": 2}))
    assert "measure(sample, x: int" in str(raised.value)
    assert "unexpected keyword argument 'z'; they give sample, x, z" in str(raised.value)


def test_the_words_of_a_program_are_filled_in() -> None:
    words = ["align", "--x={x}", "{sample}"]
    assert program_call(words, Call((), {"x": 1, "sample": "a b"}), ["*.bam"]) == Call(
        (["align", "--x=1", "a b"], ["*.bam"]), {}
    )
    assert program_call(["wc", "{}", "{file}"], Call(("/a",), {}), []).args[0] == ["wc", "/a", "/a"]
    with pytest.raises(ConfigError, match=r"the inputs have no \{y\}; they have \{x\}"):
        program_call(["{y}"], Call((), {"x": 1}), [])
