"""Asks python-alipay-sdk as its README says: the form as a dict, `sign` taken out, `verify`. Accepted is what is True."""

import base64
import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl

from alipay import AliPay

folder = Path(sys.argv[1])


def client(key, sign_type):
    return AliPay(
        appid="2021000000000001",
        app_notify_url=None,
        app_private_key_string=(folder / "merchant.pem").read_text(),
        alipay_public_key_string=(folder / key).read_text(),
        sign_type=sign_type,
    )


clients = {"RSA2": client("alipay.pem", "RSA2"), "RSA": client("shared.pem", "RSA")}


def accepted(line):
    case = json.loads(line)
    # As a web framework gives it: decoded as UTF-8, the last of two values.
    body = base64.b64decode(case["body"]).decode("latin-1")
    data = dict(parse_qsl(body, keep_blank_values=True, encoding="utf-8", errors="replace"))
    try:
        return bool(clients[case["app"]].verify(data, data.pop("sign")))
    except Exception:
        return False


print(json.dumps([accepted(line) for line in open(folder / "corpus.jsonl", encoding="utf-8")]))
