"""The steps of a run file: read, checked before the first one begins, run, and left out where they are done."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qat
from qat import hints
from qat.cli import REPEATED, Parser, command_parser, main
from qat.commands import COMMANDS
from qat.data.loading import exists
from qat.errors import QatError, shortened
from qat.files import check_writable, open_file, watched_writes, write_atomically
from qat.passes.quant_config import read_yaml
from qat.reading import LARGEST_JSON, kind_of, read_file, reading
from qat.registry import suffixed
from qat.run_file import CHECKPOINT, RECORD, beside, digest, digest_of_settings, flags_of, inputs_of
from qat.scripts.common.plan import RECORDED
from qat.training.checkpoint import Checkpoint

COMMON = "common"  #: the section whose keys are of every step that has such a flag
ADVICE = (
    "each section is a command, as train, and its keys are the command's flags; 'qat help run_config' has an example"
)
CLEAR = "everything is there that the steps need; nothing was run"
NO_STEPS = ("run-config", "help", "doctor", "zoo", "data")  #: commands that are no part of a run
#: What a step gets where its section does not say it, by flag: from what earlier steps wrote.
CHECKPOINTS, FILES, FLOATS = ("ckpt_path", "input_path"), ("model",), ("float_ckpt",)
INPUTS = (*CHECKPOINTS, *FILES, *FLOATS, "teacher_ckpt", "quant_config", "test_path", "class_names", "image")
OUTPUTS = ("save_path", "file_name", "output_path", "log_path", "csv_path", "picture_path", "confusion", "out")
TO_COME = "<what an earlier step writes>"  #: stands for it while nothing has run


@dataclass
class Step:
    """One command with the flags of its section.

    Attributes:
        command: Its name.
        flags: Values by flag, as in the file, those of the common section among them.
        where: For messages: the file and the section.
    """

    command: str
    flags: dict[str, Any]
    where: str
    arguments: list[str] = field(default_factory=list)

    def typed(self) -> str:
        """As one would type it."""
        return f"qat {self.command} {shlex.join(self.arguments)}"


class Plan:
    """The steps of one file.

    Args:
        path: Of the file.
        steps: In their order.
        record: Of a run that the file repeats; empty for a file that people wrote.
    """

    def __init__(self, path: Path, steps: list[Step], record: dict[str, Any]) -> None:
        self.path, self.steps, self.record = path, steps, record
        self._settings = digest_of_settings(steps[0].flags) if record else ""
        self._checkpoints: list[str] = []
        self._files: list[str] = []
        self._floats: list[str] = []
        self._kept = path.with_name(f".{path.name}.done")
        self._done: list[dict[str, Any]] = [] if record else self._read_done()
        self._written = self._known()

    @contextlib.contextmanager
    def in_its_folder(self) -> Iterator[None]:
        """Work in the folder of the file, so that paths are relative to it."""
        before = Path.cwd()
        os.chdir(self.path.parent)
        try:
            yield
        finally:
            os.chdir(before)

    def check(self) -> None:
        """Look at all flags and paths before anything is run. Raises QatError for the first that is wrong."""
        written: list[str] = []  # what earlier steps say that they write
        unnamed = False  # whether an earlier step leaves its output's name to the command
        for number, step in enumerate(self.steps):
            parser = command_parser(step.command)
            args = self._parsed(step, parser, to_come=number > 0)
            named = [str(value) for name in OUTPUTS if (value := getattr(args, name, None))]
            for name in INPUTS:
                for path in _texts(getattr(args, name, None)):
                    there = os.path.exists(path) or path == TO_COME or unnamed or any(_fits(path, x) for x in written)
                    if not there and not (name == "teacher_ckpt" and path == "self"):
                        raise QatError(
                            f"{step.where}: {name}: there is no {path}, and no step before writes it; give a file that is "
                            "there, or leave it out where an earlier step makes it"
                        )
            data = getattr(args, "data_path", None)
            if data and not exists(data) and not any(_fits(data, x) for x in written):
                with _named(step):
                    qat.data.load(data)
            for path in named:
                with _named(step):
                    check_writable(path)
            written += named
            unnamed = unnamed or not named
        for step in self.steps:
            step.arguments = _arguments(step.flags, command_parser(step.command), step.where)
        self._compare_inputs()

    def is_done(self, step: Step) -> bool:
        """Whether it was done before, with these settings, on the same inputs, and what it made is still there."""
        number = self.steps.index(step)
        if len(self._done) <= number or "outputs" not in self._done[number]:
            return False
        was, parser = self._done[number], command_parser(step.command)
        outputs = was["outputs"]
        if any(not os.path.exists(path) or digest(path) != value for path, value in outputs.items()):
            return False
        self._pass_on(step, parser)
        if was["begun"] != self._begun(step, list(outputs)):
            return False
        self._take(list(outputs))
        return True

    def printed(self, step: Step) -> str:
        """What it printed where that is all that it did."""
        text: str = self._done[self.steps.index(step)]["printed"]
        return text

    def goes_on(self, step: Step) -> bool:
        """Whether it was begun before, with these settings, on the same inputs, and can go on where it was."""
        number = self.steps.index(step)
        parser = command_parser(step.command)
        return (
            len(self._done) > number
            and "--resume" in parser._option_string_actions
            and "outputs" not in self._done[number]
            and bool(self._done[number]["begun"] == self._begun(step, ()))
        )

    def run(self, step: Step) -> int:
        """Run it and note what it made. Returns its exit status."""
        number, parser = self.steps.index(step), command_parser(step.command)
        self._pass_on(step, parser)
        step.arguments = _arguments(step.flags, parser, step.where)
        going_on = self.goes_on(step)
        arguments = [*step.arguments, "--resume"] if going_on else step.arguments
        earlier = _earlier(self._done[number:])
        del self._done[number:]
        self._note({"begun": self._begun(step, ()), "earlier": earlier})
        heard = _Heard(sys.stdout)
        own = RECORDED.set(self._written)
        try:
            with watched_writes() as written, contextlib.redirect_stdout(heard), self._as_before(step):
                status = main([step.command, *arguments])
        finally:
            RECORDED.reset(own)
        if status:
            return status
        outputs = [str(path) for path in dict.fromkeys(written) if path.is_file()]
        if going_on and not outputs:  # it had come to its end, but for its last lines
            return self._finished(step)
        self._take(outputs)
        digests = {path: digest(path) for path in outputs if not path.endswith(beside("").name)}
        self._done.pop()
        printed = heard.text if not digests else ""
        begun = self._begun(step, outputs)
        self._note({"begun": begun, "earlier": earlier, "outputs": digests, "printed": printed})
        return 0

    @contextlib.contextmanager
    def _as_before(self, step: Step) -> Iterator[None]:
        """Give a step that repeats a run the command line of that run, which the history of a checkpoint holds: with another
        one it would have other bits. Not where the flags were changed since.
        """
        same = self.record.get("settings") == self._settings
        token = REPEATED.set(str(self.record.get("command")) if same and step is self.steps[0] else None)
        try:
            yield
        finally:
            REPEATED.reset(token)

    def _known(self) -> dict[str, str]:
        """What these steps are known to have written: digests by real path."""
        outputs = [self.record.get("outputs") or {}, *map(_outputs, self._done)]
        return {os.path.realpath(self.path.parent / path): value for each in outputs for path, value in each.items()}

    def _finished(self, step: Step) -> int:
        """What ``run`` notes of a training that was there already, where its name is known; else it is run anew."""
        path = step.flags.get("save_path")
        earlier = _earlier([self._done.pop()])
        if path is None:
            self._done.append({"begun": {}, "earlier": earlier})
            return self.run(step)
        self._take([path])
        begun = self._begun(step, [path])
        self._note({"begun": begun, "earlier": earlier, "outputs": {path: digest(path)}, "printed": ""})
        return 0

    def forget(self) -> None:
        """Begin anew; what was written stays known."""
        self._done = [{"begun": {}, "earlier": _earlier(self._done)}]

    def compare(self) -> None:
        """Say whether a run that was repeated gave the same bits."""
        outputs = self.record.get("outputs") or {}
        if not outputs:
            return
        other = [path for path, value in outputs.items() if not os.path.exists(path) or digest(path) != value]
        if other:
            print(f"note: {', '.join(other)}: not the bits of the run that {self.path.name} was written of")
        else:
            print(f"the same bits as before: {', '.join(outputs)}")

    def _compare_inputs(self) -> None:
        version = self.record.get("version")
        if version is not None and version != qat.__version__:
            print(f"note: {self.path.name} is of version {version}, this is {qat.__version__}", file=sys.stderr)
        for path, value in (self.record.get("inputs") or {}).items():
            if os.path.exists(path) and digest(path) != value:
                print(f"note: {path} is not what it was when {self.path.name} was written", file=sys.stderr)

    def _parsed(self, step: Step, parser: Parser, *, to_come: bool) -> argparse.Namespace:
        """The arguments of a step as its command will take them."""
        flags = dict(step.flags)
        if to_come:
            for action in parser._actions:
                if action.required and _flag(action) in (*CHECKPOINTS, *FILES) and not _has(flags, action):
                    flags[_flag(action)] = TO_COME
        with _named(step):
            return parser.parse_args(_arguments(flags, parser, step.where))

    def _pass_on(self, step: Step, parser: Parser) -> None:
        """Give a step what earlier ones wrote, where its section does not say it."""
        for action in parser._actions:
            name = _flag(action)
            if _has(step.flags, action) or not action.option_strings:
                continue
            if name in (*CHECKPOINTS, *FILES) and action.required and action.nargs is None and self._checkpoints:
                step.flags[name] = self._checkpoints[-1]
            elif name in FILES and action.nargs == "+" and self._files:
                step.flags[name] = list(self._files)
            elif name in FLOATS and self._floats:
                step.flags[name] = self._floats[-1]
        step.arguments = _arguments(step.flags, parser, step.where)

    def _take(self, outputs: Sequence[str]) -> None:
        """What a step wrote, for those after it."""
        for path in outputs:
            if path.endswith(CHECKPOINT):
                self._checkpoints.append(path)
                if not Checkpoint.load(path).graph.is_quantized:
                    self._floats.append(path)
            elif suffixed(path) is not None:
                self._files.append(path)

    def _begun(self, step: Step, outputs: Sequence[str]) -> dict[str, Any]:
        """What a step's results depend on."""
        parser = command_parser(step.command)
        args = parser.parse_args(step.arguments)
        flags = flags_of(parser, args)
        named = [*outputs, *(x for name in OUTPUTS for x in _texts(getattr(args, name, None)))]
        begun = {"version": qat.__version__, "command": step.command, "flags": flags, "inputs": inputs_of(flags, named)}
        found: dict[str, Any] = json.loads(json.dumps(begun))
        return found

    def _note(self, entry: dict[str, Any]) -> None:
        self._done.append(entry)
        self._written |= self._known()
        if not self.record:
            write_atomically(Path(self._kept.name), json.dumps(self._done, indent=1).encode())

    def _read_done(self) -> list[dict[str, Any]]:
        """What was noted of an earlier call; nothing where it cannot be read, so that all is run again."""
        if not self._kept.is_file():
            return []
        with contextlib.suppress(QatError, OSError), reading(self._kept, "steps", "remove it"):
            found = json.loads(read_file(self._kept, "remove it", limit=LARGEST_JSON))
            if isinstance(found, list) and all(isinstance(x, dict) and isinstance(x.get("begun"), dict) for x in found):
                whole = [x for x in found if isinstance(x.get("earlier", {}), dict)]
                return [x for x in whole if "outputs" not in x or (isinstance(x["outputs"], dict) and "printed" in x)]
        return []


