#!/usr/bin/env python3
"""Makes alerts fire for real: a gateway, a broker of its own, a Prometheus that watches it, and faults.

    tests/operations/alerts_live.py --gateway PROGRAM --work FOLDER [--picture FILE.html]

While a fault lasts, the commands of the runbook's sections for its alerts are run, so that they are tried where they are
needed; those of all other sections at the end. The rules are the shipped ones with shorter windows. Needs prometheus,
promtool, curl, bash and Python, and a RabbitMQ and a Redis that deploy/broker.sh and deploy/redis.sh can start as private nodes.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import dashboard
import faults

ROOT = pathlib.Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/alipay-notify-gateway.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/alipay-notify-gateway.json"
RUNBOOK = ROOT / "docs/runbook.md"
# Windows of minutes to weeks, as seconds; two samples in the shortest of them at the least.
WINDOWS = {"5m": "15s", "15m": "20s", "30m": "240s", "1h": "30s", "3h": "60s", "6h": "60s", "3d": "120s", "1d": "120s", "2w": "180s"}
# Bound: how long an alert may take to fire or to end. The gateway looks at its topology every minute.
PATIENCE = 300
# How tests/operations.sh is told of a skip.
SKIPPED = 77
# In the environment of a process whose mounts are its own.
OWN_MOUNTS = "GATEWAY_ALERTS_HAS_OWN_MOUNTS"


class Link:
    """The way from the gateway to the broker, which can be cut and mended without the broker's leave."""

    def __init__(self, broker):
        self.broker, self.is_cut, self.sockets = broker, False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            if self.is_cut:
                client.close()
                continue
            broker = socket.create_connection(("127.0.0.1", self.broker))
            self.sockets += [client, broker]
            for source, sink in ((client, broker), (broker, client)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def pump(source, sink):
        with contextlib.suppress(OSError):
            while some := source.recv(65536):
                sink.sendall(some)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self.is_cut = True
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.sockets.clear()

    def mend(self):
        self.is_cut = False


class Site:
    """Everything that runs, in one folder."""

    def __init__(self, program, work):
        self.program, self.work, self.home = program, work, work / "site"
        self.processes, self.redis = {}, ""
        self.http, self.admin, self.prometheus = free_port(), free_port(), free_port()
        shutil.rmtree(work, ignore_errors=True)
        for folder in (self.home / "data", work / "bin", work / "prometheus"):
            folder.mkdir(parents=True)
        # Whoever may not mount has the folder as it is.
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.home / "data"]
        self.is_volume_small = OWN_MOUNTS in os.environ and subprocess.run(mount, check=False).returncode == 0

    def start_broker(self):
        environment = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
        broker = subprocess.run([ROOT / "deploy/broker.sh", "start", self.work / "broker"], env=environment,
                                stdout=subprocess.PIPE, text=True, check=True)
        node = self.work / "broker/node"
        if not node.is_dir():
            raise SystemExit("a broker runs here already, and this would hurt it: stop it, so that a private one is made")
        epmd = pathlib.Path(f"/proc/{(self.work / 'broker/epmd.pid').read_text().strip()}/cmdline").read_bytes()
        port = (self.work / "broker/broker.port").read_text().strip()
        environment = (f"HOME={node}/home ERL_EPMD_PORT={epmd.split(bytes(1))[2].decode()} ERL_EPMD_ADDRESS=127.0.0.1 "
                       f"RABBITMQ_NODENAME=gateway-{port}@localhost RABBITMQ_CONF_ENV_FILE=/dev/null LANG=C.UTF-8 "
                       f"PATH=$PATH:/usr/lib/erlang/bin")
        for tool in ("rabbitmqctl", "rabbitmq-queues", "rabbitmq-diagnostics"):
            self.wrap(tool, f"exec env {environment} /usr/lib/rabbitmq/bin/{tool} \"$@\"")
        self.wrap("alipay-notify-gateway", f"exec {self.program} \"$@\"")
        self.link = Link(int(port))
        self.uri = broker.stdout.strip().replace(f":{port}/", f":{self.link.port}/")

    def wrap(self, name, line):
        path = self.work / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{line}\n")
        path.chmod(0o755)

    def configure(self):
        for keys in ("keys", "next-keys", "strange-keys"):
            self.sh(f"alipay-notify-gateway simulate keys {keys}")
        (self.home / "admin.token").write_text("a-token-that-nobody-guesses")
        self.write_config()
        self.sh("alipay-notify-gateway simulate send --key keys/alipay-private.pem --count 1 --bodies-out bodies")
        self.sh("head -n 1 bodies | cut -f 2 > captured-body.txt")

    def write_config(self, more="", door="", keys=("keys/alipay-public.pem",), store='path = "data/gateway.db"',
                     app="2021000000000001"):
        # At once and not in place: half a file would be another fault.
        (self.home / "gateway.toml.new").write_text(f"""{more}
[http]
listen = "127.0.0.1:{self.http}"
max_connections = 64
{door}
[admin]
listen = "127.0.0.1:{self.admin}"
token_file = "admin.token"
[amqp]
uri = "{self.uri}"
[[amqp.queues]]
name = "payments.orders"
bind = ["payment.succeeded"]
[[amqp.queues]]
name = "payments.others"
bind = ["payment.late", "payment.conflict", "trade.#", "notification.#"]
[store]
{store}
max_returned = 100
[[apps]]
app_id = "{app}"
environment = "sandbox"
seller_ids = ["2088101117955611"]
alipay_public_keys = {json.dumps(list(keys))}
shadow_public_keys = ["next-keys/alipay-public.pem"]
""")
        (self.home / "gateway.toml.new").rename(self.home / "gateway.toml")

    def start_redis(self):
        """Says whether there is one to be had."""
        redis = subprocess.run([ROOT / "deploy/redis.sh", "start", self.work / "redis"], stdout=subprocess.PIPE, text=True,
                               check=False)
        self.redis = redis.stdout.strip()
        return redis.returncode == 0

    def signal_redis(self, number):
        for pid in (self.work / "redis").glob("node-*/pid"):
            os.kill(int(pid.read_text()), number)

    def start_gateway(self):
        self.start("gateway", [self.program, "serve", "--config", "gateway.toml"])
        self.wait("the gateway is ready", lambda: self.metrics() and "gateway_ready 1" in self.metrics())

    def refunds(self, verb):
        """Of a binding that is not the gateway's to declare: add or remove."""
        self.sh(f"""rabbitmqctl eval 'Of = fun(Kind, Name) -> rabbit_misc:r(<<"/">>, Kind, Name) end,
            ok = rabbit_binding:{verb}({{binding, Of(exchange, <<"payments">>), <<"payment.refunded">>,
                                        Of(queue, <<"payments.others">>), []}}, <<"test">>).'""")

    def start_prometheus(self):
        text = re.sub(r"for: \d+[mh]", "for: 4s", RULES.read_text())
        text = text.replace(":1h]", ":4s]")
        text = re.sub(r"\[(\d+\w)(:4s)?\]", lambda found: f"[{WINDOWS[found[1]]}{found[2] or ''}]", text)
        text = text.replace("offset 1w", "offset 60s").replace("offset 2w", "offset 120s").replace("> 1800", "> 20")
        text = text.replace("< 3600", "< 30")
        folder = self.work / "prometheus"
        (folder / "rules.yml").write_text(text)
        (folder / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 2s, scrape_timeout: 2s, evaluation_interval: 2s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: alipay-notify-gateway
    file_sd_configs: [{{files: [targets.json]}}]
""")
        self.scrape(self.admin)
        self.start("prometheus", ["prometheus", f"--config.file={folder}/prometheus.yml",
                                  f"--storage.tsdb.path={folder}/data", "--log.level=warn",
                                  f"--web.listen-address=127.0.0.1:{self.prometheus}"])
        self.wait("Prometheus has scraped the gateway",
                  lambda: self.query('up{job="alipay-notify-gateway"} == 1'))

    def scrape(self, *ports):
        """Changed under a running Prometheus, which looks again by itself."""
        targets = self.work / "prometheus/targets.json"
        targets.with_suffix(".new").write_text(json.dumps([{"targets": [f"127.0.0.1:{port}" for port in ports]}]))
        targets.with_suffix(".new").rename(targets)

    def start(self, name, command):
        with open(self.work / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, cwd=self.home, stdout=log, stderr=log)

    def stop(self, name):
        process = self.processes.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def load(self, name="load", key="keys", rate=5, shares="payment=90,redelivery=10"):
        """Until it is stopped."""
        self.start(name, [self.program, "simulate", "send", "--url", self.url(), "--key", f"{key}/alipay-private.pem",
                          "--count", "1000000", "--rate", str(rate), "--shares", shares])

    def url(self):
        return f"http://127.0.0.1:{self.http}/alipay/notify"

    def send(self, key="keys", count=20, more=""):
        """Some that are refused, which simulate then complains about."""
        self.sh(f"alipay-notify-gateway simulate send --url {self.url()} --key {key}/alipay-private.pem "
                f"--count {count} {more}", allowed={0, 1})

    def sh(self, command, allowed=frozenset({0})):
        environment = {**os.environ, "PATH": f"{self.work}/bin:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=self.home, env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=PATIENCE)
        if done.returncode not in allowed:
            raise SystemExit(f"exit {done.returncode}: {command}\n{done.stdout[-3000:]}")
        return done.stdout

    def metrics(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5).read().decode()

    def query(self, expression):
        with contextlib.suppress(OSError):
            return dashboard.ask(self.prometheus_url(), "query", query=expression)

    def prometheus_url(self):
        return f"http://127.0.0.1:{self.prometheus}"

    def firing(self):
        found = self.query('ALERTS{alertstate="firing"}') or []
        return {one["metric"]["alertname"] for one in found}

    def started(self):
        """When the gateway did, as Prometheus knows it, to the second."""
        return [one["value"][1] for one in self.query("process_start_time_seconds") or []]

    def wait(self, what, condition):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.5)
        raise SystemExit(f"waited {PATIENCE} s in vain: {what}; firing: {sorted(self.firing())}")

    def trade(self):
        """One that waits, or else any."""
        lines = self.sh("alipay-notify-gateway store export --config gateway.toml").splitlines()
        rows = [row for row in map(json.loads, lines) if "subject" in row]
        waits = [row for row in rows if row["state"] == "held"] or [row for row in rows if row["state"] == "deferred"]
        return (waits or rows)[0]["subject"]

    def end(self):
        for name in ("slow", "load", "stranger", "gateway", "prometheus"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name)
        subprocess.run([ROOT / "deploy/broker.sh", "stop", self.work / "broker"], check=False)
        subprocess.run([ROOT / "deploy/redis.sh", "stop", self.work / "redis"], check=False)


class Trial:
    """What fired, and which sections of the runbook were tried."""

    def __init__(self, site):
        self.site, self.fired, self.tried, self.skipped = site, set(), set(), set()
        self.sections = runbook()

    def skip(self, alerts, reason):
        """A fault that cannot be made here."""
        print(f"== {', '.join(alerts)}: skip: {reason}", flush=True)
        self.skipped.update(alerts)

    def fault(self, alerts, make, mend, well=()):
        """Made, seen and mended. What the commands begin with that it does not hurt, though their remarks say so, is `well`."""
        print(f"== {', '.join(alerts)}", flush=True)
        make()
        for alert in alerts:
            self.site.wait(f"{alert} fires", lambda alert=alert: alert in self.site.firing())
            print(f"   {alert} fires", flush=True)
            self.fired.add(alert)
        for alert in alerts:
            self.run(alert, fires=True, well=well)
        mend()
        for alert in alerts:
            self.site.wait(f"{alert} ends", lambda alert=alert: alert not in self.site.firing())
        print("   ended", flush=True)

    def run(self, section, fires=False, well=()):
        if section in self.tried:
            return
        self.tried.add(section)
        for command, codes, must in self.sections[section]:
            allowed = codes if must and fires and not command.startswith(tuple(well)) else codes | {0}
            command = command.replace("http://127.0.0.1:9090", f"http://127.0.0.1:{self.site.admin}")
            command = command.replace("//127.0.0.1:8080", f"//127.0.0.1:{self.site.http}")
            if "redis-cli" in command and not self.site.redis:
                print(f"   skip: there is no Redis here: {command}", flush=True)
                continue
            command = command.replace("redis://127.0.0.1:6379", self.site.redis)
            if "2026112322001427340000000000" in command:
                command = command.replace("2026112322001427340000000000", self.site.trade())
            for damaged in (self.site.home / "data").glob("*.damaged-*[0-9]"):
                command = command.replace("gateway.db.damaged-1764000000", damaged.name)
            self.site.sh(command, allowed)
            print(f"   $ {command}", flush=True)


def runbook():
    """Section → [(command, exit codes, whether it must exit so while the alert fires)]. "exits 1 while …" must, "if …" may."""
    sections, name = {}, None
    for line in RUNBOOK.read_text().splitlines():
        if line.startswith("#"):
            name = line.lstrip("# ")
            sections[name] = []
        elif line.startswith("$ "):
            command, _, remark = line[2:].partition("  # exits ")
            codes = {int(code) for code in re.findall(r"\b\d+\b", remark)}
            if remark and not (codes and re.match(r"[\d ]+(while|if) ", remark)):
                raise SystemExit(f"docs/runbook.md: neither while nor if: {line}")
            sections[name].append((command, codes, " while " in remark))
    return sections


def free_port():
    # Below what the kernel hands out by itself, as deploy/broker.sh does.
    import random
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--gateway", required=True, type=pathlib.Path)
    arguments.add_argument("--work", required=True, type=pathlib.Path)
    arguments.add_argument("--picture", type=pathlib.Path)
    arguments.add_argument("--faults-only", action="store_true", help="leave the dashboard out")
    arguments.add_argument("--parts", nargs="+", choices=[part.__name__ for part in faults.ALL],
                           help="of faults.py, such as of_the_store; all if there are none")
    arguments = arguments.parse_args()
    if os.geteuid() == 0 and OWN_MOUNTS not in os.environ and shutil.which("unshare"):
        # A small volume that is gone with this process.
        os.environ[OWN_MOUNTS] = "yes"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, "-u", *sys.argv])
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where a shell has had it ignored: nothing may be left running.
        signal.signal(number, lambda *_: sys.exit(1))
    site = Site(arguments.gateway.resolve(), arguments.work.resolve())
    try:
        site.start_broker()
        site.configure()
        site.start_gateway()
        # The gateway is ready before it has declared anything.
        site.wait("there are queues", lambda: "payments.others" in site.sh("rabbitmqctl list_queues name"))
        site.refunds("add")
        site.start_prometheus()
        if not arguments.faults_only:
            look(site)
        if arguments.picture:
            draw(site, arguments.picture)
        trial = Trial(site)
        site.load()
        site.wait("payments are announced", lambda: site.query(
            'sum(rate(alipay_gateway_events_total{result="confirmed"}[15s])) > 0'))
        for part in faults.ALL:
            if arguments.parts is None or part.__name__ in arguments.parts:
                part(site, trial)
        site.stop("load")
        if arguments.parts is None:
            for section in trial.sections:
                trial.run(section)
        silent = set(re.findall(r"- alert: (\w+)", RULES.read_text())) - trial.fired
        print(f"{len(trial.fired)} alerts fired and ended, and not: {', '.join(sorted(silent)) or 'none'}")
        if arguments.parts is None and silent - trial.skipped:
            raise SystemExit(f"no fault made these fire: {', '.join(sorted(silent - trial.skipped))}")
        # As in tests/operations.sh: what is missing is a skip and no success.
        return SKIPPED if arguments.parts is None and silent else 0
    finally:
        site.end()


def draw(site, file):
    """Load, and the broker away for a while."""
    site.load(rate=30, shares="payment=78,redelivery=10,refund=6,finish=2,forged=4")
    time.sleep(60)
    site.link.cut()
    time.sleep(40)
    site.link.mend()
    time.sleep(80)
    dashboard.draw(dashboard.look(DASHBOARD, site.prometheus_url(), 180, 1), "Alipay notify gateway", file)
    site.stop("load")


def look(site):
    """The metrics as Prometheus' own tool judges them, the dashboard at rest and under load."""
    judged = subprocess.run(["promtool", "check", "metrics"], input=site.metrics(), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    if judged.returncode != 0 or judged.stdout:
        raise SystemExit(f"promtool check metrics: {judged.stdout}")
    print("== the dashboard at rest", flush=True)
    time.sleep(20)  # A window of samples, which is what is looked at.
    dashboard.refuse(dashboard.look(DASHBOARD, site.prometheus_url(), 15, 1))
    print("== the dashboard under load", flush=True)
    site.load(rate=30, shares="payment=78,redelivery=10,refund=6,finish=2,forged=4")
    time.sleep(60)
    seen = dashboard.look(DASHBOARD, site.prometheus_url(), 45, 1)
    dashboard.refuse(seen)
    site.stop("load")


if __name__ == "__main__":
    sys.exit(main())
