"""Names and other texts of strangers are data: none is run, obeyed or lost in C, pages, pictures, tables and errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from command import run
from graphs import NAMES, Traced, chain
from hypothesis import given
from PIL import Image

import qat
from qat.analysis.figures import heat_map, plain_text
from qat.analysis.sensitivity import Sensitivity
from qat.console import PlainOutput, print_table
from qat.deploy.c_array import c_array
from qat.errors import one_line
from qat.integer import IntegerGraph, evaluate
from qat.names import LONGEST, check_name, is_name
from qat.registry import BACKENDS, TARGETS
from qat.reporting.page import Section, html_page
from qat.study import Task
from qat.targets.c.ends import ends_in_c
from qat.targets.c.text import plain
from qat.targets.c.writer import Writer
from qat.training.checkpoint import FORMAT
from qat.training.optimizer import Optimizer

#: What ends a comment, an element, a line, a string or a format, and what a terminal obeys.
TEXTS = [
    "*/",
    "/*",
    "</script>",
    "<b>",
    "\x1b[31m",
    "\n",
    "\r",
    "%s",
    "??/",
    "\\",
    '"',
    "'",
    "\u202e",
    "\x00",
    "\u2028",
    "=1+1",
]
HOSTILE = [f"a{text}b" for text in TEXTS]
#: As HOSTILE, where the text itself can be looked for.
SEEN = [text for text in TEXTS if text not in ("\n", "\\", '"', "'", "\x00", "%s", "<b>", "/*")]
SANE = [
    "conv1",
    "a.b",
    "a_b",
    "a b",
    "a/b",
    "a:0",
    "a+b",
    "a-b",
    "[0]",
    "(x)",
    "a::b",
    "/conv/out_0",
    "é",
    "ß",
    "数",
    "नाम",
    "int",
    "1",
]

# -- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SANE, "a" * LONGEST])
def test_names_of_frameworks_and_of_all_scripts_are_names(name: str) -> None:
    check_name(name, "node")
    graph = qat.Graph((qat.Node(name, qat.Input((1, 2, 2)), (), name),), (name,), name)
    assert qat.Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize(
    "name",
    [
        *HOSTILE,
        "",
        " a",
        "a ",
        "a  b",
        "a" * (LONGEST + 1),
        "-a",
        "+a",
        "a@b",
        "a#b",
        "a,b",
        "a;b",
        "a\xa0b",
        "\udc80",
        3,
    ],
)
def test_other_names_are_refused_wherever_a_graph_is_made_or_read(name: str) -> None:
    node = qat.Node("input", qat.Input((1, 2, 2)), (), "input")
    good = json.loads(qat.Graph((node,), ("input",)).to_json())
    for place in ("name", "cell_name"):
        with pytest.raises(qat.QatError, match=r"its name .* but a name is of letters") as raised:
            qat.Graph((replace(node, **{place: name}),), (name if place == "name" else "input",))
        assert one_line(raised.value) == str(raised.value)
        changed = json.loads(json.dumps(good))
        changed["nodes"][0][place] = name
        if place == "name":
            changed["outputs"] = [name]
        if name != 3:  # numbers are read as texts
            with pytest.raises(qat.QatError, match=r"its name .* but a name is of letters"):
                qat.Graph.from_json(json.dumps(changed))
    with pytest.raises(qat.QatError, match=r"^network .*: its name"):
        qat.Graph((node,), ("input",), name)


@pytest.mark.parametrize("name", HOSTILE)
def test_attributes_and_keys_of_a_network_are_names_too(name: str) -> None:
    network = Traced(lambda self, x: getattr(self, name)(x), **{name: qat.Flatten()})
    with pytest.raises(qat.QatError, match=r"^attribute or key .*rename it$"):
        network.graph()
    network = Traced(lambda self, x: self.cells[name](x))
    network.cells = {name: qat.Flatten()}
    with pytest.raises(qat.QatError, match=r"^attribute or key .cells\..*rename it$"):
        network.graph()


def test_a_network_s_class_is_a_name_too() -> None:
    kind = type("*/", (Traced,), {})
    with pytest.raises(qat.QatError, match=r"^network '\*/': its name holds '\*'"):
        kind(lambda self, x: qat.Flatten()(x)).graph()


@given(NAMES)
def test_what_is_drawn_for_graphs_is_a_name(name: str) -> None:
    assert is_name(name)


# -- checkpoints and commands -----------------------------------------------------------------------------------------


def crafted(path: Path, name: str, which: str) -> Path:
    """A quantized checkpoint, written byte by byte as a stranger would, in which a node or the input has that name."""
    graph = qat.convert_quant_network(chain(qat.Flatten(), qat.DenseBnAct(64, 10)))
    old = {"node": "c1", "input": "input", "network": "network"}[which]
    params = {f"params/{key}": np.asarray(array) for key, array in graph.observed_params().items()}
    data = json.loads(graph.to_json())
    if which == "network":
        data["name"] = name
    for node in data["nodes"]:
        node["name"] = name if node["name"] == old else node["name"]
        node["inputs"] = [name if x == old else x for x in node["inputs"]]
    data["outputs"] = [name if x == old else x for x in data["outputs"]]
    history = json.dumps([{"data_path": "digits"}])
    metadata = {"format": FORMAT, "graph": json.dumps(data), "step": "0", "epoch": "0", "history": history}
    path.write_bytes(safetensors.numpy.save(params, metadata))
    return path


@pytest.mark.parametrize("which", ["node", "input", "network"])
def test_a_checkpoint_s_names_are_not_run(
    which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind the end of a comment would be compiled, and run before main."""
    mark = tmp_path / "RAN"
    code = f'x*/\n__attribute__((constructor)) static void p(void) {{ int system(const char*); system("touch {mark}"); }}\n/*'
    path = crafted(tmp_path / "evil.ckpt", code, which)
    monkeypatch.chdir(tmp_path)
    for command in (
        ["export", "--file_format", "C", "--file_name", "x", "--ckpt_path", path],
        ["export", "--file_format", "C", "--file_name", "x", "--no_verify", "--ckpt_path", path],
        ["summary", "--ckpt_path", path],
        ["eval-quant", "--data_path", "digits", "--ckpt_path", path],
    ):
        status, out, error = run(capsys, *command)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert "its name holds '*'" in error
    assert not mark.exists()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["evil.ckpt"]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_checkpoint_s_name_is_one_line_of_an_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, error = run(capsys, "summary", "--ckpt_path", crafted(tmp_path / "evil.ckpt", name, "node"))
    assert (status, out) == (2, "")
    assert error == one_line(error[:-1]) + "\n"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_of_files_and_arguments_are_one_line_of_an_error(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["summary", "--ckpt_path", f"{tmp_path}/{name}"],
        ["run", "--model", f"{tmp_path}/{name}.onnx", "--image", name],
        ["summary", "--network", name],
        ["verify", "--model", f"{name}.tflite", "--ckpt_path", name, "--data_path", name],
        ["data", name, "--out", name],
        [name],
        ["summary", f"--{name}"],
    ):
        status, out, error = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert error == one_line(error[:-1]) + "\n"


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", "a\x85b", "a\u2028b"], ids=ascii)
def test_nothing_is_written_under_a_name_with_control_characters(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "good.ckpt"
    graph = qat.convert_quant_network(chain(qat.Flatten(), qat.DenseBnAct(64, 10)))
    qat.Checkpoint(graph, graph.observed_params()).save(path)
    for file_format in ("ONNX", "C"):
        status, _, error = run(
            capsys,
            "export",
            "--ckpt_path",
            path,
            "--file_format",
            file_format,
            "--file_name",
            tmp_path / name,
            "--no_verify",
        )
        assert status == 2
        assert error.count("\n") == 1
    assert [x.name for x in tmp_path.iterdir()] == ["good.ckpt"]


def test_names_of_classes_and_pictures_are_shown_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = chain(qat.Flatten(), qat.DenseBnAct(64, 5))
    qat.Checkpoint(graph, graph.initial_params()).save(tmp_path / "net.ckpt")
    texts = ["[red]x", "\x1b]0;title\x07", "\x1b[2J", "\u202e", "%s*/</script>"]
    (tmp_path / "names.txt").write_text("\n".join(texts), encoding="utf-8")
    picture = tmp_path / "a\x1b[31m\nb.png"
    Image.new("L", (9, 9)).save(picture)
    model = ("--model", tmp_path / "net.ckpt", "--class_names", tmp_path / "names.txt")
    status, out, error = run(capsys, "run", *model, "--image", picture)
    assert status == 0
    for text in texts:
        assert one_line(text) in out
    assert all(one_line(line) == line for line in (*out.split("\n"), *error.split("\n")))
    assert "a\\x1b[31m\\nb.png" in out
    assert error.startswith("note: ")
    folder = tmp_path / "pictures" / "no\x1b[31mclass"
    folder.mkdir(parents=True)
    picture.rename(folder / "x.png")
    status, out, error = run(capsys, "run", *model, "--test_path", tmp_path / "pictures")
    assert (status, out) == (2, "")
    assert error == one_line(error[:-1]) + "\n"


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", *HOSTILE], ids=ascii)
def test_a_task_s_files_are_in_its_study(name: str) -> None:
    with pytest.raises(qat.QatError, match=r"^task .*(rename it|leave the / out of its name)$"):
        Task(name)


# -- exported files ---------------------------------------------------------------------------------------------------


def integers(**names: str) -> tuple[IntegerGraph, np.ndarray]:
    """A small integer graph, and pixels for it. names: other ones than input, conv, pool and fc, unchecked."""
    network = Traced(
        lambda self, x: self.fc(qat.Flatten()(self.pool(self.conv(x)))),
        conv=qat.Conv2dBnAct(1, 2, 3, activation="relu"),
        pool=qat.MaxPool2d(2),
        fc=qat.DenseBnAct(32, 3),
    )
    graph = qat.convert_quant_network(network, profile="ascend")
    made = qat.to_integer(graph, graph.observed_params())

    def renamed(x):
        return x._replace(name=names.get(x.name, x.name))

    nodes = tuple(
        replace(
            node,
            name=names.get(node.name, node.name),
            inputs=tuple(map(renamed, node.inputs)),
            output=renamed(node.output),
        )
        for node in made.nodes
    )
    changed = replace(
        made, nodes=nodes, inputs=tuple(map(renamed, made.inputs)), outputs=tuple(map(renamed, made.outputs))
    )
    return changed, np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)


