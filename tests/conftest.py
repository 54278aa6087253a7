"""What holds for every test: Ctrl-C means what it says, also where a shell started the tests in the background."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
