"""The ``qat`` command, and how every script runs: arguments, errors and exit status in one place."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from qat import __version__, hints
from qat.commands import COMMANDS, listed
from qat.console import LastingOutput, PlainOutput, Report, note, reporting, width
from qat.errors import QatError, QatWarning, one_line
from qat.extras import how_to_install
from qat.plugins import import_own
from qat.reading import read_text, reading
from qat.run_file import command_line, recorded
from qat.tables import folded
from qat.training.devices import THREAD_VARIABLES, free_cores, use_threads
from qat.training.log import progress
from qat.training.workers import this_worker

USER_MISTAKE, INTERRUPTED = 2, 130  #: exit statuses
MOST_FLAGS = 10_000  #: lines of all flag files
#: The command line of a run that is repeated, in place of the one that repeats it: histories hold it.
REPEATED: ContextVar[str | None] = ContextVar("repeated", default=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console command.

    Args:
        arguments: What follows ``qat``; by default the process's own.

    Returns:
        The exit status: 0, 1 where codes differ or a training failed, 2 for a mistake of the user, 130 where interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(
        prog="qat",
        description="Quantization-aware training whose integers are the integers of deployment.",
        epilog=f"{listed()}\n\n'qat COMMAND --help' lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="qat COMMAND [options]",
    )
    parser.add_argument("--version", action="version", version=f"qat-engine {__version__}")
    if not arguments:
        parser.print_help()
        return USER_MISTAKE
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    try:
        command = parser.parse_args(arguments[:1]).command
        if command not in COMMANDS:
            parser.error(f"there is no command {command!r}{hints.perhaps(command, COMMANDS, hints.COMMANDS)}")
        module = importlib.import_module(f"qat.scripts.{COMMANDS[command][0]}")
    except QatError as error:
        print(f"qat: error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    return run_script(module.add_arguments, module.run, module.__doc__, arguments[1:], prog=f"qat {command}")


class Planned(Exception):  # noqa: N818 (it is no error)
    """Ends a command that was asked what it would do (--dry_run)."""


def command_parser(command: str) -> Parser:
    """The parser of a command's arguments.

    Args:
        command: One of ``COMMANDS``.

    Returns:
        A parser that raises QatError.
    """
    module = importlib.import_module(f"qat.scripts.{COMMANDS[command][0]}")
    parser = Parser(
        prog=f"qat {command}", description=module.__doc__, formatter_class=_HelpFormatter, allow_abbrev=False
    )
    add_command_arguments(parser, module.add_arguments)
    return parser


class Parser(argparse.ArgumentParser):
    """Arguments whose mistakes are one line, with the name that was probably meant."""

    _parsed: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Raise QatError in place of argparse's exit, so that every mistake ends in one place."""
        if message.endswith("required") or "are required:" in message:
            message += "".join(f"; {one_line(x)} has no flag before it" for x in self._values_alone()[:1])
        raise QatError(f"{message}; '{self.prog} --help' says what it takes")

    def _values_alone(self) -> list[str]:
        """Those without a flag before them. Nothing is required any more: for a message, with which parsing ends."""
        needed: list[Any] = [*self._actions, *self._mutually_exclusive_groups]
        for each in needed:
            each.required = False
        return [x for x in self.parse_known_args(self._parsed)[1] if not x.startswith("-")]

    def format_help(self) -> str:
        """As argparse's own, with a usage that names what has to be given alone: all options would be a page of it."""
        if self.usage is None:
            self.usage = folded(f"{self.prog} {self._required()}[options]", width() - len("usage: ")).replace("%", "%%")
        return super().format_help()

    def _required(self) -> str:
        """What has to be given, each with a space behind it."""
        together = {id(x): group for group in self._mutually_exclusive_groups for x in group._group_actions}
        words = []
        for action in self._actions:
            group = together.get(id(action))
            if group is not None and group.required and action is group._group_actions[0]:
                words.append(f"({' | '.join(map(self._usage_of, group._group_actions))}) ")
            elif not action.option_strings:
                words.append(f"[{action.metavar or action.dest}] " if action.nargs in ("?", "*") else f"{action.dest} ")
            elif action.required:
                words.append(f"{self._usage_of(action)} ")
        return "".join(words)

    def _usage_of(self, action: argparse.Action) -> str:
        return f"{action.option_strings[0]} {action.metavar or action.dest.upper()}"

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        """The arguments, with those of each flag file in its place; ``given`` among them are the names of those that were
        given, be it with the value of the default.
        """
        files = _flag_files(args)
        typed = [self._spelt(x) for x in args]
        args = [self._spelt(x) for x in _expanded(args, files)] if files else typed
        self._parsed = args
        unknown = self._unknown_flags(args)  # first, since a wrong name is why a required flag is missing
        if not unknown:
            found, unknown = self.parse_known_args(args)
        if unknown:
            where = "" if unknown[0] in typed else f" in {' or '.join(files)}"
            self.error(self._unknown(unknown[0], where))
        # Once more without defaults: what is there then was given.
        defaults = [(action, action.default) for action in self._actions if action.option_strings]
        own, self._defaults = self._defaults, {}
        try:
            for action, _ in defaults:
                action.default = argparse.SUPPRESS
            given, _ = self.parse_known_args(args)
        finally:
            self._defaults = own
            for action, default in defaults:
                action.default = default
        found.given = frozenset(vars(given))
        return found

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """A choice in capitals or small letters, as onnx for ONNX."""
        meant = [x for x in action.choices or () if isinstance(x, str) and x.lower() == arg_string.lower()]
        try:
            return meant[0] if len(meant) == 1 else super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if "," in arg_string and action.nargs not in (None, "?"):
                error.message += f", several are given apart: {arg_string.replace(',', ' ')}"
            raise

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's own, with the choice that was probably meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = [x for x in action.choices or () if isinstance(x, str)]
            error.message += hints.perhaps(str(value), choices, hints.VALUES)
            raise

    def _spelt(self, argument: str) -> str:
        """A flag with - for _, or _ for -, as this command spells it; everything else as it is."""
        flag, equals, value = argument.partition("=")
        if flag in self._option_string_actions or not flag.startswith("--"):
            return argument
        known = {name.replace("-", "_"): name for name in self._option_string_actions}
        return known.get(flag.replace("-", "_"), flag) + equals + value

    def _unknown_flags(self, args: Sequence[str]) -> list[str]:
        """Those that look like flags and are none of this command."""
        known = self._option_string_actions
        flags = [x for x in itertools.takewhile(lambda x: x != "--", args) if re.match(r"--?[^\W\d]", x)]
        return [x for x in flags if x.partition("=")[0] not in known and (x[:2] == "--" or x[:2] not in known)]

    def _unknown(self, argument: str, where: str) -> str:
        flag, own = argument.partition("=")[0], self._option_string_actions
        text = f"unknown argument {argument}{where}"
        if not flag.startswith("-"):
            return f"{text}, a value without a flag before it"
        if hints.synonym(flag, own, hints.FLAGS) is None:
            others = [name for name, flags in _flags_of_commands().items() if flag in flags]
            if others:
                return f"{text}, which belongs to {', '.join(others[:3])}{' and others' * (len(others) > 3)}"
        return text + hints.perhaps(flag, own, hints.FLAGS)


