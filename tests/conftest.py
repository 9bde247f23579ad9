"""Its being here puts this folder on the import path, so that all tests can tell the same histories."""

import signal

# Whoever starts the tests in the background, or with nohup, leaves them, and all that they start, with Ctrl-C and a terminal's
# end ignored: neither could be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
