"""Asks python-alipay-sdk, which is widely used and not official. It writes JSON with escapes where a text is not ASCII, so the
content goes in as text. It does not say what it signs: an RSA signature of this kind is the same only over the same bytes.

Prints [{"request": {parameter: value}, "string_to_sign": null}]."""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl

from alipay import AliPay

cases, key, app_id = sys.argv[1:]
folder = Path(key).parent
sdk = AliPay(
    appid=app_id,
    app_private_key_string=Path(key).read_text(),
    alipay_public_key_string=(folder / "app-public.pem").read_text(),
)
CODES = {"page": "FAST_INSTANT_TRADE_PAY", "wap": "QUICK_WAP_WAY"}
answers = []
for order in json.loads(Path(cases).read_text(encoding="utf-8")):
    product = order.pop("product")
    urls = {name: order.pop(name) for name in ("notify_url", "return_url") if name in order}
    order["product_code"] = CODES[product]
    content = json.dumps(order, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    query = sdk.client_api(f"alipay.trade.{product}.pay", content, format="json", **urls)
    request = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
    answers.append({"request": request, "string_to_sign": None})
print(json.dumps(answers))