@pytest.mark.parametrize("file_format", TARGETS)
@pytest.mark.parametrize("name", ["a*/b", "a\x1b[31mb", "a\nb"], ids=ascii)
def test_an_exported_file_with_such_a_name_is_refused(name: str, file_format: str, tmp_path: Path) -> None:
    graph, pixels = integers(input=name, conv=name + "1", fc=name + "2")
    target, path = qat.target(file_format), tmp_path / f"net{TARGETS[file_format].suffix}"

    def export_and(read: Callable[..., object], *arguments: object) -> None:
        target.export(graph, path)  # AIR's writer reads what it has written
        read(path, *arguments)

    for read in ((target.predict, pixels), (target.input_specs,), (target.write_metadata, {})):
        with pytest.raises(
            qat.QatError, match=r"holds the name '.*', which no export writes; export it again$"
        ) as raised:
            export_and(*read)
        assert one_line(raised.value) == str(raised.value)


@pytest.mark.parametrize("file_format", TARGETS)
def test_every_name_keeps_its_codes(file_format: str, tmp_path: Path) -> None:
    """Names that are alike once they are identifiers, C's own words, and those that a target could make itself."""
    target = qat.target(file_format)
    for conv, pool, fc in (
        ("a.b", "a_b", "a b"),
        ("int", "é", "ß"),
        ("run", "[0]", "(x)"),
        ("conv", "output", "conv scratch"),
        ("fc", "fc.weight", "fc.q"),
        ("a" * LONGEST, "/conv/out:0", "a::b"),
    ):
        graph, pixels = integers(conv=conv, pool=pool, fc=fc)
        number = next(i for i, node in enumerate(graph.nodes) if node.name == conv)
        path = tmp_path / f"node{number}{TARGETS[file_format].suffix}"  # whose C function would be that of a node "run"
        target.export(graph, path)
        expected = evaluate(graph, pixels)
        (output,) = graph.outputs
        np.testing.assert_array_equal(output.grid.codes_of(target.predict(path, pixels)), expected)
        found = target.trace(path, pixels, [node.output for node in graph.nodes if node.name in (conv, fc)])
        np.testing.assert_array_equal(found[fc], expected)


