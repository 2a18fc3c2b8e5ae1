#!/usr/bin/env python3
"""What the drain of a large backlog on Redis costs, with and without customers who pay meanwhile: how long it takes, how many
commands and how much of its CPU Redis spends on each event, and what the customers notice. Each program that is named is
measured in turn, in one run, on a private Redis (its append-only file on) and a broker: AMQP_URL, or one of its own.

  benches/drain.py [EVENTS] [REPLICAS] [PROGRAM]...     benches/drain.py 30000 2 old/alipay-notify-gateway target/release/...

RATE=200 payments a second meanwhile, in the second of the two runs of each; SECONDS_EACH=60 for each run at most."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
DEPLOY = os.path.join(HERE, "../deploy")
RATE = int(os.environ.get("RATE", "200"))
# Bound: of each run.
SECONDS = int(os.environ.get("SECONDS_EACH", "60"))
APP, SELLER = "2021000000000001", "2088101117955611"


def run(*words, **more):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **more).stdout.strip()


def backlog(path, count):
    """An export of so many events that wait for the broker."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 60))
    day = time.strftime("%Y%m%d")
    with open(path, "w", encoding="utf-8") as file:
        print(json.dumps({"format": "alipay-notify-gateway-store", "version": 1, "at": at}), file=file)
        for n in range(count):
            trade, order = f"{day}22001{n:015}", f"R{n:012}"
            key, kind = f"{APP}.{trade}.payment.succeeded", "payment.succeeded"
            digest = hashlib.sha256(f"{order}\n1.00\n{SELLER}\n0.00\n".encode()).hexdigest()
            body = {"event_id": key, "event_type": kind, "out_trade_no": order, "total_amount": "1.00", "seller_id": SELLER}
            message = {"id": key, "event_type": kind, "app_id": APP, "subject": trade, "time": at, "digest": digest[:16]}
            message |= {"environment": "production", "unchecked": False, "traceparent": None, "body": json.dumps(body, separators=(",", ":"))}
            line = {"subject": trade, "id": key, "state": "deferred", "notify_id": f"n{n}", "first_at": at, "at": at}
            line |= {"attempts": 1, "event_type": kind, "digest": digest, "reason": "broker_down", "message": message}
            print(json.dumps(line), file=file)
        print(json.dumps({"entries": count}), file=file)


class Redis:
    def __init__(self, folder):
        self.folder = os.path.join(folder, "redis")
        self.uri = run(os.path.join(DEPLOY, "redis.sh"), "start", self.folder)

    def ask(self, *words):
        return run("redis-cli", "-p", self.uri.rsplit(":", 1)[1], *words)

    def spent(self):
        """Seconds of CPU, and commands, those of scripts too."""
        info = dict(line.split(":", 1) for line in self.ask("INFO", "cpu").splitlines() if ":" in line)
        stats = [line for line in self.ask("INFO", "commandstats").splitlines() if "calls=" in line]
        calls = sum(int(line.split("calls=")[1].split(",")[0]) for line in stats)
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"]), calls

    def slow(self):
        """How long a script took: the 99.9th percentile, in ms."""
        lines = self.ask("INFO", "latencystats").splitlines()
        return next(float(line.rsplit("p99.9=", 1)[1]) / 1000 for line in lines if "_evalsha:" in line)

    def stop(self):
        run(os.path.join(DEPLOY, "redis.sh"), "stop", self.folder)


