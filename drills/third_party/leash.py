"""Runs a program, and ends it as soon as our input ends: the process that started us has ended then.

The byte `t` asks the program to end (SIGTERM) and waits for it; anything else kills it.
"""

import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """Run the program; return its exit code."""
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end, args=(program,), daemon=True).start()
    return program.wait()


def _end(program: "subprocess.Popen[bytes]") -> None:
    asked = os.read(sys.stdin.fileno(), 1)  # without a lock that would be held when the program ends by itself
    if asked == b"t":
        program.send_signal(signal.SIGTERM)
    else:
        program.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
