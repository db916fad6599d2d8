"""A test double of Android's adb daemon: `adb_double.py PORT`. Enough of it for the real adb client to connect, run
commands with all three streams (shell protocol v2) and push files. Commands and paths are this machine's.

Protocols: AOSP packages/modules/adb, docs/dev/protocol.md, shell_protocol.h and docs/dev/sync.md.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

OPEN, OKAY, CLSE, WRTE, CNXN = (struct.unpack("<I", name)[0] for name in (b"OPEN", b"OKAY", b"CLSE", b"WRTE", b"CNXN"))
BANNER = b"device::ro.product.name=double;ro.product.model=double;ro.product.device=double;features=shell_v2,cmd\0"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
LARGEST = 1 << 16


def exactly(stream: socket.socket | Stream, count: int) -> bytes:
    block = b""
    while len(block) < count:
        more = stream.recv(count - len(block))
        if not more:
            raise EOFError
        block += more
    return block


class Stream:
    """One of the many that a connection carries."""

    def __init__(self, client: Client, ours: int, theirs: int) -> None:
        self.client, self.ours, self.theirs = client, ours, theirs
        self.buffer, self.closed = b"", False
        self.arrived, self.room, self.turn = threading.Condition(), threading.Event(), threading.Lock()

    def feed(self, block: bytes, *, closed: bool = False) -> None:
        with self.arrived:
            self.buffer, self.closed = self.buffer + block, closed
            self.arrived.notify()

    def recv(self, most: int) -> bytes:
        with self.arrived:
            self.arrived.wait_for(lambda: self.buffer or self.closed)
            block, self.buffer = self.buffer[:most], self.buffer[most:]
        return block

    def send(self, block: bytes) -> None:
        with self.turn:  # one block at a time: the client says when it has room
            for start in range(0, len(block), LARGEST):
                self.room.clear()
                self.client.send(WRTE, self.ours, self.theirs, block[start : start + LARGEST])
                self.room.wait(30)

    def serve(self, service: bytes) -> None:
        try:
            if service.startswith(b"shell"):
                self.shell(service.partition(b":")[2].decode())
            elif service == b"sync:":
                self.sync()
        except EOFError:
            pass
        self.client.send(CLSE, self.ours, self.theirs)

    def shell(self, command: str) -> None:
        pipe = subprocess.PIPE
        process = subprocess.Popen(["sh", "-c", command], stdin=pipe, stdout=pipe, stderr=pipe)

        def give() -> None:
            assert process.stdin
            try:
                while True:
                    kind, length = struct.unpack("<BI", exactly(self, 5))
                    block = exactly(self, length)
                    if kind == CLOSE_STDIN:
                        break
                    process.stdin.write(block)
                    process.stdin.flush()
            except (EOFError, BrokenPipeError):
                pass
            process.stdin.close()

        def take(kind: int, stream: object) -> None:
            while block := stream.read1(LARGEST // 2):  # type: ignore[attr-defined]
                self.send(struct.pack("<BI", kind, len(block)) + block)

        threading.Thread(target=give, daemon=True).start()
        readers = [
            threading.Thread(target=take, args=pair) for pair in ((STDOUT, process.stdout), (STDERR, process.stderr))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        self.send(struct.pack("<BIB", EXIT, 1, process.wait() & 0xFF))

    def sync(self) -> None:
        while True:
            name, length = exactly(self, 4), struct.unpack("<I", exactly(self, 4))[0]
            if name == b"QUIT":
                return
            argument = exactly(self, length).decode()
            if name == b"STAT":
                found = Path(argument).stat() if Path(argument).exists() else None
                facts = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
                self.send(b"STAT" + struct.pack("<III", *facts))
            elif name == b"SEND":
                path, _, mode = argument.rpartition(",")
                with Path(path).open("wb") as file:
                    while (kind := exactly(self, 4)) == b"DATA":
                        file.write(exactly(self, struct.unpack("<I", exactly(self, 4))[0]))
                    assert kind == b"DONE"
                    exactly(self, 4)  # the time of its last change
                Path(path).chmod(int(mode) & 0o777)
                self.send(b"OKAY" + bytes(4))


class Client(threading.Thread):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.connection, self.turn = connection, threading.Lock()
        self.streams: dict[int, Stream] = {}

    def send(self, command: int, first: int, second: int, block: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(block), sum(block) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self.turn:
            self.connection.sendall(header + block)

    def run(self) -> None:
        try:
            while True:
                command, theirs, ours, length, _, _ = struct.unpack("<6I", exactly(self.connection, 24))
                block = exactly(self.connection, length)
                if command == CNXN:
                    self.send(CNXN, 0x01000001, LARGEST, BANNER)
                elif command == OPEN:
                    stream = Stream(self, len(self.streams) + 1, theirs)
                    self.streams[stream.ours] = stream
                    self.send(OKAY, stream.ours, theirs)
                    threading.Thread(target=stream.serve, args=(block.rstrip(b"\0"),), daemon=True).start()
                elif command == WRTE:
                    self.streams[ours].feed(block)
                    self.send(OKAY, ours, theirs)
                elif command == OKAY:
                    self.streams[ours].room.set()
                elif command == CLSE and ours in self.streams:
                    self.streams[ours].feed(b"", closed=True)
                    self.streams[ours].room.set()
        except (EOFError, OSError):
            pass


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
        while True:
            Client(server.accept()[0]).start()
