"""Many clients in one process: ``python -m tests.bench.swarm`` reads its order from standard input and answers on output.

A thread per client: receiving into a buffer and hashing it both let go of the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import threading
import time

_TIMEOUT = 300
_BUFFER = 256 << 10


def pull(connection: http.client.HTTPConnection, path: str, digest: str) -> str | None:
    """GET one blob and hash it as it comes; what is wrong with it, or None."""
    connection.request("GET", path)
    answer = connection.getresponse()
    if answer.status != 200:
        return f"{answer.status} {answer.reason} {answer.read(300)!r}"
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(_BUFFER))
    while count := answer.readinto(buffer):
        hasher.update(buffer[:count])
    return None if f"sha256:{hasher.hexdigest()}" == digest else f"hashes to sha256:{hasher.hexdigest()}"


def main() -> int:
    """Run the order, report the time, or every failure."""
    order = json.load(sys.stdin)
    blobs: list[tuple[str, str]] = order["blobs"]
    wrong: list[str] = []
    barrier = threading.Barrier(order["clients"] + 1)

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", order["port"], timeout=_TIMEOUT)
        try:
            connection.connect()
            barrier.wait()
            for turn in range(order["each"]):
                path, digest = blobs[(number + turn) % len(blobs)]
                problem = pull(connection, path, digest)
                if problem is not None:
                    wrong.append(f"client {number}: {path}: {problem}")
                    break
        except (OSError, http.client.HTTPException, threading.BrokenBarrierError) as error:
            barrier.abort()
            wrong.append(f"client {number}: {error!r}")
        finally:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(order["clients"])]
    for thread in threads:
        thread.start()
    try:
        barrier.wait(_TIMEOUT)
    except threading.BrokenBarrierError:
        wrong.append("not every client could connect")
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    print(json.dumps({"seconds": time.perf_counter() - began, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
