"""A hook: ask a server on this machine for a kind of fault, and print what it says.

python deceiving_hook.py KIND PORT
"""

import sys
import urllib.request

if __name__ == "__main__":
    kind, port = sys.argv[1:]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/faults/{kind}", data=b"") as answer:
        print(answer.read().decode())
