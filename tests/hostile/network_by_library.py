# Reaches the network through the standard library.
# Expect: ok contained
# After: no connection

import http.client
import json
import socket
import urllib.request


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
    def url():
        urllib.request.urlopen("http://127.0.0.1:9/", timeout=1)

    def name():
        socket.getaddrinfo("localhost", 80)
        socket.create_connection(("localhost", 80), timeout=1)

    def client():
        http.client.HTTPConnection("127.0.0.1", 9, timeout=1).request("GET", "/")

    return url, name, client
