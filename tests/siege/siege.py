"""The attacks on the public door, each with its figure: what it held of the gateway, what was held off, and what became
of genuine traffic before, during and after. Only the standard library; only loopback. Called by tests/siege.sh."""

import argparse
import asyncio
import logging
import os
import re
import resource
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import Callable

# Between the pieces of what comes in two: more than a read, less than a network.
PIECES_APART = 0.02
# Bounds that a run must keep to.
MAX_RESIDENT = 128 * 2**20  # with 5,000 hoarded connections
MIN_ANSWERED = 0.95  # of the genuine, within the answer deadline, in a flood of ten forged for each
MAX_GROWTH = 16 * 2**20  # of the process, from before an attack to after it
MAX_GROWTH_AGAIN = 4 * 2**20  # and from there to after the same attack once more
MAX_GROWTH_IN_ALL = 24 * 2**20  # from before the first to after the last; a hundred thousand notifications have some of it
MAX_SLOWDOWN = 1.5  # of the CPU time of a genuine notification, from the first measure to the last

POST = b"POST /alipay/notify HTTP/1.1\r\nhost: siege\r\ncontent-length: %d\r\n\r\n"
HEAD = b"POST /alipay/notify HTTP/1.1\r\nx: "
FULL = HEAD + b"y" * (8 * 1024 - len(HEAD) - 60)  # unfinished, and as long as one may be
BY_SIGNATURE = 'rejections_total{reason="signature"}'
ADDRESSES = [f"127.0.{1 + n // 125}.{1 + n % 125}" for n in range(250)]


def request(body):
    return POST % len(body) + body


