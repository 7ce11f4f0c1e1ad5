"""Suggestions for a mistyped or unknown flag, command or value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from qat.errors import shortened

#: Words that mean the same, this project's flags first, the likeliest before others. Of several groups with a word the first
#: counts that has a flag of the command.
FLAGS = (
    "data_path test_path basedirectory data dataset data_dir dataset_path data_folder dataset_dir data_root root train_data",
    "epochs num_epochs epoch_end qat_epochs epoch n_epochs num_epoch max_epochs epoch_size epochs_num iterations",
    "lr learning_rate qat_lr learningrate base_lr max_lr lr_max lr_init initial_lr eta",
    "batch_size batch bs batchsize minibatch mini_batch mini_batch_size train_batch_size",
    "model file exported exported_file",
    "file input in input_file params params_file params_path",
    "network net arch architecture model_name network_name model",
    "ckpt_path input_path model models ckpt checkpoint checkpoint_path checkpoint_file ckpt_file model_path model_file load "
    "load_path restore pretrained weights_path input in input_file best_checkpoint",
    "save_path file_name output_path out o checkpoint_dir name_of_experiment file output output_file output_dir out_path "
    "out_dir outdir outfile filename save save_dir save_file export_path destination dest result",
    "device_target device target_device gpu cuda cpu platform accelerator",
    "num_bits bits widths weight_bits bit width n_bits nbits bitwidth bit_width precision quant_bits num_bit",
    "file_format target format fmt export_format type",
    "backend framework engine library",
    "seed random_seed random_state rng",
    "log_path csv_path log log_file logfile log_dir csv",
    "quant_config flagfile autoq_config config cfg config_file config_path yaml quant_cfg",
    "weight_decay decay wd l2",
    "validation validation_share hold_back val valid validation_split val_split holdout validation_size",
    "teacher_ckpt teacher teacher_path distill distillation teacher_model",
    "optimizer optim optimiser opt",
    "lr_schedule schedule scheduler lr_scheduler",
    "images train_images count batches num_images n_images samples num_samples calibration_images calib_images limit",
    "image picture img photo pic",
    "picture_path picture svg svg_path png plot plot_path figure",
    "float_ckpt float float_path reference float_model float_checkpoint",
    "sparsity final_sparsity ratio pruning prune_ratio pruning_ratio target_sparsity pruning_rate",
    "quant_delay delay quantization_delay",
    "no_verify skip_verify noverify verify",
    "early_stopping patience",
    "jobs ray workers num_workers n_jobs threads parallel",
    "method calibration_method calib_method algorithm",
)
COMMANDS = (
    "eval-quant eval evaluate test accuracy validate score",
    "run predict infer inference classify",
    "calibrate ptq quantize quantise post-training convert",
    "train-quant qat finetune fine-tune quant-train",
    "export deploy save",
    "summary info show describe print inspect stats",
    "data download fetch dataset",
    "doctor check env version",
    "diagnose debug analyze analyse sqnr",
    "import convert load import-model import-network from-pretrained",
    "import-params load-params load-weights",
)
VALUES = (
    "torch pytorch pt",
    "keras tensorflow tf TFLITE litert lite",
    "mindspore ms MINDIR",
    "GPU cuda nvidia",
    "Ascend npu",
    "momentum sgd",
    "adam adamw",
    "entropy kl kld kullback-leibler",
    "fetch download get pull",
)
CLOSE = 0.6  #: as difflib counts


def meant(word: str, known: Iterable[str], groups: Sequence[str]) -> str | None:
    """The known name that was probably meant.

    Args:
        word: what was typed.
        known: the names that there are.
        groups: words that mean the same, separated by spaces, the likeliest first.

    Returns:
        A synonym, or the name spelt most like it; None where none is close.
    """
    return synonym(word, known, groups) or _similar(word, known)


def perhaps(word: str, known: Iterable[str], groups: Sequence[str] = ()) -> str:
    """ ", perhaps X is meant" for the end of a message; empty where nothing is close."""
    name = meant(word, known, groups)
    return f", perhaps {name} is meant" if name else ""


def unknown(what: str, value: object, known: Iterable[str]) -> str:
    """What a message says of a value that is none of those there are, up to the choice of one.

    Args:
        what: the kind of thing, as "backend".
        value: what was given, of any type.
        known: the names that there are.
    """
    known = tuple(known)
    hint = perhaps(value, known, VALUES) if isinstance(value, str) else ""
    return f"{what} {shortened(value)} is unknown{hint}: choose one of {', '.join(known)}"


def synonym(word: str, known: Iterable[str], groups: Sequence[str]) -> str | None:
    """The known name that is equal but for dashes and capitals, or stands in one group with it."""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_plain(name), name)
    if _plain(word) in names:
        return names[_plain(word)]
    for group in groups:
        words = [_plain(each) for each in group.split()]
        found = [names[each] for each in words if each in names]
        if _plain(word) in words and found:
            return found[0]
    return None


def _similar(word: str, known: Iterable[str]) -> str | None:
    plain = _plain(word)

    def score(name: str) -> float:
        other = _plain(name)
        held = 0.0 if min(len(plain), len(other)) < 3 else 1.0 if plain in other else 0.5 if other in plain else 0.0
        return held + difflib.SequenceMatcher(None, plain, other).ratio()

    best = max(known, key=score, default=None)
    return best if best is not None and score(best) >= CLOSE else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