def _outputs(entry: dict[str, Any]) -> dict[str, str]:
    """Digests by path of what a step wrote and, where it was run anew, what it and those after it had written before."""
    return {**entry.get("earlier", {}), **entry.get("outputs", {})}


def _earlier(entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Digests by path of what several steps wrote, of which nothing else is noted any more."""
    return {path: value for entry in entries for path, value in _outputs(entry).items()}


class _Heard:
    """Standard output that remembers what went through it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        written: int = self._stream.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def read_plan(path: str | Path) -> Plan:
    """The steps of a file.

    Args:
        path: Of a YAML file whose sections are commands.

    Returns:
        The plan, not checked yet.

    Raises:
        QatError: It is no such file.
    """
    path = Path(path).absolute()
    shown = os.path.relpath(path)
    _check_kind(path, shown)
    data = read_yaml(path, ADVICE)
    if not isinstance(data, dict) or not data:
        raise QatError(f"{shown}: holds {type(data).__name__} where sections are expected; {ADVICE}")
    record, common = (
        _section(data.pop(name, None), f"{shown}, {name}") for name in (RECORD if RECORD in data else "", COMMON)
    )
    steps = []
    for name, sections in data.items():
        commands = [x for x in COMMANDS if x not in NO_STEPS]
        command = str(name).replace("_", "-")
        if command not in commands:
            hint = hints.perhaps(str(name), commands, hints.COMMANDS)
            raise QatError(f"{shown}: there is no command {shortened(name)}{hint}; {ADVICE}")
        several = sections if isinstance(sections, list) else [sections]
        for number, section in enumerate(several, 1):
            where = f"{shown}, {name}" + f" {number}" * (len(several) > 1)
            own = _section(section, where)
            steps.append(Step(command, _with_common(command, own, common), where))
    if not steps:
        raise QatError(f"{shown}: there is no step in it; {ADVICE}")
    unused = [name for name in common if not any(name in step.flags for step in steps)]
    if unused:
        raise QatError(f"{shown}, {COMMON}: no step has a flag {unused[0]!r}; correct it or leave it out")
    return Plan(path, steps, record)


def _check_kind(path: Path, shown: str) -> None:
    """Raise QatError for what a command made, in place of the file that lies beside it, and for other binary files."""
    made = "a checkpoint" if path.suffix == CHECKPOINT else "an exported file" if suffixed(path) else None
    if made is not None and path.is_file():
        there = beside(path).is_file()
        advice = f"give {beside(shown)}, which repeats what made it" if there else "give the YAML file of a run"
        raise QatError(f"{shown}: is {made}, not a list of steps; {advice}")
    with contextlib.suppress(OSError, ValueError), open_file(path) as file:  # whose error reading it has
        if b"\0" in file.read(1 << 10):
            kind = kind_of(path) or ("is no text",)
            raise QatError(f"{shown}: {kind[0]}, not a list of steps; give the YAML file of a run")


def _section(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, dict) and True in value:  # as YAML reads a key that is called yes
        value = {"yes" if key is True else key: x for key, x in value.items()}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise QatError(f"{where}: holds {type(value).__name__} where flags and values are expected, as epochs: 3")
    return value


def _with_common(command: str, own: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    parser = command_parser(command)
    spelt = {parser._spelt(f"--{name}") for name in own}
    known = {
        name: value for name, value in common.items() if parser._spelt(f"--{name}") in parser._option_string_actions
    }
    return {name: value for name, value in known.items() if parser._spelt(f"--{name}") not in spelt} | own


def _arguments(flags: dict[str, Any], parser: Parser, where: str) -> list[str]:
    """Flags as one would type them. Raises QatError for a value that none can have."""
    arguments, positional = [], {x.dest: x for x in parser._actions if not x.option_strings}
    front: list[str] = []
    for name, value in flags.items():
        flag = parser._spelt(f"--{name}")
        action = positional.get(name, parser._option_string_actions.get(flag))
        values = value if isinstance(value, list) else [value]
        if value is None or value == [] or not all(isinstance(x, (str, bool, int, float)) for x in values):
            raise QatError(f"{where}: {name} is {shortened(value)}; give it a value, or leave it out")
        texts = [str(x).lower() if isinstance(x, bool) else str(x) for x in values]
        if name in positional:
            front += texts
        elif action is not None and action.nargs == 0:
            if not isinstance(value, bool):
                raise QatError(f"{where}: {name} is {shortened(value)}; write true or false")
            arguments += [flag] * value
        elif len(texts) == 1:
            arguments.append(f"{flag}={texts[0]}")
        elif action is not None and action.nargs is None:
            raise QatError(f"{where}: {name} is {shortened(value)}; give it one value")
        else:
            arguments += [flag, *texts]
    return [*front, *arguments]


@contextlib.contextmanager
def _named(step: Step) -> Iterator[None]:
    """Say which section an error is of."""
    try:
        yield
    except QatError as error:
        raise QatError(f"{step.where}: {error}") from None


def _flag(action: argparse.Action) -> str:
    return (
        max(action.option_strings, key=len, default=action.dest).lstrip("-") if action.option_strings else action.dest
    )


def _has(flags: dict[str, Any], action: argparse.Action) -> bool:
    names = {x.lstrip("-").replace("-", "_") for x in action.option_strings}
    return any(name.replace("-", "_") in names for name in flags)


def _texts(value: Any) -> list[str]:
    return [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, str) and x]


def _fits(path: str, output: str) -> bool:
    """Whether a path may be what a step writes that names its output so, with or without its ending, or within it."""
    return os.path.normpath(path).startswith(os.path.normpath(output))
