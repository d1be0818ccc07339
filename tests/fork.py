"""The client of fork_server.py: to whoever has started it, the fork itself.

It hands over its command line, folder, environment and streams, passes signals on, and ends as the
fork has ended. If it is killed, so is the fork.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

place, *words = sys.argv[1:]
server = socket.socket(socket.AF_UNIX)
server.connect(place)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()  # noqa: PTH109  # starts sooner
socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
server.sendall(request)
answer = server.makefile().readline()
if not answer:
    sys.exit("The server of forks has died; it says why above.")
status = int(answer)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