class Gateway:
    """The running program, as its admin listener and /proc show it."""

    def __init__(self, arguments):
        self.host, port = arguments.http.rsplit(":", 1)
        self.port, self.admin, self.pid = int(port), arguments.admin, arguments.pid
        self.tls = ssl.create_default_context() if arguments.tls else None
        if self.tls:
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        # Of handshakes: that of one who begins thousands at once would take longer than it may.
        self.at_once = asyncio.Semaphore(64)

    async def connect(self, source=None):
        local = (source, 0) if source else None
        return await asyncio.open_connection(self.host, self.port, local_addr=local, ssl=self.tls)

    async def connect_in_turn(self, source=None):
        """For hoarders. Whoever brings little and often does not wait behind thousands of them."""
        if not self.tls:
            return await self.connect(source)
        async with self.at_once:
            return await self.connect(source)

    async def connect_in_the_clear(self):
        return await asyncio.open_connection(self.host, self.port)

    def metrics(self):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("alipay_gateway_"): float(value) for name, value in pairs}

    def resident(self):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"VmRSS:\s*(\d+)", status.read())[1]) * 1024

    async def resident_within(self, limit):
        """What it has, when that is within the limit, or long after it should be: each thread gives back every five seconds."""
        deadline = time.monotonic() + 15
        while self.resident() > limit and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return self.resident()

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    async def settled(self):
        """When nobody of the attack is connected any more."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (await asyncio.to_thread(self.metrics))["connections"] == 0:
                return True
            await asyncio.sleep(0.2)
        return False


class Genuine:
    """Signed payments, sent at a rate over connections that are kept; what was answered, and when."""

    def __init__(self, gateway, bodies, rate, sources=None, pieces=1):
        self.gateway, self.bodies, self.rate = gateway, bodies, rate
        self.sources, self.pieces = sources or [None], pieces

    async def run(self, seconds):
        count = int(self.rate * seconds)
        bodies = [next(self.bodies) for _ in range(count)]
        # Open loop: each has its own time, however long the one before takes.
        began = asyncio.get_running_loop().time()
        due = asyncio.Queue()
        for n, body in enumerate(bodies):
            due.put_nowait((began + n / self.rate, body))
        self.latencies, self.failed = [], []
        senders = [self.sender(due, self.sources[n % len(self.sources)]) for n in range(min(64, count))]
        await asyncio.gather(*senders)
        return self.summary(count)

    async def sender(self, due, source):
        connection = None
        while not due.empty():
            at, body = due.get_nowait()
            await asyncio.sleep(at - asyncio.get_running_loop().time())
            try:
                if connection is None:
                    connection = await self.gateway.connect(source)
                reader, writer = connection
                await self.send(writer, request(body))
                _, text, last = await asyncio.wait_for(answer(reader), 15)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                text, last = b"", True
            took = asyncio.get_running_loop().time() - at
            if text == b"success":
                self.latencies.append(took)
            else:
                self.failed.append(body)
            if last and connection:
                connection[1].close()
                connection = None
        if connection:
            connection[1].close()

    async def send(self, writer, whole):
        """In one piece; or, as some proxies do, the head first, and every other body in two halves."""
        if self.pieces > 1:
            head = whole.index(b"\r\n\r\n") + 4
            cut = head if len(self.latencies) % 2 else (head + len(whole)) // 2
            writer.write(whole[:cut])
            await asyncio.sleep(PIECES_APART)
            whole = whole[cut:]
        writer.write(whole)

    def summary(self, count):
        latencies = sorted(self.latencies)
        in_time = sum(1 for latency in latencies if latency <= 5)
        p99 = latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))] if latencies else float("nan")
        return {"sent": count, "in_time": in_time / max(count, 1), "p99_ms": p99 * 1000}


async def answer(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
    body = await reader.readexactly(length)
    return int(head[9:12]), body, b"connection: close" in head.lower()


class Attack:
    """Something that is done until it is told to stop. `made` counts what it did."""

    def __init__(self, gateway, forged):
        self.gateway, self.forged, self.made, self.going = gateway, forged, 0, True
        self.connect = gateway.connect

    async def hoard(self, count, hello, drip=None, await_answer=False, pause=1.0, connect=None):
        """Holds `count` connections, each after `hello`, sending `drip` every second; opens anew what is closed."""
        connect = connect or self.gateway.connect_in_turn

        async def one():
            while self.going:
                try:
                    reader, writer = await connect()
                    self.made += 1
                    writer.write(hello)
                    if await_answer:
                        await answer(reader)
                    while self.going and not reader.at_eof():
                        if drip:
                            writer.write(drip)
                            await asyncio.sleep(pause)
                        elif not await self.closed_within(reader, pause):
                            continue
                    writer.close()
                except (OSError, asyncio.IncompleteReadError, ValueError):
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(one() for _ in range(count)))

    @staticmethod
    async def closed_within(reader, seconds):
        try:
            return await asyncio.wait_for(reader.read(4096), seconds) == b""
        except asyncio.TimeoutError:
            return False

    async def storm(self, workers, payloads):
        """Opens, sends, reads to the end, again and again."""

        async def one(n):
            while self.going:
                payload = payloads[(self.made + n) % len(payloads)]
                try:
                    reader, writer = await self.connect()
                    self.made += 1
                    writer.write(payload)
                    await asyncio.wait_for(reader.read(1 << 16), 5)
                    writer.close()
                except (OSError, asyncio.TimeoutError):
                    pass
                await asyncio.sleep(0.005)

        await asyncio.gather(*(one(n) for n in range(workers)))

    async def hang_up(self, workers):
        whole = request(self.forged[0])
        cuts = [1, 20, len(whole) // 3, len(whole) // 2, len(whole) - 1, len(whole)]

        async def one(n):
            while self.going:
                try:
                    _, writer = await self.connect()
                    writer.write(whole[: cuts[(self.made + n) % len(cuts)]])
                    self.made += 1
                    writer.transport.abort()
                except OSError:
                    pass
                await asyncio.sleep(0.005)

        await asyncio.gather(*(one(n) for n in range(workers)))

    async def never_read(self, count):
        async def one():
            while self.going:
                try:
                    reader, writer = await self.connect()
                    self.made += 1
                    writer.transport.pause_reading()
                    while self.going:
                        writer.write(request(b"a=b") * 10)
                        await asyncio.wait_for(writer.drain(), 1)
                        await asyncio.sleep(0.02)
                except asyncio.TimeoutError:
                    # Nothing more is taken: it stays, and sends when it can.
                    while self.going and not writer.transport.is_closing():
                        await asyncio.sleep(0.2)
                except OSError:
                    await asyncio.sleep(0.2)
                writer.transport.abort()

        await asyncio.gather(*(one() for _ in range(count)))

    async def flood(self, rate, sources, forged=None):
        """Forged notifications at a rate, from many addresses."""
        forged = forged or self.forged
        began = asyncio.get_running_loop().time()

        async def one(n, source):
            connection, sent = None, 0
            while self.going:
                at = began + (n + sent * len(sources)) / rate
                await asyncio.sleep(max(0, at - asyncio.get_running_loop().time()))
                sent += 1
                try:
                    if connection is None:
                        connection = await self.connect(source)
                    connection[1].write(request(forged[sent % len(forged)]))
                    self.made += 1
                    _, _, last = await asyncio.wait_for(answer(connection[0]), 15)
                except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                    last = True
                if last and connection:
                    connection[1].close()
                    connection = None
            if connection:
                connection[1].close()

        await asyncio.gather(*(one(n, source) for n, source in enumerate(sources)))


    async def pipelines(self, count, sources):
        """Sends one forged notification behind the other without an end, and reads what is answered."""
        many = b"".join(request(body) for body in self.forged[:24])

        async def one(n):
            await asyncio.sleep(n / count)
            while self.going:
                try:
                    reader, writer = await self.gateway.connect_in_turn(sources[n % len(sources)])
                    self.made += 1
                    while self.going:
                        writer.write(many)
                        await asyncio.wait_for(writer.drain(), 30)
                        if not await reader.read(1 << 16):
                            break
                    writer.transport.abort()
                except (OSError, asyncio.TimeoutError):
                    await asyncio.sleep(0.2)

        await asyncio.gather(*(one(n) for n in range(count)))


def smuggled():
    hidden = b"GET /hidden HTTP/1.1\r\n\r\n"
    chunks = b"3\r\na=b\r\n0\r\n\r\n"
    heads = [
        b"content-length: 3\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 3",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity",
        b"content-length: 3\r\ncontent-length: 4",
        b"content-length: 3, 4",
        b"transfer-encoding: xchunked",
    ]
    return [b"POST /alipay/notify HTTP/1.1\r\n" + head + b"\r\n\r\n" + chunks + hidden for head in heads]


def strangers():
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="siege")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return [b"GET /alipay/notify\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", hello.read(), b"AMQP\0\0\x09\x01\r\n\r\n"]


def bombs():
    line = b"POST /alipay/notify HTTP/1.1\r\n"
    many = b"".join(b"x-%d: y\r\n" % n for n in range(101))
    return [line + many + b"\r\n", line + b"x: " + b"y" * (1 << 20) + b"\r\n\r\n", b"POST /" + b"y" * (1 << 20)]


def half_a_hello(size):
    """As many bytes of one that says it had 64 KiB, in records of 16 KiB: TLS cannot say anything to it before the last has come."""
    hello = b"\x01\x00\xff\xf0\x03\x03" + b"a" * (size - 6)
    records = [hello[at : at + 16000] for at in range(0, size, 16000)]
    return b"".join(b"\x16\x03\x01" + len(record).to_bytes(2, "big") + record for record in records)


async def half_a_record(gateway, head):
    """A connection inside of TLS that has said this, and all but the last byte of a record of 16 KiB more."""
    async with gateway.at_once:
        reader, writer = await gateway.connect_in_the_clear()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = gateway.tls.wrap_bio(incoming, outgoing)
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                read = await reader.read(1 << 16)
                if not read:
                    raise OSError("closed in the handshake") from None
                incoming.write(read)
    client.write(head)
    client.write(b"y" * 16384)
    writer.write(outgoing.read()[:-1])
    return reader, writer


@dataclass
class Row:
    """An attack, how it is begun, and how the genuine come meanwhile."""

    name: str
    begin: Callable
    sources: list = None
    pieces: int = 1
    again: bool = False  # it is the one before once more
    least: float = 10  # it did not come about with less made
    least_forged: float = 0  # nor with fewer forged that were told from genuine ones by their signature


def attacks_on_tls(arguments):
    """What is said before, and inside of, TLS. Each twice: a second one must find nothing to add to."""
    hoarders = arguments.connections

    def hellos(size):
        return lambda a: a.hoard(hoarders, half_a_hello(size), connect=a.gateway.connect_in_the_clear)

    async def everything(attack):
        """What makes a connection largest, beside as many unfinished bodies as fit, and great forged ones."""
        great = [body + b"&x=" + b"a" * (50000 - len(body)) for body in attack.forged[:9]]
        await asyncio.gather(
            attack.flood(arguments.rate * 2, ADDRESSES[:240], great),
            attack.hoard(hoarders // 5, POST % 60000 + b"a" * 15000),
            attack.hoard(hoarders * 4 // 5, b"", connect=lambda: half_a_record(attack.gateway, FULL)),
        )

    shapes = [
        ("TLS: half a hello of 23 KiB", hellos(23000)),
        ("TLS: half a hello of 64 KiB", hellos(64000)),
        ("TLS: idle after handshake", lambda a: a.hoard(hoarders, b"")),
        ("TLS: unfinished heads", lambda a: a.hoard(hoarders, FULL)),
        ("TLS: heads, records, bodies", everything),
        ("TLS: pipelines without an end", lambda a: a.pipelines(hoarders, ADDRESSES)),
    ]
    forgeries = {"TLS: heads, records, bodies": hoarders / 5, "TLS: pipelines without an end": hoarders * 2}
    return [Row(name + more, begin, again=bool(more), least=hoarders / 5 if "pipelines" in name else hoarders,
                least_forged=forgeries.get(name, 0)) for name, begin in shapes for more in ("", ", again")]


def attacks(arguments):
    """What HTTP is attacked by."""
    rate = arguments.rate
    hoarders, some = arguments.connections, max(arguments.connections // 10, 50)
    body = POST % 60000 + b"a"
    # What costs most of a connection: buffers that are full, many headers, a large body before it is idle.
    many = HEAD + b"".join(b"\r\nx-%02d: " % n + b"y" * 60 for n in range(95))
    length = b"\r\ncontent-length: 60000\r\n\r\n"
    unfinished = POST % 65000 + b"a" * 60000
    # Nine in ten of them, for as long as it goes on at the least.
    ten_each = 9 * rate * (arguments.seconds * 1.5 + 1)

    def idle_after_much(attack):
        return attack.hoard(hoarders, FULL + length + b"a" * 60000, await_answer=True)

    def forged_of_56_kb(attack):
        great = [body + b"&x=" + b"a" * (56000 - len(body)) for body in attack.forged[:9]]
        return attack.flood(rate * 10, (ADDRESSES * 2)[:300], great)

    return [
        Row("54 slow heads", lambda a: a.hoard(some, HEAD, drip=b"a"), least=some),
        Row("54 heads of 8 KiB, unfinished", lambda a: a.hoard(hoarders, FULL), least=hoarders),
        Row("54 heads of 16 KiB, unfinished", lambda a: a.hoard(hoarders, FULL * 2), least=hoarders),
        Row("55 slow bodies", lambda a: a.hoard(some, body, drip=b"a"), least=some),
        Row("55 great bodies, unfinished", lambda a: a.hoard(some * 2, unfinished), least=some * 2),
        Row("55 the same, genuine in pieces", lambda a: a.hoard(some * 2, unfinished), pieces=2, least=some * 2),
        Row("55 a byte behind 95 headers", lambda a: a.hoard(hoarders, many + length + b"a"), least=hoarders),
        Row("56 silence", lambda a: a.hoard(hoarders, b""), least=hoarders),
        Row("57 idle, kept alive", lambda a: a.hoard(hoarders, request(b"a=b"), await_answer=True), least=hoarders),
        Row("57 idle after 8 and 60 KiB", idle_after_much, least=hoarders),
        Row("57 idle after as much, again", idle_after_much, again=True, least=hoarders),
        Row("58 smuggling", lambda a: a.storm(4, smuggled())),
        Row("59 pipelines of 1,000", lambda a: a.storm(2, [request(b"a=b") * 1000])),
        Row("60 bombs in the head", lambda a: a.storm(4, bombs())),
        Row("61 other protocols", lambda a: a.storm(4, strangers())),
        Row("62 hanging up", lambda a: a.hang_up(4)),
        Row("66 ten forged for each", lambda a: a.flood(rate * 10, ADDRESSES), least=ten_each),
        Row("66 from the same addresses", lambda a: a.flood(rate * 10, ADDRESSES), sources=ADDRESSES, least=ten_each),
        # Of 56 KB each, who sends them beside the gateway on two cores has not the time for more: 0.66 were seen, where a tenth
        # of saturation had become more.
        Row("66 of 56 KB, genuine in pieces", forged_of_56_kb, pieces=2, least=ten_each * 0.5),
        Row("66 pipelines without an end", lambda a: a.pipelines(hoarders, ADDRESSES), least=hoarders / 5),
        Row("67 never reading", lambda a: a.never_read(10)),
    ]


def held_off(before, after):
    """What moved of what is refused."""
    told = []
    for name, value in sorted(after.items()):
        moved = value - before.get(name, 0)
        family = re.match(r'(connections_refused|connections_retired|rejections|low_priority_verifications)_total\{\w+="(\w+)"\}', name)
        if family and moved:
            short = "low: " if family[1].startswith("low") else ""
            told.append(f"{short}{family[2]} {moved:.0f}")
    busy = after['notifications_total{outcome="busy"}'] - before['notifications_total{outcome="busy"}']
    slow = after['notifications_total{outcome="failed"}'] - before['notifications_total{outcome="failed"}']
    return ", ".join(told + ([f"busy {busy:.0f}"] if busy else []) + ([f"failed {slow:.0f}"] if slow else []))


async def measured(gateway, genuine, seconds):
    cpu = gateway.cpu_seconds()
    summary = await genuine.run(seconds)
    summary["cpu_us"] = (gateway.cpu_seconds() - cpu) * 1e6 / max(summary["sent"], 1)
    return summary


def signed(arguments):
    """What `simulate send --bodies-out` wrote: the genuine and the forged."""
    kinds = [line.rstrip(b"\n").split(b"\t", 1) for line in open(arguments.bodies, "rb")]
    return [body for kind, body in kinds if kind != b"forged"], [body for kind, body in kinds if kind == b"forged"]


def rows(arguments):
    return attacks_on_tls(arguments) if arguments.tls else attacks(arguments)


async def attack_alone(arguments):
    """One attack in a process of its own, until there is no more to read; then says how much it did."""
    attack = Attack(Gateway(arguments), signed(arguments)[1])
    row = next(row for row in rows(arguments) if row.name == arguments.attack)
    running = asyncio.create_task(row.begin(attack))
    await asyncio.to_thread(sys.stdin.read)
    attack.going = False
    await asyncio.wait([running], timeout=10)
    print(attack.made, flush=True)
    os._exit(0)


async def besiege(arguments):
    gateway = Gateway(arguments)
    bodies = iter(signed(arguments)[0])
    problems, lost = [], []
    mib = lambda size: f"{size / 2**20:.0f}"
    besieging = [row for row in rows(arguments) if arguments.only in row.name]
    if not besieging:
        return True
    print(f"genuine traffic: {arguments.rate:.0f}/s, a tenth of saturation; {arguments.connections} hoarders")
    print(f"{'attack':31}{'MiB before':>11}{'peak':>6}{'after':>6}{'p99 ms before':>15}{'during':>8}{'after':>8}"
          f"{'answered':>10}  held off")
    usual = Genuine(gateway, bodies, arguments.rate)
    await measured(gateway, usual, 1)  # connections and caches are warm
    first = before = await measured(gateway, usual, arguments.seconds)
    resident = at_first = gateway.resident()
    for row in besieging:
        name, counted = row.name, gateway.metrics()
        command = [sys.executable, *sys.argv, "--attack", name]
        attack = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        peak = [gateway.resident()]

        async def watch():
            while attack.returncode is None:
                peak.append(gateway.resident())
                await asyncio.sleep(0.1)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(arguments.seconds / 2 + 1)
        traffic = Genuine(gateway, bodies, arguments.rate, row.sources, row.pieces)
        during = await measured(gateway, traffic, arguments.seconds)
        connections = gateway.metrics()["connections"]
        made, _ = await attack.communicate(b"")
        await watching
        if not await gateway.settled():
            problems.append(f"{name}: connections are left")
        lost += traffic.failed
        now_counted = gateway.metrics()
        told = held_off(counted, now_counted)
        forged = now_counted.get(BY_SIGNATURE, 0) - counted.get(BY_SIGNATURE, 0)
        after = await measured(gateway, usual, arguments.seconds)
        may_keep = max(resident, at_first) + (MAX_GROWTH_AGAIN if row.again else MAX_GROWTH)
        now = await gateway.resident_within(may_keep)
        print(f"{name:31}{mib(resident):>11}{mib(max(peak)):>6}{mib(now):>6}{before['p99_ms']:>15.1f}"
              f"{during['p99_ms']:>8.1f}{after['p99_ms']:>8.1f}{during['in_time']:>10.1%}  {int(made)} made, "
              f"{connections:.0f} open at the end; {told}", flush=True)
        if int(made) < row.least:
            problems.append(f"{name}: it did not come about, with {int(made)} made and not {row.least:.0f}")
        if forged < row.least_forged:
            problems.append(f"{name}: it did not come about, with {forged:.0f} forged and not {row.least_forged:.0f}")
        if during["in_time"] < MIN_ANSWERED:
            problems.append(f"{name}: {during['in_time']:.1%} of the genuine were answered in time")
        if max(peak) > MAX_RESIDENT:
            problems.append(f"{name}: {mib(max(peak))} MiB")
        if now > may_keep:
            problems.append(f"{name}: it left {mib(now - resident)} MiB behind")
        before, resident = after, now
    if await gateway.resident_within(at_first + MAX_GROWTH_IN_ALL) > at_first + MAX_GROWTH_IN_ALL:
        problems.append(f"it has become larger: {mib(at_first)} MiB at first, {mib(resident)} at last")
    print(f"CPU of a genuine notification: {first['cpu_us']:.0f} us at first, {before['cpu_us']:.0f} us at last")
    if before["cpu_us"] > first["cpu_us"] * MAX_SLOWDOWN:
        problems.append("it has become slower")
    problems += await not_lost(gateway, lost)
    for problem in problems:
        print(f"NOT AS PROMISED: {problem}")
    return not problems


async def not_lost(gateway, bodies):
    """What was not answered success is delivered again, as Alipay would, and then is."""
    if not bodies:
        return []
    left = 0
    reader, writer = await gateway.connect()
    for body in bodies:
        writer.write(request(body))
        _, text, _ = await answer(reader)
        left += text != b"success"
    writer.close()
    print(f"{len(bodies)} genuine ones were told fail; delivered again, {len(bodies) - left} were answered success")
    return [f"{left} genuine ones are lost"] if left else []


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--names", action="store_true", help="only look whether --only is part of one")
    parser.add_argument("--http")
    parser.add_argument("--admin")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--bodies")
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--only", default="")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--attack", default="")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable()
    if not any(arguments.only in row.name for row in attacks(arguments) + attacks_on_tls(arguments)):
        sys.exit(f"no attack has {arguments.only!r} in its name")
    if arguments.names:
        return
    if arguments.attack:
        asyncio.run(attack_alone(arguments))
    sys.exit(0 if asyncio.run(besiege(arguments)) else 1)


main()
