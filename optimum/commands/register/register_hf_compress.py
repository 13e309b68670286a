"""Adds `optimum-cli compress`, which passes everything after it on to the commands of `hf-compress`.

Optimum imports this file whenever `optimum-cli` starts, and stops when the import fails: nothing but Optimum itself
may be imported at its top. The folders above are a namespace shared with Optimum: none may hold an `__init__.py`.
"""

import sys
from argparse import REMAINDER

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


class CompressCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(name="compress", help="Prune, distil and measure vision models.")

    @staticmethod
    def parse_args(parser):
        parser.prefix_chars = ""  # argparse then sees no options, not even its own --help, and leaves all to us
        parser.add_argument("arguments", nargs=REMAINDER)

    def run(self):
        try:
            from hf_compress.cli import main
        except Exception as error:
            sys.exit(f"error: hf-compress cannot be imported ({error}): install it again")
        main(self.args.arguments, program="optimum-cli compress")


REGISTER_COMMANDS = [CompressCommand]
