"""Its being here puts this folder on the import path, so that all tests can tell the same histories."""

import signal

# Whoever starts the tests in the background leaves them, and all that they start, with Ctrl-C ignored: it could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
