"""Whole runs from a file: steps are checked, passed on, left out where they are done, and repeated with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from command import run

from qat import run_file
from qat.cli import REPEATED, command_parser
from qat.commands import COMMANDS
from qat.files import absolute
from qat.networks import LeNet5
from qat.scripts.common import steps
from qat.training.checkpoint import Checkpoint

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "run.yaml"
SHORT = {
    "common": {"data_path": "digits"},
    "train": {"network": "lenet", "epochs": 1, "save_path": "out/lenet.ckpt"},
    "calibrate": {"images": 20, "method": "minmax", "save_path": "out/lenet_quant.ckpt"},
    "eval-quant": None,
    "export": [{"file_format": "C", "file_name": "out/lenet", "no_verify": True}],
}


def write(folder: Path, **sections: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({name.replace("_", "-"): x for name, x in sections.items()}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was done, called from elsewhere."""
    folder = tmp_path_factory.mktemp("done")
    from qat.cli import main

    assert main(["run-config", str(write(folder, **SHORT))]) == 0
    return folder


def test_steps_take_what_those_before_them_wrote(done: Path) -> None:
    assert Checkpoint.load(done / "out/lenet_quant.ckpt").graph.is_quantized
    assert (done / "out/lenet.c").is_file()


def test_steps_that_are_done_are_left_out_and_what_they_printed_is_printed(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "out").iterdir()}
    status, out, _ = run(capsys, "run-config", done / "run.yaml")
    assert (status, out.count("done before"), out.count("Accuracy")) == (0, 4, 1)
    assert {path: path.stat().st_mtime_ns for path in (done / "out").iterdir()} == before