def named_graph(names: tuple[str, ...]) -> qat.Graph:
    cells = (
        qat.Input((1, 8, 8)),
        qat.Conv2dBnAct(1, 2, 3, has_bn=True, activation="relu"),
        qat.MaxPool2d(2),
        qat.Flatten(),
        qat.DenseBnAct(32, 3),
    )
    sources = ((), *((name,) for name in names))
    nodes = tuple(qat.Node(name, cell, source, name) for name, cell, source in zip(names, cells, sources, strict=False))
    return qat.convert_quant_network(qat.Graph(nodes, names[-1:]))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_every_name_is_trained(backend_name: str) -> None:
    backend = qat.backend(backend_name)
    graph = named_graph(("é:0", "/a/b", "a_b", "[0] (x)", "a.b"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), np.uint8)
    model = backend.lower(graph, graph.observed_params(), step=1)
    step = backend.make_step(model, Optimizer("momentum", 0.9, 0.0))
    step(pixels, np.array([0, 1, 2, 0]), 0.01)
    assert {name.rpartition(".")[0] for name in step.state()} >= {"/a/b.weight", "a.b.weight"}
    step.load_state(step.state())
    params = backend.read(model)
    assert list(params) == list(graph.params)
    codes = backend.predict_codes(model, pixels)
    np.testing.assert_array_equal(codes, evaluate(qat.to_integer(graph, params), pixels))


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_a_name_that_a_framework_has_for_itself_is_used_or_refused(backend_name: str) -> None:
    backend = qat.backend(backend_name)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), np.uint8)
    for name in (
        "graph",
        "step",
        "forward",
        "construct",
        "call",
        "training",
        "parameters",
        "_pass",
        "fc.weight",
        "a..b",
    ):
        graph = named_graph(("input", "conv", "pool", name, "fc"))
        codes, refusal = None, ""
        try:
            codes = backend.predict_codes(backend.lower(graph, graph.observed_params()), pixels)
        except qat.QatError as error:
            refusal = str(error)
        if codes is None:
            assert refusal.startswith(name)
            assert refusal.endswith("rename the cell")
        else:
            np.testing.assert_array_equal(codes, evaluate(qat.to_integer(graph, graph.observed_params()), pixels))