def _flags_of_commands() -> dict[str, set[str]]:
    """Command -> its flags. Imports them all: for a message alone."""
    found = {}
    for name, (module, _) in COMMANDS.items():
        parser = Parser(add_help=False)
        add_command_arguments(parser, importlib.import_module(f"qat.scripts.{module}").add_arguments)
        found[name] = set(parser._option_string_actions)
    return found


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is something to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or action.required:
            return action.help
        if isinstance(action.default, list):
            values = " ".join(str(value).lower() for value in action.default).replace("%", "%%")
            return f"{action.help} (default: {values})"
        return super()._get_help_string(action)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _noting() -> Iterator[None]:
    """Print each QatWarning as a note of one line, once, and other warnings as they are."""
    printed = set()
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, QatWarning):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in printed:
            printed.add(str(message))
            note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", QatWarning)
        warnings.showwarning = show
        yield


def add_command_arguments(
    parser: argparse.ArgumentParser, add_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """A command's own arguments, and those that every command has."""
    add_arguments(parser)
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="run this module first, which defines cells of your own that a checkpoint holds; may be given several times",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--quiet", action="store_true", help="print results, notes and errors alone")
    output.add_argument(
        "--json", action="store_true", help="print the results as one JSON document ('qat help commands')"
    )


@_noting()
def run_script(
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int | None],
    description: str | None,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
) -> int:
    """Parse, run, and turn a user's mistake into one line on standard error and exit status 2.

    Where standard output is closed or can take no more, the work is done all the same, and its exit status counts; only a
    reader that has gone, as head, may go without a word.

    With --json, standard output gets one document, also where there is an error, and all else goes to standard error.

    Args:
        add_arguments: Adds the command's arguments to a parser.
        run: Does its work; returns the exit status, None for 0.
        description: Of the command, for its help.
        arguments: By default the process's own.
        prog: The command's name in its help and its errors; by default the process's own.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = Parser(prog=prog, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    add_command_arguments(parser, add_arguments)
    # A batch system ends a job by SIGTERM: clean up as for Ctrl-C. A shell's background job ignores SIGINT itself.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    report = Report("--json" in arguments)
    try:
        if this_worker().rank or sys.stdout is None:  # the first of several workers speaks for all
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for as long as the process lives)
        args = parser.parse_args(arguments)
        args.command_line = REPEATED.get() or command_line(parser, arguments)
        args.chosen_threads = _choose_threads(args)
        output = LastingOutput(sys.stdout)
        plain = PlainOutput(output)
        report = Report(args.json, plain if args.quiet or args.json else None)
        with _others(args, plain) as others, redirect_stdout(others), reporting(report), progress():
            for module in vars(args).pop("imports"):
                import_own(module)
            try:
                status = recorded(run, parser)(args) or 0
            except Planned:
                status = 0
            others.flush()
        plain.flush()
        if args.json:
            output.write(f"{_document(parser, report, status)}\n")
        output.flush()
        if output.lost is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at the end
            if not isinstance(output.lost, BrokenPipeError):
                reason = output.lost.strerror or output.lost
                print(
                    f"{parser.prog}: error: what it prints cannot be written ({reason}); its work is done",
                    file=sys.stderr,
                )
                status = status or USER_MISTAKE
        return status
    except QatError as error:
        return _failed(parser, report, error.exit_status, f"error: {error}")
    except KeyboardInterrupt:
        return _failed(parser, report, INTERRUPTED, "interrupted; a file that was saved before is whole")
    except MemoryError:
        return _failed(parser, report, USER_MISTAKE, "error: it needs more memory than there is; use less at a time")
    except BrokenPipeError:  # the reader of --help, as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a name that no file can have, a disk that fails
        where = f"{one_line(error.filename)}: " if error.filename else ""
        text = f"error: {where}{one_line(error.strerror or error)}; give another place"
        return _failed(parser, report, USER_MISTAKE, text)


@contextlib.contextmanager
def _others(args: argparse.Namespace, plain: PlainOutput) -> Iterator[PlainOutput]:
    """Where everything goes but results, notes and errors."""
    if args.quiet:
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            yield PlainOutput(nothing)
    else:
        yield PlainOutput(LastingOutput(sys.stderr)) if args.json else plain


def _document(parser: argparse.ArgumentParser, report: Report, status: int, **more: Any) -> str:
    name = parser.prog.removeprefix("qat ")
    return report.document(command=name, version=__version__, exit_status=status, **more)


def _failed(parser: argparse.ArgumentParser, report: Report, status: int, text: str) -> int:
    """Say on standard error why a command ended, and in a document where that is wanted. Returns the exit status."""
    print(f"{parser.prog}: {text}", file=sys.stderr)
    if report.as_json:
        with contextlib.suppress(OSError):
            print(_document(parser, report, status, error=text.removeprefix("error: ")), flush=True)
    return status


def _choose_threads(args: argparse.Namespace) -> int | None:
    """Set the threads of frameworks, none of which is imported yet: those of --threads, else the cores that are free.

    Returns the number that was chosen here; None where the user has.
    """
    if getattr(args, "threads", None) is not None:
        use_threads(args.threads)
        return None
    if any(os.environ.get(name) for name in THREAD_VARIABLES):
        return None
    count = free_cores()
    use_threads(count)
    return count


def _flag_files(arguments: Sequence[str]) -> list[str]:
    """The files that --flagfile=FILE or --flagfile FILE names."""
    names = []
    for number, argument in enumerate(arguments):
        option, separator, name = argument.partition("=")
        if option in ("-flagfile", "--flagfile"):
            names.append(name if separator else "".join(arguments[number + 1 : number + 2]))
    return names


def _expanded(arguments: Sequence[str], files: Sequence[str]) -> list[str]:
    """The arguments, with those of each flag file in its place, as absl reads such files.

    Raises QatError without absl-py, and for a file that cannot be read.
    """
    try:
        from absl import flags
    except ModuleNotFoundError:
        raise QatError(f"--flagfile needs absl-py, which is not installed: {how_to_install('study')}") from None
    for name in files:  # absl prints two lines of its own where there is none
        if not name or not Path(name).expanduser().exists():
            raise QatError(f"--flagfile {name!r}: there is no such file; give one with one --name=value a line")
    advice = "give a text file with one --name=value a line"
    for name in files:
        try:
            _check_flag_file(name, (), [0])
        except QatError as error:
            raise QatError(f"--flagfile {name}: cannot be read ({str(error).rpartition(';')[0]}); {advice}") from None
    with reading(f"--flagfile {' or '.join(files)}", "flags", advice):
        expanded: list[str] = flags.FlagValues().read_flags_from_files(list(arguments))
    return expanded


def _check_flag_file(name: str, within: tuple[str, ...], lines: list[int]) -> None:
    """Raise QatError where a flag file, or one that it names, cannot be read or includes itself, or where all have more than
    MOST_FLAGS lines: absl would follow them without end. lines: how many there were so far.
    """
    path = os.path.realpath(os.path.expanduser(name))
    if path in within:
        raise QatError(f"{name}: includes itself, directly or through others;")
    own = [line.strip() for line in read_text(path, "").splitlines()]
    lines[0] += len(own) + 1
    if lines[0] > MOST_FLAGS:
        raise QatError(f"{name}: there are more than {MOST_FLAGS:,} lines;")
    for other in filter(None, _flag_files(own)):
        _check_flag_file(other, (*within, path), lines)


if __name__ == "__main__":
    sys.exit(main())
