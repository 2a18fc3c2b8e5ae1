"""What goes wrong, for tests/operations/alerts_live.py: each fault is made, its alerts fire, and it is mended."""

import contextlib
import datetime
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

NUMBERS = itertools.count(1)


class Payment:
    """A notification of Alipay's, as simulate makes them, with what a test wants to be otherwise; signed anew."""

    def __init__(self, site, **fields):
        self.site = site
        self.fields = dict(urllib.parse.parse_qsl((site.home / "captured-body.txt").read_text().strip()))
        number = next(NUMBERS)
        self.fields.update(trade_no=f"{self.fields['trade_no'][:-6]}{number:06}", out_trade_no=f"F{number:08}", **fields)

    def paid(self, ago):
        self.fields.update(gmt_create=beijing(ago), gmt_payment=beijing(ago))
        return self

    def post(self, notified_ago=0, **changed):
        fields = {**self.fields, **changed, "notify_time": beijing(notified_ago), "notify_id": f"n{next(NUMBERS):016}"}
        named = sorted((name, value) for name, value in fields.items() if value and name not in ("sign", "sign_type"))
        content = "&".join(f"{name}={value}" for name, value in named)
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.site.home / "keys/alipay-private.pem"],
                                   input=content.encode(), stdout=subprocess.PIPE, check=True).stdout
        signature = subprocess.run(["openssl", "base64", "-A"], input=signature, stdout=subprocess.PIPE, check=True).stdout
        body = urllib.parse.urlencode({**fields, "sign": signature.decode()}).encode()
        try:
            return urllib.request.urlopen(self.site.url(), body, timeout=20).read().decode()
        except urllib.error.HTTPError as refused:
            return refused.read().decode()


def beijing(ago):
    """Alipay's clock, seconds ago."""
    at = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=8))) - datetime.timedelta(seconds=ago)
    return at.strftime("%Y-%m-%d %H:%M:%S")


def expect(answer, wanted):
    if answer != wanted:
        raise SystemExit(f"answered {answer}, not {wanted}")


def drop(site):
    site.sh(f"alipay-notify-gateway trade drop {site.trade()} --who test --reason 'not ours' "
            f"--admin http://127.0.0.1:{site.admin} --token-file admin.token")


def of_keys(site, trial):
    trial.fault(["AlipayGatewayPolicyRefused"], lambda: site.write_config("nonsense = 1"), site.write_config)
    trial.fault(["AlipayGatewayKeyNotBelieved"], lambda: site.send("next-keys"), lambda: None)

    def certificate():
        # Not an authority's, and not a key that is there already.
        site.sh("alipay-notify-gateway simulate keys soon-keys")
        site.sh("printf '[req]\\ndistinguished_name=d\\n[d]\\n' >openssl.cnf; export OPENSSL_CONF=openssl.cnf; "
                "openssl req -x509 -new -key strange-keys/alipay-private.pem -days 5 -subj /CN=root -out root.crt; "
                "openssl req -new -key soon-keys/alipay-private.pem -subj /CN=soon -out soon.csr; "
                "openssl x509 -req -in soon.csr -CA root.crt -CAkey strange-keys/alipay-private.pem -CAcreateserial -days 5 "
                "-out soon.crt")
        site.write_config(keys=["keys/alipay-public.pem", "soon.crt"])
    trial.fault(["AlipayGatewayCertificateExpiry"], certificate, site.write_config)

    def rotate():
        site.stop("load")
        site.load("stranger", key="strange-keys")

    def rotate_back():
        site.stop("stranger")
        site.load()
    trial.fault(["AlipayGatewaySignatureFailures", "AlipayGatewaySignatureRotation", "AlipayGatewaySilence"], rotate,
                rotate_back)


def of_apps(site, trial):
    # A digit too many: what comes for the app is a stranger's.
    trial.fault(["AlipayGatewayAppGone", "AlipayGatewayRefusing"], lambda: site.write_config(app="20210000000000011"),
                site.write_config)


def of_payments(site, trial):
    # Two, and the runbook releases one: the other is dropped.
    trial.fault(["AlipayGatewayHeld"], lambda: site.send(count=2, more="--seller-id 2088000000000042"), lambda: drop(site))

    def conflict():
        payment = Payment(site)
        expect(payment.post(), "success")
        expect(payment.post(total_amount="0.01"), "success")
    trial.fault(["AlipayGatewayConflict"], conflict, lambda: None)
    trial.fault(["AlipayGatewayLatePayment"], lambda: expect(Payment(site).paid(40 * 86400).post(), "success"),
                lambda: None)

    def late():
        # Half of what comes is old only if nothing else comes.
        site.stop("load")
        for _ in range(10):
            expect(Payment(site).post(notified_ago=120), "success")
            time.sleep(1)
    trial.fault(["AlipayGatewayDeliveryLag"], late, lambda: None)
    trial.fault(["AlipayGatewayClockSkew"], lambda: expect(Payment(site).post(notified_ago=-60), "success"), site.load)


