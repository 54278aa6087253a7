"""The command lines beside ``vmamba.run``: what they have in common."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """For ``prog="python -m vmamba.NAME"``: says what is wrong in one line, without the usage (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[2].replace('.', ' ')}: {message}; see --help\n")
