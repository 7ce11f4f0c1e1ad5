"""Print a script by which a shell completes commands, flags and their choices.

Put 'eval "$(qat completion bash)"' into ~/.bashrc, 'eval "$(qat completion zsh)"' into ~/.zshrc, or
'qat completion fish | source' into fish's config.fish. The script holds all that there is, so that Tab starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from qat.cli import Parser, add_command_arguments, run_script
from qat.commands import COMMANDS
from qat.console import print_whole, result

LONGEST = 60  #: characters of a description
HEADER = "# Completion of qat, by 'qat completion {}'."


class Flag(NamedTuple):
    """A flag or a positional argument of a command.

    Attributes:
        names: as "--backend"; none of a positional argument.
        text: what it says.
        choices: its values; none where any is taken.
        takes: whether a value follows.
    """

    names: tuple[str, ...]
    text: str
    choices: tuple[str, ...]
    takes: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("shell", choices=sorted(SHELLS), help="which one")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    script = SHELLS[args.shell]({name: flags_of(name) for name in COMMANDS})
    result(script=script)
    print_whole(script, end="")


def flags_of(command: str) -> list[Flag]:
    """What a command takes, by its own parser."""
    parser = Parser(prog=f"qat {command}")
    add_command_arguments(parser, importlib.import_module(f"qat.scripts.{COMMANDS[command][0]}").add_arguments)
    return [
        Flag(
            tuple(action.option_strings),
            _shortened(action.help or ""),
            tuple(str(x) for x in action.choices or ()),
            action.nargs != 0,
        )
        for action in parser._actions
    ]


def _shortened(text: str) -> str:
    """The first words of a help text, without signs that shells understand."""
    text = text.replace("%%", "%").partition("; ")[0].partition(" (default")[0]
    text = text if len(text) <= LONGEST else f"{text[:LONGEST].rpartition(' ')[0]} ..."
    return "".join(x for x in text if x not in "'\"\\`$[]:")


def _names(flags: Iterable[Flag]) -> str:
    return " ".join(name for flag in flags for name in flag.names)


def bash(commands: dict[str, list[Flag]]) -> str:
    """For bash: commands, a command's flags, their choices, else files."""
    choices, flags, first = [], [], []
    for command, found in commands.items():
        for flag in found:
            if flag.choices and flag.names:
                places = "|".join(f'"{command} {name}"' for name in flag.names)
                choices.append(f"        {places}) words={shlex.quote(' '.join(flag.choices))} ;;")
            elif flag.choices:
                first.append(f"            {command}) words={shlex.quote(' '.join(flag.choices))} ;;")
        flags.append(f"            {command}) words={shlex.quote(_names(found))} ;;")
    return "\n".join(
        [
            HEADER.format("bash"),
            "_qat() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" flag="" words="" i',
            "    COMPREPLY=()",
            '    if [ "$COMP_CWORD" -eq 1 ]; then',
            f'        COMPREPLY=($(compgen -W "{" ".join(commands)} --help --version" -- "$current"))',
            "        return",
            "    fi",
            "    for ((i = 2; i < COMP_CWORD; i++)); do  # the flag whose values come now",
            '        case "${COMP_WORDS[i]}" in -*) flag="${COMP_WORDS[i]}" ;; esac',
            "    done",
            '    if [ "${current:0:1}" = "-" ]; then',
            '        case "$command" in',
            *flags,
            "        esac",
            '    elif [ -z "$flag" ]; then',
            '        case "$command" in',
            *first,
            "        esac",
            "    else",
            '        case "$command $flag" in',
            *choices,
            "        esac",
            "    fi",
            '    [ -n "$words" ] && COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "    return 0",
            "}",
            "complete -o default -F _qat qat",
            "",
        ]
    )


def zsh(commands: dict[str, list[Flag]]) -> str:
    """For zsh, with what commands and flags are for."""
    lines = [HEADER.format("zsh"), "_qat() {", "    local -a commands", "    commands=("]
    lines += [f"        '{name}:{_shortened(COMMANDS[name][1])}'" for name in commands]
    lines += ["    )", "    if (( CURRENT == 2 )); then _describe command commands; return; fi"]
    lines += ["    case $words[2] in"]
    for command, flags in commands.items():
        lines.append(f"        {command}) _arguments -S \\")
        for flag in flags:
            values = f"({' '.join(flag.choices)})" if flag.choices else "_files"
            text = f"[{flag.text}]"
            value = f":value:{values}" * flag.takes
            lines += [f"            '*{name}{text}{value}' \\" for name in flag.names]
            if not flag.names and flag.choices:
                lines.append(f"            '2{value}' \\")
        lines.append("            '*:file:_files' ;;")
    return "\n".join(
        [
            *lines,
            "    esac",
            "}",
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }",
            "compdef _qat qat",
            "",
        ]
    )


def fish(commands: dict[str, list[Flag]]) -> str:
    """For fish, with what commands and flags are for."""
    lines = [HEADER.format("fish"), f"set -l commands {' '.join(commands)}"]
    alone = 'complete -c qat -n "not __fish_seen_subcommand_from $commands"'
    lines += [f"{alone} -f -a {name} -d '{_shortened(COMMANDS[name][1])}'" for name in commands]
    for command, flags in commands.items():
        within = f"complete -c qat -n '__fish_seen_subcommand_from {command}'"
        for flag in flags:
            values = f" -x -a '{' '.join(flag.choices)}'" if flag.choices else " -r" * flag.takes
            for name in flag.names:
                kind = "l" if name.startswith("--") else "s"
                lines.append(f"{within} -{kind} {name.lstrip('-')}{values} -d '{flag.text}'")
            if not flag.names and flag.choices:
                lines.append(f"{within} -a '{' '.join(flag.choices)}'")
    return "\n".join([*lines, ""])


SHELLS: dict[str, Callable[[dict[str, list[Flag]]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