def of_the_process(site, trial):
    def crowd():
        for _ in range(5):
            crowd = []
            for _ in range(100):
                crowd.append(socket.create_connection(("127.0.0.1", site.http), timeout=5))
            time.sleep(2)
            for one in crowd:
                one.close()
    trial.fault(["AlipayGatewaySaturated"], crowd, lambda: None)
    trial.fault(["AlipayGatewayTargetDown"], lambda: site.scrape(site.admin, 1), lambda: site.scrape(site.admin))
    trial.fault(["AlipayGatewayDown"], lambda: site.stop("gateway"), site.start_gateway)

    def restart():
        for _ in range(3):
            before = site.started()
            site.stop("gateway")
            site.start_gateway()
            site.wait("Prometheus has seen it", lambda: site.started() not in (before, []))
    trial.fault(["AlipayGatewayRestarts"], restart, lambda: None)


def of_the_door(site, trial):
    def again(door=""):
        site.stop("gateway")
        site.write_config(door=door)
        site.start_gateway()

    def certify(days):
        site.sh("test -e openssl.cnf || printf '[req]\\ndistinguished_name=d\\n[d]\\n' >openssl.cnf; export OPENSSL_CONF=openssl.cnf; "
                "test -e tls.key || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out tls.key; "
                f"openssl req -x509 -new -key tls.key -days {days} -subj /CN=localhost -addext subjectAltName=DNS:localhost "
                "-out tls.new; mv tls.new tls.crt")

    def begin_tls():
        certify(days=1)
        again(door='tls_certificate_file = "tls.crt"\ntls_key_file = "tls.key"')
    # Renewed under a running gateway.
    trial.fault(["AlipayGatewayTlsCertificateExpiry", "AlipayGatewayTlsCertificateEnding"], begin_tls,
                lambda: certify(days=90))
    again()

    def flood():
        site.stop("load")
        again(door='failure_budget = 1\nanswer_timeout = "1s"')
        site.load("stranger", key="strange-keys")
        site.wait("somebody is verified at low priority", lambda: threads(site, "low-priority"))
        # As if the cores had no time for it: each time that it is woken it takes two seconds to come.
        site.start("slow", ["strace", "-qq", "-o", os.devnull, "-e", "inject=futex:delay_exit=2000000",
                            *[word for thread in threads(site, "low-priority") for word in ("-p", thread)]])

    def ebb():
        site.stop("slow")
        site.stop("stranger")
        again()
        site.load()
    if shutil.which("strace"):
        trial.fault(["AlipayGatewayLowPriorityShed"], flood, ebb)
    else:
        trial.skip(["AlipayGatewayLowPriorityShed"], "there is no strace here: nobody is verified too late")


def threads(site, name):
    """Of the gateway, by what they call themselves."""
    tasks = pathlib.Path(f"/proc/{site.processes['gateway'].pid}/task").iterdir()
    return [task.name for task in tasks if (task / "comm").read_text().strip() == name]


def of_the_store(site, trial):
    data = site.home / "data"
    if site.is_volume_small:
        trial.fault(["AlipayGatewayStoreNearlyFull"], lambda: fill(data, but=8 << 20), lambda: (data / "ballast").unlink())
        trial.fault(["AlipayGatewayStoreUnchecked", "AlipayGatewayStoreDown"], lambda: fill(data, but=0),
                    lambda: (data / "ballast").unlink())
    else:
        trial.skip(["AlipayGatewayStoreNearlyFull", "AlipayGatewayStoreUnchecked", "AlipayGatewayStoreDown"],
                   "a small volume needs root: no store that is full")
    # With something held, so that there is something to salvage.
    site.send(count=2, more="--seller-id 2088000000000042")
    trial.fault(["AlipayGatewayStoreDamaged"], lambda: damage(site), lambda: None)


