"""The command lines beside ``vmamba.run``: what they have in common."""

import argparse
from typing import NoReturn


def positive(text: str) -> int:
    """An option's whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be a whole number from 1 on")
    return int(text)


def port(text: str) -> int:
    """An option's number of a port on this machine."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port is a whole number from 1 to 65535")
    return int(text)


def duration(text: str) -> float:
    """An option's seconds, above 0 and of at most a day."""
    try:
        if 0 < (value := float(text)) <= 86400:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text}: it must be a number of seconds above 0, at most 86400")


class Parser(argparse.ArgumentParser):
    """For ``prog="python -m vmamba.NAME"``: says what is wrong in one line, without the usage (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.split()[2].replace('.', ' ')}: {message}; see --help\n")
