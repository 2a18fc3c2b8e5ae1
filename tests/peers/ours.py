"""Asks this gateway, through `explain` with a configuration of two apps: accepted is what `serve` would announce."""

import base64
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

folder, gateway = Path(sys.argv[1]), sys.argv[2]
(folder / "gateway.toml").write_text("""
[[apps]]
app_id = "2021000000000001"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["alipay.pem"]
[[apps]]
app_id = "2014000000000002"
seller_ids = ["2088101117955611"]
alipay_public_keys = ["shared.pem"]
sign_type = "RSA"
""")


def accepted(line):
    body = base64.b64decode(json.loads(line)["body"])
    command = [gateway, "explain", "--config", folder / "gateway.toml", "--format", "json", "--at", "2026-11-23 10:16:31", "-"]
    told = json.loads(subprocess.run(command, input=body, capture_output=True, check=False).stdout)
    return told["verified"] and told["event"] is not None


with ThreadPoolExecutor(2) as pool:
    print(json.dumps(list(pool.map(accepted, open(folder / "corpus.jsonl", encoding="utf-8")))))