def fill(folder, but):
    """Until so many bytes are free; the gateway writes beside it."""
    with open(folder / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > but:
            ballast.write(bytes(4096))


def damage(site):
    """The first page of the database, found at a start: a running gateway has it in its log, and does not read it again."""
    site.stop("gateway")
    with open(site.home / "data/gateway.db", "r+b") as file:
        file.write(b"\xa5" * 4096)
    site.start_gateway()


def of_the_shared_store(site, trial):
    if not site.start_redis():
        trial.skip(["AlipayGatewayStoreRefusing"], "there is no Redis here: no store that is refused")
        return

    def again(store):
        site.stop("gateway")
        site.write_config(store=store)
        site.start_gateway()

    again(f'engine = "redis"\nuri = "{site.redis}"\nunavailable = "refuse"')
    trial.fault(["AlipayGatewayStoreRefusing"], lambda: site.signal_redis(signal.SIGSTOP),
                lambda: site.signal_redis(signal.SIGCONT))

    print("== a Redis that is full", flush=True)
    site.sh(f"redis-cli -u {site.redis} config set maxmemory 1")
    site.wait("payments are refused", lambda: "AlipayGatewayStoreRefusing" in site.firing())
    # The last of its commands gives it room.
    trial.run("When the store is Redis")
    site.wait("they are not", lambda: "AlipayGatewayStoreRefusing" not in site.firing())
    print("   ended", flush=True)
    again('path = "data/gateway.db"')


def of_the_link(site, trial):
    trial.fault(["AlipayGatewayBrokerDown", "AlipayGatewayErrorBudgetBurnFast", "AlipayGatewayErrorBudgetBurn",
                 "AlipayGatewayErrorBudgetBurnSlow", "AlipayGatewayBacklogGrowing", "AlipayGatewayBacklogStuck"],
                site.link.cut, site.link.mend, well=["rabbitmqctl"])

    def keep(hours):
        site.link.cut()
        expect(Payment(site).paid(hours * 3600).post(), "fail")
    # The last delivery comes a day and some after the payment.
    trial.fault(["AlipayGatewayLastRetryNear"], lambda: keep(22), site.link.mend)
    trial.fault(["AlipayGatewayLastRetryPast"], lambda: keep(30), site.link.mend)

    def slow():
        site.link.cut()
        time.sleep(20)
        site.link.mend()
    # What waited for the link is confirmed, and late.
    trial.fault(["AlipayGatewayLatencyBudgetBurn"], slow, lambda: None)


def of_the_broker(site, trial):
    trial.fault(["AlipayGatewayBrokerBlocked"],
                lambda: site.sh("rabbitmqctl set_vm_memory_high_watermark 0.00001"),
                lambda: site.sh("rabbitmqctl set_vm_memory_high_watermark 0.4"))
    full = json.dumps({"max-length": 1, "overflow": "reject-publish"})
    trial.fault(["AlipayGatewayNacked"],
                lambda: site.sh(f"rabbitmqctl set_policy full '^payments.orders$' '{full}' --apply-to queues"),
                lambda: site.sh("rabbitmqctl clear_policy full"))
    # A quorum queue that answers nobody, as without its majority.
    orders = '{list_to_atom("%2F_payments.orders"), node()}'
    trial.fault(["AlipayGatewayTypeSuspended"], lambda: site.sh(f"rabbitmqctl eval 'sys:suspend({orders}).'"),
                lambda: site.sh(f"rabbitmqctl eval 'sys:resume({orders}).'"))


def of_the_topology(site, trial):
    def refunds():
        site.refunds("remove")
        site.send(count=300, more="--shares payment=50,refund=50")
    trial.fault(["AlipayGatewayUnroutable", "AlipayGatewayBacklogNearlyFull"], refunds, lambda: site.refunds("add"))
    # What was deleted the gateway declares again at once; another in its place it leaves alone.
    another = """
        Name = rabbit_misc:r(<<"/">>, queue, <<"payments.orders">>), {ok, Queue} = rabbit_amqqueue:lookup(Name),
        rabbit_amqqueue:delete(Queue, false, false, <<"test">>),
        {Is, _} = rabbit_amqqueue:declare(Name, true, false, [], none, <<"test">>), Is."""
    trial.fault(["AlipayGatewayTopologyIncomplete"], lambda: site.sh(f"rabbitmqctl eval '{another}'"),
                lambda: site.sh("rabbitmqctl delete_queue payments.orders"))
    trial.fault(["AlipayGatewayQueueMadeAgain"], lambda: site.sh("rabbitmqctl delete_queue payments.orders"), lambda: None)


ALL = [of_payments, of_keys, of_apps, of_the_link, of_the_broker, of_the_topology, of_the_process, of_the_door,
       of_the_store, of_the_shared_store]