def test_names_that_would_collide_in_a_file_are_refused(tmp_path: Path) -> None:
    graph, _ = integers(input="fc.weight")
    with pytest.raises(qat.QatError, match=r"^fc\.weight: an input of this name"):
        qat.target("MINDIR").export(graph, tmp_path / "net.mindir")
    graph, _ = integers(conv="a", pool="a/quant")
    for file_format in ("AIR", "ASCEND_ONNX"):
        path = tmp_path / f"net{TARGETS[file_format].suffix}"
        qat.target(file_format).export(graph, path)  # "a/quant/quant" is another name


def test_inputs_of_one_identifier_are_told_apart_in_c(tmp_path: Path) -> None:
    nodes = (
        qat.Node("a.b", qat.Input((1, 4, 4)), (), "a.b"),
        qat.Node("a_b", qat.Input((1, 4, 4)), (), "a_b"),
        qat.Node("a b", qat.Add(), ("a.b", "a_b"), "a b"),
    )
    graph = qat.convert_quant_network(qat.Graph(nodes, ("a b",)))
    made = qat.to_integer(graph, graph.observed_params())
    pixels = tuple(np.random.default_rng(i).integers(0, 256, (2, 1, 4, 4), np.uint8) for i in range(2))
    path = tmp_path / "double.c"
    qat.target("C").export(made, path)
    (output,) = made.outputs
    found = output.grid.codes_of(qat.target("C").predict(path, pixels))
    np.testing.assert_array_equal(found, evaluate(made, pixels))