class Replica:
    def __init__(self, program, folder, number):
        self.log = os.path.join(folder, f"{number}.log")
        with open(self.log, "w", encoding="utf-8") as log:
            words = [program, "serve", "--config", os.path.join(folder, "gateway.toml")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        while not self.says("serving"):
            if self.process.poll() is not None:
                sys.exit(open(self.log, encoding="utf-8").read())
            time.sleep(0.05)
        self.http, self.admin = (self.says("serving")[word] for word in ("http", "admin"))

    def says(self, message):
        with open(self.log, encoding="utf-8") as log:
            lines = [json.loads(line) for line in log if line.endswith("}\n")]
        return next((line for line in lines if line["message"] == message), None)

    def metric(self, name, *labels):
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith(f"alipay_gateway_{name}") and all(label in line for label in labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


CONFIG = """
[http]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
[amqp]
uri = "{amqp}"
exchange = "{exchange}"
[[amqp.queues]]
name = "{exchange}"
bind = ["#"]
[store]
engine = "redis"
uri = "{redis}"
[[apps]]
app_id = "2021000000000001"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["alipay-public.pem"]
"""


def measure(program, folder, amqp, replicas, rate):
    redis, running, senders = Redis(folder), [], []
    try:
        measure_on(redis, running, senders, (program, folder, amqp, replicas, rate))
    finally:
        for process in senders + [replica.process for replica in running]:
            process.terminate()
            process.wait()
        redis.stop()


def measure_on(redis, running, senders, of):
    program, folder, amqp, replicas, rate = of
    exchange = f"gateway-drain-{os.getpid()}-{time.monotonic_ns()}"
    with open(os.path.join(folder, "gateway.toml"), "w", encoding="utf-8") as file:
        file.write(CONFIG.format(amqp=amqp, exchange=exchange, redis=redis.uri))
    run(program, "store", "import", "--config", os.path.join(folder, "gateway.toml"), os.path.join(folder, "backlog"))
    redis.ask("CONFIG", "RESETSTAT")
    running += [Replica(program, folder, number) for number in range(replicas)]
    began, (cpu, calls) = time.monotonic(), redis.spent()
    for replica in running if rate else []:
        key = os.path.join(folder, "alipay-private.pem")
        words = [program, "simulate", "send", "--key", key, "--url", f"http://{replica.http}/alipay/notify", "--format", "json"]
        words += ["--rate", str(rate // replicas), "--count", str(rate // replicas * SECONDS)]
        senders.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    time.sleep(3)
    left = events = None
    while time.monotonic() - began < SECONDS and left != 0:
        time.sleep(0.5)
        left = running[0].metric("backlog_events", 'state="deferred"')
    seconds, (cpu_then, calls_then) = time.monotonic() - began, redis.spent()
    announced, unchecked = (
        sum(replica.metric("events_total", f'result="{result}"') for replica in running)
        for result in ("confirmed", "unchecked")
    )
    each = max(announced, 1)
    said = [json.loads(sender.communicate()[0]) for sender in senders]
    late = ", ".join(f"p50 {one['p50_ms']:.0f} ms, p99 {one['p99_ms']:.0f} ms, {one['fail']} failed" for one in said)
    print(
        f"  {announced / seconds:6.0f} events/s for {seconds:3.0f} s, {left:.0f} left; an event: "
        f"{(calls_then - calls) / each:7.1f} commands, {(cpu_then - cpu) / each * 1e6:7.1f} us of Redis; "
        f"scripts p99.9 {redis.slow():.1f} ms; {unchecked:.0f} unchecked{'; live ' if late else ''}{late}",
        flush=True,
    )


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 30_000
    replicas = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    programs = sys.argv[3:] or [os.path.join(HERE, "../target/release/alipay-notify-gateway")]
    with tempfile.TemporaryDirectory() as folder:
        broker = os.path.join(folder, "broker")
        amqp = os.environ.get("AMQP_URL") or run(os.path.join(DEPLOY, "broker.sh"), "start", broker)
        try:
            run(programs[0], "simulate", "keys", folder)
            backlog(os.path.join(folder, "backlog"), count)
            for rate in (0, RATE):
                print(f"{count} waiting, {replicas} replicas, {rate} payments a second meanwhile", flush=True)
                for program in programs:
                    print(f" {program}")
                    measure(program, folder, amqp, replicas, rate)
        finally:
            if "AMQP_URL" not in os.environ:
                run(os.path.join(DEPLOY, "broker.sh"), "stop", broker)


if __name__ == "__main__":
    main()
