#!/usr/bin/env python3
"""What a notification costs Redis itself: the CPU of a private node for the claim and the record of each, by how many go
in one call (a batch of a lane on one node; in a cluster mostly one, because a call may not touch two slots), and what a
record takes of its memory. Its append-only file is on, synced each second.

  benches/redis.py [NOTIFICATIONS] [OPTION VALUE]...      benches/redis.py 60000 hash-max-listpack-value 256

SCRIPTS=DIR takes the scripts of another version."""

import os
import random
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
STARTER = os.path.join(HERE, "../deploy/redis.sh")
SCRIPTS = os.environ.get("SCRIPTS", os.path.join(HERE, "../src/store/redis"))
# Calls on their way at once, as from several lanes and replicas.
DEPTH = 16
TICK = os.sysconf("SC_CLK_TCK")


class Node:
    def __init__(self, folder):
        uri = subprocess.run([STARTER, "start", folder], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        port = int(uri.stdout.decode().strip().rsplit(":", 1)[1])
        with open(os.path.join(folder, f"node-{port}", "pid"), encoding="ascii") as file:
            self.pid = int(file.read())
        self.line = socket.create_connection(("127.0.0.1", port))
        self.replies = self.line.makefile("rb", buffering=1 << 20)

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.line.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def reply(self):
        head = self.replies.readline()
        kind, rest = head[:1], head[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        return rest

    def ask(self, *words):
        self.send(*words)
        return self.reply()

    def script(self, name):
        parts = [open(os.path.join(SCRIPTS, part), encoding="utf-8").read() for part in ("row.lua", name)]
        return self.ask("SCRIPT", "LOAD", "".join(parts))

    def cpu(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        info = self.ask("INFO", "memory").decode()
        return int(info.split("used_memory:", 1)[1].split("\r", 1)[0])


def payments(count, start):
    """Key and id of each, as src/store/redis/bucket.rs and src/event/id.rs make them; the bucket is any."""
    day = time.strftime("%Y%m%d")
    for n in range(start, start + count):
        trade = f"{day}22001{random.randrange(100):02}{random.randrange(10**5):05}{n:08}"
        yield f"alipay:{{{random.randrange(256):02x}}}:t:{trade}", f"2021000000000001.{trade}.payment.succeeded"


def run(node, claim, record, count, size, start):
    now = int(time.time() * 1000)
    rest = [b"0", os.urandom(32), "2026112600222798440000000000000000", "payment.succeeded", now, now + 35 * 86_400_000]
    calls = []
    some = list(payments(count, start))
    for at in range(0, count, size):
        batch = some[at : at + size]
        keys = [key for key, _ in batch]
        calls.append(["EVALSHA", claim, len(keys), *keys, "f" * 32, 15000, *(one for _, one in batch)])
        rows = [word for _, one in batch for word in (one, "held." + one[17:45], *rest)]
        calls.append(["EVALSHA", record, len(keys), *keys, *rows])
    before = node.cpu()
    for at in range(0, len(calls), DEPTH):
        for call in calls[at : at + DEPTH]:
            node.send(*call)
        for _ in calls[at : at + DEPTH]:
            node.reply()
    return (node.cpu() - before) * 1_000_000 / count


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000
    with tempfile.TemporaryDirectory() as folder:
        node = Node(folder)
        try:
            for option in zip(sys.argv[2::2], sys.argv[3::2]):
                node.ask("CONFIG", "SET", *option)
            claim, record = node.script("claim.lua"), node.script("record.lua")
            run(node, claim, record, 1000, 8, 0)
            print(f"{'in a call':>10} {'us of Redis a notification':>28} {'a core does in a second':>26}")
            empty, start = node.memory(), 1000
            for size in (1, 4, 16, 64):
                rounds = []
                for _ in range(3):
                    rounds.append(run(node, claim, record, count // 3, size, start))
                    start += count // 3
                median = sorted(rounds)[1]
                print(f"{size:>10} {median:>28.1f} {1_000_000 / median:>26,.0f}")
            print(f"a record takes {(node.memory() - empty) // (start - 1000)} bytes of its memory, of {start - 1000}")
        finally:
            subprocess.run([STARTER, "stop", folder], check=True)


if __name__ == "__main__":
    main()