# -- what is written: C, pages, pictures, tables ----------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_c_escapes_whatever_name_it_is_given(text: str, tmp_path: Path) -> None:
    """Even past the graph's own check: a name adds nothing but what a harmless one adds."""
    name = f"a{text}b"
    graph, _ = integers(input=name, conv=name + "1", fc=name + "2")
    same = plain(name)  # as it stands in identifiers, by whose length lines are wrapped
    harmless, _ = integers(input=same, conv=same + "1", fc=same + "2")
    ends = ends_in_c(graph, "own", "own")
    source, header = Writer(replace(graph, name=name), "net", True, ends, "float").files("net.h")
    code, described = source.rsplit("/* qat-model: ", 1)
    usual, usual_header = Writer(harmless, "net", True, ends, "float").files("net.h")
    usual = usual.rsplit("/* qat-model: ", 1)[0]
    for raw in TEXTS:
        assert (code.count(raw), header.count(raw)) == (usual.count(raw), usual_header.count(raw)), raw
    assert json.loads(described.removesuffix(" */\n"))["inputs"][0]["name"] == name
    assert not re.search(r"[^ -~]|[*?]", described.removesuffix(" */\n"))
    (tmp_path / "net.c").write_text(source, encoding="utf-8")
    (tmp_path / "net.h").write_text(header, encoding="utf-8")
    options = ["-std=c99", "-Wall", "-Wextra", "-Wtrigraphs", "-Werror", "-fsyntax-only"]
    subprocess.run([os.environ.get("CC", "cc"), *options, tmp_path / "net.c"], check=True)


@pytest.mark.parametrize("name", [f"a{text}b.h" for text in TEXTS if "/" not in text], ids=ascii)
def test_c_includes_no_file_whose_name_it_cannot_write(name: str) -> None:
    graph, _ = integers()
    with pytest.raises(qat.QatError, match="C cannot include a file of this name"):
        Writer(graph, "net", True, ends_in_c(graph, "own", "own"), "float").files(name)
    for names in ((name, "net.h"), ("net.tflite", name)):
        with pytest.raises(qat.QatError, match="C cannot include a file of this name"):
            c_array(b"1", *names)


def test_a_page_escapes_every_text() -> None:
    text = "".join(SEEN) + "<b>&\"'\n"
    picture = heat_map([[1.0]], ["</script>\x1b["], ["??/"], title="<b>--></svg>", x_label="x", y_label="y", unit="z")
    page = html_page(text, [text], [text], [Section(text, text, (text, text), [(text, text)], picture)])
    for raw in ("</script>", "<b>", "--></svg>", "\x1b", "\r", "\u202e", "\u2028"):
        assert raw not in page, raw
    assert page.count("</svg>") == 1
    assert (
        page.count("\\x1b[31m") >= 8
    )  # the title twice, the line, the command, the section, its table, its picture's label


def test_pictures_take_no_text_as_a_formula() -> None:
    assert plain_text("$\\frac$\n\x1b[") == "\\$\\frac\\$\n\\x1b["
    picture = heat_map([[1.0]], ["$\\frac{$"], ["$x"], title="$\\nonsense$", x_label="x", y_label="y", unit="z")
    assert "<svg" in picture.svg()


def test_tables_and_prints_show_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]\x1b[31m\n\r\u202e\udcff"
    print_table(text, ("layer", "bytes"), [(text, text)])
    print(text, file=PlainOutput(sys.stdout))
    out = capsys.readouterr().out
    shown = "[bold]\\x1b[31m\\n\\r\\u202e\\udcff"
    assert out.count(shown) == 3
    assert all(one_line(line) == line for line in out.split("\n"))
    assert out.endswith("[bold]\\x1b[31m\n\\r\\u202e\\udcff\n")  # what is printed may have lines


def test_no_encoding_of_the_terminal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "é.ckpt"
    graph = chain(qat.Flatten())
    qat.Checkpoint(replace(graph, name="网络"), {}).save(path)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "qat.cli", "summary", "--ckpt_path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_csv_of_layers_has_one_line_for_each() -> None:
    from qat.scripts.sensitivity import _csv

    lines = _csv(Sensitivity(0.5, {'a,"b\n': {2: 0.25}}), [2])
    assert lines == 'layer,bits,accuracy,lost\n,float,0.5,0\n"a,""b\n",2,0.25,0.25\n'


def test_a_name_with_brackets_is_its_own_pattern() -> None:
    graph = chain(qat.Flatten(), qat.DenseBnAct(64, 10))
    changed = qat.Graph.from_json(graph.to_json().replace('"c1"', '"fc[0]"'))
    found = qat.convert_quant_network(changed, layers={"fc[0]": {"num_bits": 4}})
    (cell,) = (node.cell for node in found.nodes if node.name == "fc[0]")
    assert cell.weight_quantizer.num_bits == 4