@pytest.mark.parametrize("name", ["lenet.ckpt", "lenet_quant.ckpt", "lenet.c"])
def test_a_run_file_repeats_what_it_lies_beside_with_the_same_bits(
    name: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = done / "out" / name
    was = run_file.digest(path)
    recorded = yaml.safe_load(run_file.beside(path).read_text())["run"]
    assert recorded["outputs"][name] == was
    path.write_bytes(b"")
    status, out, err = run(capsys, "run-config", run_file.beside(path))
    assert (status, err) == (0, "")
    assert "the same bits as before" in out
    assert run_file.digest(path) == was


def test_a_run_that_is_repeated_keeps_its_command_line_until_its_flags_are_changed(done: Path) -> None:
    path = run_file.beside(done / "out" / "lenet.ckpt")
    was = path.read_text()
    command = yaml.safe_load(was)["run"]["command"]
    assert Checkpoint.load(done / "out" / "lenet.ckpt").history[0]["command"] == command
    for text, found in ((was, command), (was.replace("epochs: 1", "epochs: 2"), None)):
        path.write_text(text)
        plan = steps.read_plan(path)
        with plan._as_before(plan.steps[0]):
            assert REPEATED.get() == found
        assert REPEATED.get() is None
    path.write_text(was)


def test_names_that_are_no_utf8_are_recorded(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "data\udcff", tmp_path / "net\udcff.ckpt"
    folder.mkdir()
    (folder / "a\udcff.png").write_bytes(b"a")
    assert run_file.digest(folder).startswith("sha256:")
    given = ("--ckpt_path", done / "out" / "lenet.ckpt", "--method", "l1", "--ratio", "0.3", "--save_path", path)
    status, _, err = run(capsys, "prune", *given)
    assert (status, err) == (0, "")
    status, out, _ = run(capsys, "run-config", run_file.beside(path))
    assert (status, "the same bits as before" in out) == (0, True)


def test_what_was_typed_is_repeated_with_the_same_bits_and_what_was_edited_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line is part of a checkpoint's history: that of the repetition is spelt otherwise."""
    monkeypatch.chdir(tmp_path)
    typed = "train --data_path digits --network mlp --epochs 1 --save_path a.ckpt"
    assert run(capsys, *typed.split())[0] == 0
    was, path = run_file.digest("a.ckpt"), run_file.beside("a.ckpt")
    for _ in range(2):  # a repetition can be repeated
        status, out, err = run(capsys, "run-config", path)
        assert (status, err, run_file.digest("a.ckpt")) == (0, "", was)
        assert "the same bits as before" in out
    assert Checkpoint.load("a.ckpt").history[-1]["command"] == f"qat {typed}"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    assert "not the bits" in run(capsys, "run-config", path)[1]
    assert "--epochs=2" in Checkpoint.load("a.ckpt").history[-1]["command"], "not what was typed before"


def test_a_changed_result_or_setting_is_made_again_and_what_follows_only_where_it_must(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done / "out/lenet.c").unlink()
    status, out, _ = run(capsys, "run-config", done / "run.yaml")
    assert (status, out.count("done before")) == (0, 3)
    changed = write(done, **SHORT | {"calibrate": {**SHORT["calibrate"], "images": 30}})  # type: ignore[dict-item]
    status, out, _ = run(capsys, "run-config", changed)
    assert (status, out.count("done before")) == (0, 1)
    write(done, **SHORT)


def exported_params(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], Path]:
    """In a folder, which becomes the working directory: a step that exports parameters, and its run file."""
    monkeypatch.chdir(folder)
    graph = LeNet5().graph()
    Checkpoint(graph, graph.initial_params(0)).save("net.ckpt")
    step = {"ckpt_path": "net.ckpt", "backend": "torch", "file": "net.pt"}
    return step, write(folder, **{"export-params": step})


def test_what_a_step_wrote_is_replaced_as_long_as_it_is_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in parameters for PyTorch says that qat wrote them: their digest does."""
    step, path = exported_params(tmp_path, monkeypatch)
    assert run(capsys, "run-config", path)[0] == 0
    was = Path("net.pt").read_bytes()
    assert run(capsys, "run-config", path, "--again")[0] == 0, "without a question"
    again = Path("net.pt").read_bytes()
    Path("net.pt").write_bytes(b"mine, of another program")
    for _ in range(2):
        status, _, err = run(capsys, "run-config", path)
        assert (status, err.count("\n")) == (2, 1)
        assert "net.pt: is there already, and would be lost; give --yes" in err
        assert Path("net.pt").read_bytes() == b"mine, of another program"
    Path("net.pt").write_bytes(again)
    assert run(capsys, "run-config", path)[0] == 0, "it is again what was written, whatever was refused in between"
    assert len(was) == len(again)
    Path("other.pt").write_bytes(b"mine too")
    write(tmp_path, **{"export-params": step | {"file": "other.pt"}})
    status, _, err = run(capsys, "run-config", path)
    assert (status, Path("other.pt").read_bytes()) == (2, b"mine too"), (
        "that the step ran before is no leave for another file"
    )
    path.write_text(path.read_text() + "  yes: true\n")
    assert run(capsys, "run-config", path)[0] == 0
    assert Path("other.pt").read_bytes() != b"mine too"


def test_what_steps_wrote_is_known_still_where_a_run_anew_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = exported_params(tmp_path, monkeypatch)
    assert run(capsys, "run-config", path)[0] == 0
    with monkeypatch.context() as interrupting:
        interrupting.setattr(steps, "main", lambda _: 130)
        assert run(capsys, "run-config", path, "--again")[0] == 130
    assert run(capsys, "run-config", path)[0] == 0, "without a question"


def test_a_run_file_does_not_replace_what_was_changed_since(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = done / "out" / "lenet.c"
    was = path.read_bytes()
    path.write_bytes(was + b"/* tuned by hand with qat */\n")
    try:
        status, _, err = run(capsys, "run-config", run_file.beside(path))
        assert (status, err.count("\n")) == (2, 1)
        assert "lenet.c: is there already, and is not what qat wrote" in err
        assert path.read_bytes() != was
    finally:
        path.write_bytes(was)


def test_a_run_that_was_interrupted_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, common={"data_path": "digits"}, train={"network": "mlp", "epochs": 3, "save_path": "a.ckpt"})
    save = Checkpoint.save

    def interrupted(self: Checkpoint, where: Path) -> None:
        save(self, where)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "save", interrupted)
        status, _, err = run(capsys, "run-config", path)
        assert (status, "interrupted" in err) == (130, True)
    assert Checkpoint.load(tmp_path / "a.ckpt").epoch == 2
    status, out, _ = run(capsys, "run-config", path, "--dry_run")
    assert (status, "goes on" in out) == (0, True)
    status, out, _ = run(capsys, "run-config", path)
    assert (status, out.count("Epoch")) == (0, 1)
    found = run_file.digest(tmp_path / "a.ckpt")
    assert run(capsys, "run-config", path, "--again")[0] == 0
    assert run_file.digest(tmp_path / "a.ckpt") == found  # as if it had never stopped


#: Flags that take a text which is no path.
NAMES = {
    "activation_quantizer",
    "cflags",
    "command",
    "cores",
    "drop_blocks",
    "extra",
    "home",
    "import",
    "log_to",
    "loss",
}
NAMES |= {"name", "name_of_experiment", "names", "network", "outputs", "page", "prefix", "ray", "rename"}
NAMES |= {"sparsity_layers", "task", "weight_quantizer"}


def test_of_every_flag_it_is_known_whether_it_takes_a_path() -> None:
    taken = set()
    for command in COMMANDS:
        actions = command_parser(command)._actions
        taken |= {
            steps._flag(x).replace("-", "_") for x in actions if x.nargs != 0 and x.type is None and not x.choices
        }
    assert taken - NAMES == run_file.PATHS
    assert {*steps.INPUTS, *steps.OUTPUTS} <= run_file.PATHS


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What trains in a moment, in the working directory."""
    monkeypatch.chdir(tmp_path)
    images, labels = np.random.default_rng(0).integers(0, 256, (64, 1, 32, 32), np.uint8), np.arange(64) % 10
    Path("data").mkdir()
    np.savez("data/digits.npz", x_train=images, y_train=labels, x_test=images[:16], y_test=labels[:16])
    return ["train", "--network", "mlp", "--epochs", "1", "--threads", "1"]


def test_the_value_of_a_flag_that_is_no_path_stays_whatever_files_there_are(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("adam", "mlp", "cosine", "1"):
        Path(name).write_text("a file of that name")
    more = [
        "--optimizer",
        "adam",
        "--lr_schedule",
        "cosine",
        "--data_path",
        "data/digits.npz",
        "--save_path",
        "out/a.ckpt",
    ]
    assert run(capsys, *small, *more)[0] == 0
    path = run_file.beside("out/a.ckpt")
    found = yaml.safe_load(path.read_text())
    flags = found["train"]
    assert (flags["optimizer"], flags["network"], flags["lr_schedule"]) == ("adam", "mlp", "cosine")
    assert (flags["data_path"], flags["save_path"]) == ("../data/digits.npz", "a.ckpt")
    assert [*found["run"]["inputs"]] == ["../data/digits.npz"]
    status, out, err = run(capsys, "run-config", path)
    assert (status, "the same bits as before" in out) == (0, True), err


def test_one_run_has_the_same_bits_however_its_paths_are_spelt(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("link").symlink_to("data")
    calibrate = ["calibrate", "--images", "20", "--method", "minmax", "--threads", "1"]
    found, ends = [], "--data_path=data/digits.npz --save-path out/a.ckpt"
    for data, saved in (
        ("data/digits.npz", "out/a.ckpt"),
        ("./data//digits.npz", "out/../out/a.ckpt"),
        (tmp_path / "data" / ".." / "data" / "digits.npz", tmp_path / "out" / "a.ckpt"),
    ):
        assert run(capsys, *small, f"--data_path={data}", "--save-path", saved)[0] == 0
        assert Checkpoint.load("out/a.ckpt").history[0]["command"].endswith(ends)
        assert run(capsys, *calibrate, "--data_path", data, "--ckpt_path", saved, "--save_path", "q.ckpt")[0] == 0
        found.append((run_file.digest("out/a.ckpt"), run_file.digest("q.ckpt")))
    assert len({*found}) == 1, found
    assert run(capsys, *small, "--data_path=link/digits.npz", "--save-path", "out/a.ckpt")[0] == 0
    assert run_file.digest("out/a.ckpt") != found[0][0], "another path, which may lead elsewhere tomorrow"


def test_a_path_that_leads_through_a_link_keeps_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the folder that a link leads to there are other files than beside the link."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "x.npz").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path)
    assert absolute("link/../x.npz") == f"{tmp_path}/link/../x.npz"
    assert absolute("far/deep/../x.npz") == f"{tmp_path}/far/x.npz"
    line = run_file.command_line(command_parser("train"), ["--data_path", "digits", "--class_weights", "1", "./w.txt"])
    assert line == "qat train --data_path digits --class_weights 1 w.txt"


def test_a_note_says_where_an_input_is_not_what_it_was(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = done / "out" / "lenet_quant.ckpt.run.yaml"
    was = path.read_text()
    data = yaml.safe_load(was)
    data["run"]["inputs"]["lenet.ckpt"] = "sha256:0"
    data["run"]["version"] = "0.0.1"
    path.write_text(yaml.safe_dump(data))
    status, _, err = run(capsys, "run-config", path, "--dry_run")
    path.write_text(was)
    assert status == 0
    assert "is of version 0.0.1" in err
    assert "lenet.ckpt is not what it was" in err


def test_the_example_of_the_documentation_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(EXAMPLE.read_text())
    status, out, _ = run(capsys, "run-config", path, "--dry_run")
    assert (status, "6 steps" in out) == (0, True)
    assert "qat export --data_path=digits --file_format=C --file_name=out/lenet" in out
    assert [each.name for each in tmp_path.iterdir()] == ["run.yaml"]
    page = (EXAMPLE.parents[1] / "docs" / "run_config.md").read_text()
    assert EXAMPLE.read_text() in page


TRAIN = {"train": {"data_path": "digits", "network": "lenet"}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "holds dict where sections are expected"),
        ({"trian": {}}, "there is no command 'trian', perhaps train is meant"),
        ({"zoo": {}}, "there is no command 'zoo'"),
        ({"train": [1]}, "train: holds int where flags and values are expected"),
        ({"train": {}}, "run.yaml, train: the following arguments are required: --data_path"),
        (
            {"train": {"data_path": "digits", "epoch": 3}},
            "run.yaml, train: unknown argument --epoch=3, perhaps --epochs is meant",
        ),
        ({"train": {"data_path": "digits", "epochs": "many"}}, "argument --epochs: invalid int value: 'many'"),
        ({"train": {"data_path": "digits", "epochs": None}}, "epochs is None; give it a value, or leave it out"),
        ({"train": {"data_path": "digits", "epochs": [1, 2]}}, "epochs is [1, 2]; give it one value"),
        ({"train": {"data_path": "digits", "augment_flip": "yes"}}, "augment_flip is 'yes'; write true or false"),
        ({"train": {"data_path": "digits", "backend": "pytorch"}}, "perhaps torch is meant"),
        ({"train": {"data_path": "nowhere"}}, "run.yaml, train: nowhere: there is nothing here"),
        ({"train": {"data_path": "digits", "save_path": "run.yaml/x.ckpt"}}, "cannot be written"),
        (
            {"calibrate": {"data_path": "digits", "ckpt_path": "none.ckpt"}},
            "run.yaml, calibrate: ckpt_path: there is no none.ckpt, and no step before writes it",
        ),
        (
            {"calibrate": {"data_path": "digits"}},
            "run.yaml, calibrate: the following arguments are required: --ckpt_path",
        ),
        ({"common": {"epoch": 3}, **TRAIN}, "run.yaml, common: no step has a flag 'epoch'"),
        (
            {**TRAIN, "export": {"file_format": "C"}},
            "run.yaml, export: the following arguments are required: --file_name",
        ),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(
    sections: dict[str, object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
    status, out, err = run(capsys, "run-config", "run.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert [each.name for each in tmp_path.iterdir()] == ["run.yaml"]


def test_a_file_that_is_no_list_of_steps_is_one_line(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lenet.c", "lenet.ckpt"):
        (tmp_path / name).write_bytes((done / "out" / name).read_bytes())
    run_file.beside("lenet.c").write_text("train:\n")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (tmp_path / "x.yaml").write_bytes(b"train:\0")
    for name, message in (
        ("lenet.c", "is an exported file, not a list of steps; give lenet.c.run.yaml, which repeats what made it"),
        ("lenet.ckpt", "is a checkpoint, not a list of steps; give the YAML file of a run"),
        ("x.png", "is a picture, not a list of steps; give the YAML file of a run"),
        ("x.yaml", "is no text, not a list of steps; give the YAML file of a run"),
    ):
        assert run(capsys, "run-config", name) == (2, "", f"qat run-config: error: {name}: {message}\n")
    (tmp_path / "flow.yaml").write_text("common: {data_path: digits}\ntrain: {epochs: 0}\n")  # { as a checkpoint
    assert "a checkpoint" not in run(capsys, "run-config", "flow.yaml")[2]


def test_every_flag_whose_value_is_passed_on_is_there() -> None:
    from qat.cli import command_parser
    from qat.commands import COMMANDS

    flags = {name.lstrip("-") for each in COMMANDS for name in command_parser(each)._option_string_actions}
    assert set(steps.INPUTS) | set(steps.OUTPUTS) <= flags
    assert set(steps.NO_STEPS) <= set(COMMANDS)
