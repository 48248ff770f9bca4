# Makes socket pairs other than the one harmless kind, and gives that one an address.
# Expect: ok contained
# After: no connection

import json
import socket


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for attempt in attempts(host):
        try:
            attempt()
        except OSError:
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(host):
    left, right = socket.socketpair()
    left.send(b"allowed: it reaches nobody else")
    assert right.recv(7) == b"allowed"

    def datagrams():
        socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def internet():
        socket.socketpair(socket.AF_INET)

    def address():
        left.sendto(b"x", "\0w4s")

    def descriptors():
        socket.send_fds(left, [b"x"], [0])

    def connect():
        left.connect("/run/docker.sock")

    def bind():
        left.bind("\0w4s")

    return datagrams, internet, address, descriptors, connect, bind
