"""A wrong flag or command is refused by one line that names the one that was probably meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from command import run

import qat
from qat import networks
from qat.training.devices import choose_device

#: command and what was typed -> the flag that is meant.
MEANT = """
train --data: --data_path            train --dataset: --data_path          train --model: --network
train --epoch: --epochs              train --num_epochs: --epochs         train --learning_rate: --lr
train --batch: --batch_size          train --bs: --batch_size
train --checkpoint: --ckpt_path      train --net: --network               train --output: --save_path
train --device: --device_target      train --wd: --weight_decay           train --val: --validation
train --smoothing: --label_smoothing  train --patience: --early_stopping   train --optim: --optimizer
train --lrschedule: --lr_schedule    train --Epochs: --epochs             train --backned: --backend
train-quant --bits: --num_bits       train-quant --ckpt: --ckpt_path      train-quant --config: --quant_config
train-quant --teacher: --teacher_ckpt
train-quant --delay: --quant_delay   calibrate --samples: --images        calibrate --model: --ckpt_path
eval --data: --data_path             eval --checkpoint: --ckpt_path       eval-quant --ckpt: --ckpt_path
export --format: --file_format       export --out: --file_name            export --output_path: --file_name
export -o: --file_name               train -o: --save_path
verify --checkpoint: --ckpt_path     verify --file: --model               verify --data: --data_path
compress --num_bits: --bits          compress --ckpt_path: --input_path   compress --out: --output_path
compile --format: --target           compile --ckpt: --input_path         evaluate --ckpt_path: --input_path
run --checkpoint: --input_path       run --img: --image                   score --ckpt: --model
train-gtc --epochs: --num_epochs     train-gtc --lr: --learning_rate      train-gtc --output: --name_of_experiment
train-lenet5 --epochs: --epoch-end   train-lenet5 --bs: --batch-size
train-lenet5 --device_target: --device                                    test-lenet5 --ckpt: --best-checkpoint
train-yournet --num_epochs: --epoch-end                                   train-yournet --bs: --batch-size
train-svhn --bits: --widths          train-svhn --num_epochs: --epochs    train-svhn --workers: --jobs
search --num_trials: --trials        run-autoq --config: --flagfile       prune --sparsity: --ratio
sensitivity --num_bits: --bits       data --output: --out                 demo --output: --out
create-data --num_images: --count    import-params --input: --file        export-params --output: --file
search-architecture --num_epochs: --epochs                                train-and-quantize --data: --data_path
diagnose --svg: --picture_path       diagnose --csv: --csv_path           diagnose --float: --float_ckpt
summary --checkpoint: --ckpt_path    training-diagnostics --output: --out  compare-models --output: --out
"""
CASES = [entry.strip() for line in MEANT.strip().splitlines() for entry in line.split("  ") if entry.strip()]


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_flag_names_the_one_that_is_meant(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed, meant = case.split(": ")
    command, flag = typed.split()
    for arguments in ([flag, "x"], [f"{flag}=x"]):
        status, out, err = run(capsys, command, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith(f"qat {command}: error: unknown argument {arguments[0]}, perhaps {meant} is meant; 'qat ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--prune"], "unknown argument --prune, which belongs to train-svhn;"),
        (["eval", "--folds", "3"], "unknown argument --folds, which belongs to train-svhn;"),
        (["doctor", "--file_format=C"], "unknown argument --file_format=C, which belongs to export;"),
        (["train-lenet5", "--lr", "1"], "which belongs to train, train-quant, train-and-quantize and others;"),
        (["train", "--data_path", "digits", "extra"], "unknown argument extra, a value without a flag before it;"),
        (["export", "lenet.ckpt"], "required: --ckpt_path, --file_name; lenet.ckpt has no flag before it;"),
        (["bench", "lenet.c", "--trust"], "required: --model; lenet.c has no flag before it;"),
        (["summary", "lenet.ckpt"], "--network is required; lenet.ckpt has no flag before it;"),
        (["export", "--file_name", "lenet"], "are required: --ckpt_path; 'qat export --help'"),
        (["train-quant", "--num_bits", "4,8"], "invalid int value: '4,8', several are given apart: 4 8;"),
        (["train", "--epochs", "4,8"], "invalid int value: '4,8';"),
        (
            ["summary", "--network", "lenet.ckpt"],
            "is named as a checkpoint is, whose network is in it; --ckpt_path takes",
        ),
        (["eval", "--xyzzy"], "unknown argument --xyzzy; 'qat eval --help'"),
        (["--verison"], "unknown argument --verison, perhaps --version is meant;"),
        (["quantize"], "there is no command 'quantize', perhaps calibrate is meant"),
        (["predict"], "there is no command 'predict', perhaps run is meant"),
        (["finetune"], "there is no command 'finetune', perhaps train-quant is meant"),
        (["train_quant"], "there is no command 'train_quant', perhaps train-quant is meant"),
        (["train-q"], "there is no command 'train-q', perhaps train-quant is meant"),
        (["xyzzy"], "there is no command 'xyzzy'; 'qat --help'"),
    ],
)
def test_what_else_is_unknown(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_value_that_begins_with_a_dash_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("-1", "-0.5", "-.5"):
        _, _, err = run(capsys, "train", "--lr", value)
        assert "unknown argument" not in err


#: command and what was typed -> the value that is meant; None: nothing is close.
VALUES = """
train --backend pytorch: torch       train --backend tensorflow: keras     train --backend Torhc: torch
train --device_target cuda: GPU      train --optimizer sgd: momentum       train --optimizer adamw: adam
train --lr_schedule cos: cosine      train --network lenet5: lenet         train --network resnet: resnet8
train --network foo: None            train --backend jax: None             export --file_format onx: ONNX
export --file_format tf: TFLITE      data mnst: mnist                      compile --target onxn: onnx
train-lenet5 --device cuda0: cuda    verify --backend pytorch: torch       prune --method slim: slimming
calibrate --method kl: entropy       zoo download: fetch
"""


@pytest.mark.parametrize(
    "case", [entry.strip() for line in VALUES.strip().splitlines() for entry in line.split("  ") if entry.strip()]
)
def test_a_wrong_value_names_the_one_that_is_meant(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    typed, meant = case.split(": ")
    needed = [] if not typed.startswith("train --") else ["--data_path", "digits"]
    status, out, err = run(capsys, *typed.split(), *needed)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert ("perhaps" in err) == (meant != "None"), err
    assert meant == "None" or f", perhaps {meant} is meant" in err, err


@pytest.mark.parametrize(
    ("act", "meant"),
    [
        (lambda: qat.backend("pytorch"), "torch"),
        (lambda: qat.backend("tensorflow"), "keras"),
        (lambda: qat.target("onx"), "ONNX"),
        (lambda: qat.target("tensorflow"), "TFLITE"),
        (lambda: qat.Optimizer("sgd"), "momentum"),
        (lambda: qat.Recipe(lr_schedule="cosin"), "cosine"),
        (lambda: networks.create("lenet5"), "lenet"),
        (lambda: choose_device("cuda", ["CPU"], "torch"), "GPU"),
    ],
)
def test_a_wrong_value_in_python_too(act: Callable[[], object], meant: str) -> None:
    with pytest.raises(qat.QatError, match=f"is unknown, perhaps {meant} is meant"):
        act()
