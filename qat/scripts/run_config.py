"""Run the commands of a YAML file one after another: train, quantize, evaluate, export, verify.

Each section is a command, its keys are the command's flags. Paths are relative to the file. What one step writes the next ones
take. Steps that were done before, with these settings and inputs, are left out; --dry_run shows and checks all and runs none.
The file that a command writes beside its results, as lenet.ckpt.run.yaml, is such a file: it repeats them.
"""

from __future__ import annotations

import argparse
import sys

from qat.cli import INTERRUPTED, run_script
from qat.console import print_table
from qat.scripts.common.steps import CLEAR, Plan, read_plan
from qat.tables import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("file", metavar="FILE.yaml", help="what to run ('qat help run_config')")
    parser.add_argument("--dry_run", action="store_true", help="show and check the steps, run none")
    parser.add_argument("--again", action="store_true", help="run also those steps that were done before")


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns the exit status: that of the first step that fails."""
    plan = read_plan(args.file)
    with plan.in_its_folder():
        plan.check()
        if args.again:
            plan.forget()
        if args.dry_run:
            _show(plan)
            return 0
        for number, step in enumerate(plan.steps, 1):
            title = f"step {number} of {len(plan.steps)}: {step.command}"
            if plan.is_done(step):
                print(f"{title}: done before", flush=True)
                print(plan.printed(step), end="")
                continue
            print(title, flush=True)
            status = plan.run(step)
            if status:
                print(
                    f"{title} {'was interrupted' if status == INTERRUPTED else 'failed'}; call it again to go on from here"
                )
                return status
        plan.compare()
    return 0


def _show(plan: Plan) -> None:
    rows = []
    for number, step in enumerate(plan.steps, 1):
        state = "done" if plan.is_done(step) else "goes on" if plan.goes_on(step) else "to do"
        rows.append((str(number), step.command, state))
    print_table(f"{plan.path.name}: {counted(len(plan.steps), 'step')}", ("", "command", "state"), rows)
    for number, step in enumerate(plan.steps, 1):
        print(f"{number}. {step.typed()}")
    print(CLEAR)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
