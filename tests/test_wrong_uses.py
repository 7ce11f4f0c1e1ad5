"""Wrong uses of every command: one line on standard error that names the object and what to do, exit status 2, nothing written.

Each row of ``USES`` is what a user types, what the message must name, and the words that say what to do about it.
"""

from __future__ import annotations

import gzip
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from command import run
from PIL import Image

import qat
from qat.commands import COMMANDS
from qat.networks import LeNet5, create

DIGITS = "--data_path digits"
FLOAT, QUANT = f"{DIGITS} --ckpt_path float.ckpt", f"{DIGITS} --ckpt_path quant.ckpt"
STARTS = "the checkpoint that it was made from"  #: which a quantized checkpoint's user should have given

USES = [
    # -- commands and flags
    ("trian", "'trian'", "perhaps train is meant"),
    ("quantize --ckpt_path float.ckpt", "'quantize'", "perhaps calibrate is meant"),
    ("train", "--data_path", "'qat train --help' says"),
    (f"train {DIGITS} --epoch 3", "--epoch,", "perhaps --epochs is meant"),
    (f"train {DIGITS} --learning-rate 0.1", "--learning-rate", "perhaps --lr is meant"),
    (f"train {DIGITS} --num_bits 4", "--num_bits", "belongs to calibrate, train-quant"),
    (f"train {DIGITS} lenet", "lenet", "without a flag before it"),
    (f"train {DIGITS} --backend pytorch", "'pytorch'", "perhaps torch is meant"),
    (f"train {DIGITS} --backend abacus", "--backend: invalid choice: 'abacus'", "choose from"),
    ("help quntizers", "'quntizers'", "perhaps quantizers is meant"),
    ("run-config nowhere.yaml", "nowhere.yaml: cannot be read", "each section is a command"),
    ("run-config types.yaml", "'num_bits'", "each section is a command"),
    ("completion csh", "'csh'", "choose from 'bash'"),
    ("report --data_path digits --ckpt_path nowhere.ckpt", "nowhere.ckpt", "give the checkpoint file"),
    ("doctor --fast", "--fast", "'qat doctor --help' says"),
    # -- values
    (f"train {DIGITS} --epochs -1", "epochs is -1", "at least 1"),
    (f"train {DIGITS} --epochs 1.5", "--epochs: invalid int value: '1.5'", "--help' says"),
    (f"train {DIGITS} --lr 0", "lr is 0", "use a positive number"),
    (f"train {DIGITS} --batch_size 0", "batch_size is 0", "at least 1"),
    (f"train {DIGITS} --momentum 1.5", "momentum is 1.5", "from 0 to below 1"),
    (f"train {DIGITS} --seed -1", "--seed: '-1'", "0 or more"),
    (f"train {DIGITS} --warmup soon", "--warmup: 'soon'", "give steps as 900, epochs as 2ep"),
    (f"train {DIGITS} --validation 5000", "5000 images cannot be held back", "from 1 to 1436"),
    (f"train {DIGITS} --keep_best", "keep_best", "give --validation"),
    (f"train {DIGITS} --distill_weight 0.5", "--distill_weight", "give --teacher_ckpt, or leave it out"),
    (f"train {DIGITS} --mean 0.5 0.5 --std 0.5 0.5", "mean is (0.5, 0.5)", "one number for each, or one for all"),
    (f"train {DIGITS} --network lenet5x", "'lenet5x'", "perhaps lenet is meant"),
    (f"train {DIGITS} --network mynet:Missing", "has no 'Missing'", "rename"),
    (f"train {DIGITS} --network broken:Net", "'broken:Net' cannot be imported (SyntaxError", "package.module:Class"),
    (f"train {DIGITS} --task regresion", "'regresion'", "perhaps regression is meant"),
    (f"train-quant {FLOAT} --num_bits 1", "num_bits is 1", "use a whole number from 2 to 16"),
    (f"train-quant {FLOAT} --num_bits 33", "num_bits is 33", "use a whole number from 2 to 16"),
    (f"train-quant {FLOAT} --num_bits 4 8 8", "[4, 8, 8]", "give one value, or (weights, activations)"),
    (f"train-quant {FLOAT} --quant_delay 1000 --epochs 1", "after 1000 steps", "lower --quant_delay, as 10%"),
    (f"train-quant {FLOAT} --weight_quantizer lsqq", "'lsqq'", "perhaps lsq is meant"),
    (f"calibrate {FLOAT} --images 100000", "--images 100000", "use a number from 1 to that"),
    (f"calibrate {FLOAT} --seed -3", "--seed: '-3'", "0 or more"),
    (f"prune {FLOAT} --ratio 2", "ratio is 2.0", "from 0 to below 1"),
    ("prune --ckpt_path float.ckpt", "nothing to remove", "give --ratio, --max_macs"),
    ("compress --input_path float.ckpt --bits 1", "--bits 1", "use 2 to 16"),
    (f"sensitivity {FLOAT} --bits 99", "bits 99", "from 1 to 16"),
    (f"diagnose {QUANT} --top -1", "--top -1", "at least 1"),
    (f"search {FLOAT} --limit -5", "--limit is -5", "above 0"),
    (f"run-autoq {FLOAT} --delta -1", "--delta is -1.0", "use a positive number"),
    (f"search-architecture {DIGITS} --trials -1 --out p", "--trials is -1", "at least 1"),
    (f"train-gtc {DIGITS} --num_bits 9 --basedirectory p", "num_bits is 9", "from 2 to 5"),
    (f"train-and-quantize {DIGITS} --images 0", "--images 0", "use a number from 1 to that"),
    (f"train-svhn {DIGITS} --folds 1 --models p", "--folds is 1", "use 2 or more, or 0"),
    (f"train-svhn {DIGITS} --jobs 0 --models p", "--jobs is 0", "at least 1"),
    (
        f"train-lenet5 {DIGITS} --epoch-start 5 --epoch-end 2 --checkpoint-dir p",
        "--epoch-start 5",
        "let the end be larger",
    ),
    (f"create-data {DIGITS} --out p --size 0", "--size 0", "1 to 4096"),
    ("data imagenet --out p", "'imagenet'", "choose from 'mnist'"),
    ("data mnist --out p --home http://example.org", "http://example.org/train-images", "give an https address"),
    ("zoo fetch nothing --out x.tflite", "'nothing'", "choose one of"),
    ("zoo fetch mnist_cnn --out x.png", "--out x.png", "use one of these"),
    ("bench --model net.onnx --cores m4", "--cores m4", "export one with --file_format C"),
    # -- flags that do not go together
    (f"train {DIGITS} --ckpt_path float.ckpt --network lenet", "--network lenet", "give one of them"),
    (f"train-quant {FLOAT} --bits_per_weight 3 --max_bops 10", "--max_bops", "leave one of them out"),
    (f"train-quant {QUANT} --num_bits 4", "--num_bits: quant.ckpt", "leave it out"),
    (f"train-quant {QUANT} --arithmetic fixed", "--arithmetic fixed: quant.ckpt", "leave it out"),
    (f"calibrate {FLOAT} --method minmax --percentile 99", "--percentile", "add --method percentile, or leave it out"),
    ("compress --input_path float.ckpt --bits 4 --images 10", "--images", "give --data_path, or leave it out"),
    ("summary --network lenet --ckpt_path float.ckpt", "--ckpt_path", "not allowed with argument --network"),
    ("run --model float.ckpt --image a.png --test_path three", "--test_path", "not allowed with argument --image"),
    ("export --ckpt_path quant.ckpt --file_name x --file_format C --weights uint8", "--weights", "leave it out"),
    # -- files that are not what they should be
    ("calibrate --data_path digits --ckpt_path nowhere.ckpt", "nowhere.ckpt", "give the checkpoint file"),
    (
        "calibrate --data_path digits --ckpt_path empty",
        "empty: cannot be read (it is a folder)",
        "give the checkpoint file",
    ),
    (
        "calibrate --data_path digits --ckpt_path net.tflite",
        "net.tflite: is an exported file",
        "run, evaluate and verify take",
    ),
    ("calibrate --data_path digits --ckpt_path float.ckpt.gz", "float.ckpt.gz: is compressed by gzip", "unpack it"),
    ("calibrate --data_path digits --ckpt_path a.png", "a.png: is a picture, not a checkpoint", "--image"),
    ("calibrate --data_path digits --ckpt_path few.npz", "few.npz: is a .zip archive", "import"),
    ("calibrate --data_path digits --ckpt_path hollow.ckpt", "hollow.ckpt: is empty", "use another copy"),
    ("calibrate --data_path digits --ckpt_path cut.ckpt", "cut.ckpt: cannot be read", "use another copy"),
    ("calibrate --data_path digits --ckpt_path nan.ckpt", "nan.ckpt: 'conv1.weight' holds nan", "use another copy"),
    ("calibrate --data_path digits --ckpt_path shape.ckpt", "shape.ckpt: 'conv1.weight' has shape", "give its own"),
    (f"calibrate {QUANT}", "quant.ckpt: holds the quantized network", STARTS),
    (f"eval {QUANT}", "quant.ckpt: holds the quantized network", STARTS),
    (f"sensitivity {QUANT}", "quant.ckpt: holds the quantized network", STARTS),
    (f"eval-quant {FLOAT}", "float.ckpt: holds the float network", "run calibrate or train-quant"),
    (f"diagnose {FLOAT}", "float.ckpt: holds the float network", "run calibrate or train-quant"),
    (
        "export --ckpt_path float.ckpt --file_name x",
        "float.ckpt: holds the float network",
        "run calibrate or train-quant",
    ),
    (
        "compile --input_path float.ckpt --target c --output_path x",
        "float.ckpt: holds a float network",
        "quantize it first",
    ),
    (f"verify --model quant.ckpt {QUANT}", "'.ckpt' is no format", "give what export wrote"),
    (
        f"verify --model changed.tflite {QUANT}",
        "changed.tflite: its content is not what its digest says",
        "export it again",
    ),
    (f"verify --model cut.onnx {QUANT}", "cut.onnx", "again"),
    (
        f"verify --model net.onnx {DIGITS} --ckpt_path other.ckpt",
        "net.onnx: gives outputs of shape",
        "give --ckpt_path the one",
    ),
    (f"verify --model net.c {QUANT}", "net.c: holds code", "give --trust"),
    ("run --model a.txt --image a.png", "a.txt: cannot be read as a checkpoint", "use another copy"),
    ("run --model float.ckpt --image a.txt", "a.txt: is not a picture", "give one of PNG"),
    (
        "run --model float.ckpt --image a.png --class_names two.txt",
        "--class_names: holds 2 names",
        "belong to different",
    ),
    ("evaluate --input_path float.ckpt --test_path cat.txt", "cat.txt, line 1: 'cat'", "give --class_names"),
    ("import --model a.txt --ckpt_path x.ckpt", "a.txt: is no network", "give a file .pt2"),
    ("import --model net.onnx --ckpt_path x.ckpt", "net.onnx: is a quantized file", "give the float one"),
    ("import-params --backend torch --file a.txt --ckpt_path x.ckpt", "a.txt: cannot be read", "torch.save wrote"),
    (
        "export-params --backend torch --ckpt_path net.onnx --file x.pt",
        "net.onnx: is an exported file",
        "take such files",
    ),
    (f"score --reference net.onnx --model float.ckpt {DIGITS}", "net.onnx: is an exported file", "take such files"),
    (f"test-lenet5 --best-checkpoint nowhere.ckpt {DIGITS}", "nowhere.ckpt", "give the checkpoint file"),
    ("compare-models -m nowhere", "nowhere: there is no result", "run train_svhn.py first"),
    # -- data
    ("train --data_path nowhere --save_path new/x.ckpt", "nowhere: there is nothing here", "qat data mnist"),
    ("train --data_path digit", "digit: there is nothing here", "perhaps digits is meant"),
    ("train --data_path float.ckpt", "float.ckpt: is a checkpoint", "--data_path takes the folder"),
    ("train --data_path empty", "empty: holds nothing", "a folder of pictures for each class"),
    ("train --data_path words", "words: holds a/, ", "a folder of pictures for each class"),
    ("train --data_path bad", "x.png: is not a picture", "give one of PNG"),
    ("train --data_path few.npz", "few.npz: x_train has 20 rows and y_train 19", "a label for each sample"),
    ("train --data_path reals.npz --network lenet", "float32", "do not suit the network 'lenet'"),
    ("train --data_path cells.csv", "cells.csv, line 3: 'nothing'", "correct it or leave the line out"),
    ("train --data_path labels.npz --ckpt_path float.ckpt", "its labels reach 12", "it needs one output of (13,)"),
    ("eval --data_path colour.npz --ckpt_path float.ckpt", "3 channels but the network takes 1", "or another data set"),
    ("demo --data_path nowhere --out p", "nowhere: there is nothing here", "qat data mnist"),
    # -- settings in files
    (f"train-quant {FLOAT} --quant_config nowhere.yaml", "nowhere.yaml", "give a YAML file"),
    (f"train-quant {FLOAT} --quant_config list.yaml", "list.yaml: holds list", "as num_bits: [8, 8]"),
    (f"train-quant {FLOAT} --quant_config types.yaml", "types.yaml: num_bits is 'eight'", "use a whole number"),
    (f"train-quant {FLOAT} --quant_config typo.yaml", "typo.yaml: 'num_bit'", "perhaps num_bits is meant"),
    (f"train-quant {FLOAT} --quant_config layers.yaml", "'conv9' fits no cell", "those are conv1, conv2"),
    (f"train-quant {FLOAT} --quant_config broken.yaml", "broken.yaml: cannot be read as YAML", "as num_bits: [8, 8]"),
    # -- where results go
    (f"train {DIGITS} --save_path folder", "folder: is a folder", "give the name of a file"),
    (f"train {DIGITS} --save_path x.tflite", "--save_path x.tflite", "name it *.ckpt"),
    (f"train {DIGITS} --save_path a.txt/x.ckpt", "a.txt/x.ckpt: cannot be written", "choose another place"),
    (f"train {DIGITS} --save_path /proc/none/x.ckpt", "/proc/none/x.ckpt: cannot be written", "choose another place"),
    (f"train {DIGITS} --log_path folder", "folder: is a folder", "give the name of a file"),
    (f"train {DIGITS} --ckpt_path float.ckpt --save_path float.ckpt", "float.ckpt: --save_path and", "another name"),
    (f"train-quant {FLOAT} --save_path float.ckpt", "float.ckpt: --save_path and --ckpt_path", "give another name"),
    (f"calibrate {FLOAT} --save_path float.ckpt", "float.ckpt: --save_path and --ckpt_path", "give another name"),
    (f"calibrate {FLOAT} --save_path x.onnx", "--save_path x.onnx", "name it *.ckpt"),
    ("prune --ckpt_path float.ckpt --method l1 --ratio 0.5 --save_path x.onnx", "--save_path x.onnx", "name it *.ckpt"),
    ("compress --input_path float.ckpt --bits 4 --output_path x.onnx", "--output_path x.onnx", "name it *.ckpt"),
    ("import --model net.onnx --ckpt_path x.tflite", "--ckpt_path x.tflite", "name it *.ckpt"),
    ("export --ckpt_path quant.ckpt --file_name x.tflite", "'x.tflite': ends as another format's", "change the name"),
    ("export --ckpt_path quant.ckpt --file_name folder", "'folder': is a folder", "give the name of a file"),
    (f"eval {FLOAT} --confusion folder", "folder: is a folder", "give the name of a file"),
    (f"sensitivity {FLOAT} --picture_path x.doc", "x.doc: a picture is a file", "give it such a name"),
    ("create-data --data_path digits --out a.txt", "a.txt", "choose another place"),
    ("demo --out a.txt", "a.txt/lenet.ckpt: cannot be written", "choose another place"),
]
#: Commands without a row, since their arguments are another one's.
LIKE_OTHERS = {"train-yournet", "test-yournet", "training-diagnostics"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good files, and with those that users mix up or that are damaged."""
    folder = tmp_path_factory.mktemp("uses")
    graph = create("lenet").graph()
    params = graph.initial_params(0)
    qat.Checkpoint(graph, params).save(folder / "float.ckpt")
    quantized = qat.convert_quant_network(graph)
    start = qat.Checkpoint(quantized, quantized.observed_params())
    start.save(folder / "quant.ckpt")
    other = qat.convert_quant_network(LeNet5(num_class=3))
    qat.Checkpoint(other, other.observed_params()).save(folder / "other.ckpt")
    for name, file in (("ONNX", "net.onnx"), ("C", "net.c"), ("TFLITE", "net.tflite")):
        qat.target(name).export(qat.to_integer(quantized, start.params), folder / file)
        qat.target(name).write_metadata(folder / file, start.kept())
    content = (folder / "float.ckpt").read_bytes()
    (folder / "cut.ckpt").write_bytes(content[: len(content) // 2])
    (folder / "float.ckpt.gz").write_bytes(gzip.compress(content))
    (folder / "hollow.ckpt").write_bytes(b"")
    with safetensors.safe_open(folder / "float.ckpt", framework="numpy") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key).copy() for key in file.keys()}  # noqa: SIM118
    tensors["params/conv1.weight"].flat[0] = np.nan
    (folder / "nan.ckpt").write_bytes(safetensors.numpy.save(tensors, metadata))
    tensors["params/conv1.weight"] = tensors["params/conv1.weight"][..., :-1].copy()
    (folder / "shape.ckpt").write_bytes(safetensors.numpy.save(tensors, metadata))
    (folder / "cut.onnx").write_bytes((folder / "net.onnx").read_bytes()[:3000])
    exported = (folder / "net.tflite").read_bytes()
    middle = len(exported) // 2
    (folder / "changed.tflite").write_bytes(exported[:middle] + bytes([exported[middle] ^ 1]) + exported[middle + 1 :])
    for path in ("empty", "folder", "three/a", "three/b", "words/a", "bad/a", "bad/b"):
        (folder / path).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    for path in ("a.png", "three/a/0.png", "three/b/0.png"):
        Image.fromarray(pixels[0, 0]).save(folder / path)
    for path, text in (
        ("a.txt", "x"),
        ("words/a/x.txt", "x"),
        ("bad/a/x.png", "no picture"),
        ("bad/b/x.png", "no picture"),
        ("two.txt", "one\ntwo\n"),
        ("cat.txt", "a.png cat\n"),
        ("cells.csv", "a,b,label\n1,2,x\n3,nothing,y\n"),
        ("list.yaml", "- 1\n"),
        ("types.yaml", "num_bits: eight\n"),
        ("typo.yaml", "num_bit: [8, 8]\n"),
        ("layers.yaml", "layers: {conv9: {num_bits: 4}}\n"),
        ("broken.yaml", "num_bits: [8, 8\n"),
        ("mynet.py", "x = 1\n"),
        ("broken.py", "def f(:\n"),
    ):
        (folder / path).write_text(text)
    gray, labels = pixels[:, :1], np.arange(20) % 10
    for name, x, y in (
        ("few", gray, labels[:-1]),
        ("colour", pixels, labels),
        ("labels", np.repeat(gray, 4, 0), np.full(80, 12)),
        ("reals", gray[:, :, :8].astype(np.float32), labels),
    ):
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return folder


def listing(folder: Path) -> dict[str, bytes | None]:
    """Everything there, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(("typed", "names", "remedy"), USES, ids=[typed for typed, *_ in USES])
def test_a_wrong_use_gives_one_line_that_says_what_to_do(
    typed: str,
    names: str,
    remedy: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    before = listing(files)
    status, _, err = run(capsys, *shlex.split(typed))
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("qat"), err
    assert "Traceback" not in err
    assert names in err
    assert remedy in err
    assert listing(files) == before


def test_every_command_has_a_wrong_use() -> None:
    assert len(USES) >= 60
    used = {typed.split()[0] for typed, *_ in USES}
    assert set(COMMANDS) - used <= LIKE_OTHERS


def test_a_folder_in_which_nothing_may_be_written(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    monkeypatch.chdir(files)
    status, _, err = run(capsys, "train", "--data_path", "digits", "--save_path", tmp_path / "x.ckpt")
    assert (status, err.count("\n")) == (2, 1)
    assert "choose another place" in err
