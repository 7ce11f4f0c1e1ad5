"""The file written beside what a command made, which says how: ``qat run-config`` repeats the command from it.

``lenet.ckpt`` gets ``lenet.ckpt.run.yaml``:

    run:                          # for people and for comparison
      version: 0.9.0
      command: qat train --data_path digits --epochs 3
      settings: sha256:...        # of the section below, which tells whether it was changed since
      inputs: {}                  # SHA-256 of each file and folder that was read
      outputs: {lenet.ckpt: ...}  # and of what was written
    train:                        # the flags; paths are relative to this file
      data_path: digits
      epochs: 3
      seed: 0
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qat.errors import QatError
from qat.files import absolute, sha256_of, watched_writes, write_atomically
from qat.passes.quant_config import written_yaml
from qat.registry import suffixed
from qat.training.devices import threads_in_use
from qat.training.workers import this_worker

SUFFIX = ".run.yaml"
RECORD = "run"  #: the section that is no command
CHECKPOINT = ".ckpt"
ALWAYS = ("seed", "backend", "device_target")  #: what bits depend on, written where it was not given, too
#: Flags of how a command speaks, and of how far it had come; they change nothing of what it makes.
OTHERS = ("help", "resume", "quiet", "json", "yes", "dry_run", "trust", "flagfile")
#: The flags whose values are paths, of all commands.
PATHS = {"arduino", "autoq_config", "basedirectory", "bench", "best_checkpoint", "certificates"}
PATHS |= {"checkpoint_dir", "ckpt_path", "class_names", "class_weights", "compare", "confusion", "csv_path"}
PATHS |= {"data", "data_path", "file", "file_name", "flagfile", "float_ckpt", "image", "input_path"}
PATHS |= {"last_checkpoint", "log_path", "model", "models", "out", "output_path", "picture_path", "quant_config"}
PATHS |= {"reference", "report", "result_path", "rows", "samples", "save_model_name", "save_path", "teacher_ckpt"}
PATHS |= {"test_path", "yaml"}
OR_NAMES = ("data_path", "model")  #: of those, the ones whose values may be names, too
NUMBERS = "class_weights"  #: the one whose values may be numbers
LARGEST = 1 << 28  #: bytes of a folder whose contents are digested; of a larger one the names and sizes are

Run = Callable[[argparse.Namespace], int | None]


def recorded(run: Run, parser: argparse.ArgumentParser) -> Run:
    """The same command, which writes its run file where it made a checkpoint or an exported file.

    Args:
        run: what the command does.
        parser: of its arguments.

    Returns:
        What to call in place of ``run``.
    """

    def running(args: argparse.Namespace) -> int | None:
        asked = argparse.Namespace(**vars(args))  # commands settle some of their arguments while they run
        with watched_writes() as written:
            status = run(args)
        if not status and not this_worker().rank:
            made = [path for path in written if path.suffix == CHECKPOINT or suffixed(path)]
            if made and not any(str(path).endswith(SUFFIX) for path in written):  # a step of run-config wrote its own
                _write(parser, asked, made[-1], written)
        return status

    return running


def is_path(flag: str, value: str) -> bool:
    """Whether the value of a flag is a path.

    Args:
        flag: its name, with or without dashes before it, and with - or _ between words.
        value: what was given.

    >>> from qat import run_file
    >>> run_file.is_path("--save-path", "lenet.ckpt"), run_file.is_path("optimizer", "adam")
    (True, False)
    """
    name = _name(flag)
    return name in PATHS and bool(value) and not (name == NUMBERS and _is_number(value))


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


def command_line(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> str:
    """The command as it was typed, but for the spelling of paths, so that one run has one line: a path in the working directory
    is relative to it, any other one absolute.

    Args:
        parser: of the command.
        arguments: what followed its name.

    Returns:
        A line for a shell.
    """
    words, flag = parser.prog.split(), ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        action = parser._option_string_actions.get(name)
        if action is not None or argument.startswith("--"):
            flag = max(action.option_strings, key=len) if action is not None else name
            words.append(f"{name}={_spelt(flag, value)}" if equals else argument)
        else:
            words.append(_spelt(flag, argument))
    return shlex.join(words)


def _spelt(flag: str, value: str) -> str:
    """The value of a flag, a path in its one spelling."""
    if not is_path(flag, value) or (_name(flag) in OR_NAMES and not os.path.exists(value)):
        return value
    found = absolute(value)
    inside = os.path.relpath(found)
    return found if inside.split(os.sep)[0] == os.pardir else inside


def beside(path: str | Path) -> Path:
    """Where the run file of a checkpoint or an exported file is.

    >>> from qat import run_file
    >>> run_file.beside("out/lenet.ckpt").name
    'lenet.ckpt.run.yaml'
    """
    return Path(f"{path}{SUFFIX}")


def digest(path: str | Path) -> str:
    """The SHA-256 of a file, or of the names, sizes and contents in a folder; of a folder of more than ``LARGEST`` bytes the
    contents are left out.

    Args:
        path: of the file or folder.

    Returns:
        "sha256:" and its hexadecimal digits, or "names-and-sizes-sha256:" and such.

    Raises:
        QatError: it cannot be read.
    """
    path = Path(path)
    try:
        if path.is_file():
            return f"sha256:{sha256_of(path)}"
        files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.endswith(SUFFIX))
        sizes = [each.stat().st_size for each in files]
        whole, total = sum(sizes) <= LARGEST, hashlib.sha256()
        for each, size in zip(files, sizes, strict=True):
            content = sha256_of(each) if whole else ""
            total.update(f"{each.relative_to(path).as_posix()}\n{size}\n{content}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise QatError(f"{path}: cannot be read ({error.strerror or error}); its digest is part of the run") from None
    return f"{'' if whole else 'names-and-sizes-'}sha256:{total.hexdigest()}"


def digest_of_settings(flags: Mapping[str, Any]) -> str:
    """The SHA-256 of a command's section: where it is that of the record, nobody has changed the flags.

    Args:
        flags: values by flag.

    Returns:
        "sha256:" and its hexadecimal digits.
    """
    return f"sha256:{hashlib.sha256(json.dumps(flags, sort_keys=True).encode()).hexdigest()}"


def inputs_of(flags: Mapping[str, Any], outputs: Sequence[str | Path] = ()) -> dict[str, str]:
    """The digests of what a command's flags name and that is there.

    Args:
        flags: values by flag.
        outputs: what the command wrote, which are no inputs.

    Returns:
        Digests by path as it was given.
    """
    own = {os.path.realpath(path) for path in outputs}
    given = [str(x) for name, value in flags.items() for x in _listed(value) if is_path(name, str(x))]
    return {
        text: digest(text)
        for text in dict.fromkeys(given)
        if os.path.exists(text) and os.path.realpath(text) not in own and not _holds(text, own)
    }


def _holds(folder: str, paths: set[str]) -> bool:
    """Whether it is a folder into which the command wrote."""
    return any(path.startswith(os.path.realpath(folder) + os.sep) for path in paths)


def _listed(value: Any) -> list[Any]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [x for x in values if isinstance(x, (str, Path))]


def flags_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """The flags of a command as ``run-config`` takes them: those that were given, and those that bits depend on.

    Args:
        parser: of the command.
        args: its arguments.

    Returns:
        Values by the name of the flag, as text, numbers, true or lists.
    """
    found: dict[str, Any] = {}
    for action in parser._actions:
        name = action.dest
        value = getattr(args, name, None)
        wanted = name in args.given or name in ALWAYS or not action.option_strings
        if name in OTHERS or not wanted or value is None or (value is False and action.nargs == 0):
            continue
        flag = max(action.option_strings, key=len, default=name).lstrip("-")
        found[flag] = _plain(value)
    if "threads" in args and threads_in_use() is not None:  # sums are taken in another order by others
        found["threads"] = threads_in_use()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float)) else str(value)


def _write(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    made: Path,
    written: Sequence[Path],
) -> None:
    import qat

    command = parser.prog.removeprefix("qat ").removesuffix(".py").replace("_", "-")
    flags, path = flags_of(parser, args), beside(made)
    outputs = {_relative(each, made.parent): digest(each) for each in dict.fromkeys(written) if each.is_file()}
    inputs = {_relative(each, made.parent): value for each, value in inputs_of(flags, written).items()}
    begun = [str(each) for each in written]

    def moved(name: str, value: Any) -> Any:
        """A path relative to this file: of what is there, or the beginning of what was written."""
        if isinstance(value, list):
            return [moved(name, each) for each in value]
        if not isinstance(value, str) or not is_path(name, value):
            return value
        if os.path.exists(value) or any(each.startswith(value) for each in begun if os.sep in value):
            return _relative(value, made.parent)
        return value

    section = {name: moved(name, value) for name, value in flags.items()}
    record = {
        "version": qat.__version__,
        "command": args.command_line,
        "settings": digest_of_settings(section),
        "inputs": inputs,
        "outputs": outputs,
    }
    head = f"# Written by qat: 'qat run-config {path.name}' repeats what made {made.name}.\n"
    text = written_yaml({RECORD: record, command: section})
    write_atomically(path, (head + text).encode(errors="backslashreplace"))  # of a name that is no UTF-8


def _relative(path: str | Path, folder: Path) -> str:
    """As it is where it has a folder of its own name only, else seen from ``folder``."""
    if os.path.isabs(path) and not os.path.isabs(folder):
        return str(path)
    return os.path.relpath(path, folder)
