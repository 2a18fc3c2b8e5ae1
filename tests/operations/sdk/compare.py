"""Makes each case's link with pay-link at the moment that an SDK chose, and compares request, string and signature."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

gateway, cases, key, app_id, *files = sys.argv[1:]
orders = json.loads(Path(cases).read_text(encoding="utf-8"))
FLAGS = {"total_amount": "--amount"}


def ours(order, timestamp):
    command = [gateway, "pay-link", "--format", "json", "--app-id", app_id, "--key", key, "--timestamp", timestamp]
    for name, value in order.items():
        if name != "product":
            command.append(f"{FLAGS.get(name, '--' + name.replace('_', '-'))}={value}")
    if order["product"] == "wap":
        command.append("--wap")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


compared = 0
for file in files:
    answers = json.loads(Path(file).read_text(encoding="utf-8"))
    assert len(answers) == len(orders), file
    for order, theirs in zip(orders, answers):
        mine = ours(order, theirs["request"]["timestamp"])
        request = dict(parse_qsl(urlsplit(mine["url"]).query, keep_blank_values=True, strict_parsing=True))
        assert request == theirs["request"], f"{file}:\n{request}\n{theirs['request']}"
        if theirs["string_to_sign"] is not None:
            assert mine["string_to_sign"] == theirs["string_to_sign"], f"{file}: {mine['string_to_sign']}"
        assert mine["sign"] == theirs["request"]["sign"], file
        compared += 1
    print(f"   {Path(file).stem}: {len(answers)} links, the same parameters, string and signature")
assert compared == len(orders) * len(files) and compared > 0
