"""The one exception for a user's mistake: a readable line, exit code 2, no traceback."""


class UserError(Exception):
    """One line that names the bad value, the valid choices and the remedy."""
