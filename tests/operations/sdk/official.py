"""Asks the official Python SDK (alipay-sdk-python) for each case's link, and hears what it says that it signs.

Prints [{"request": {parameter: value}, "string_to_sign": "..."}]."""

import json
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from alipay.aop.api.AlipayClientConfig import AlipayClientConfig
from alipay.aop.api.DefaultAlipayClient import DefaultAlipayClient
from alipay.aop.api.domain.AlipayTradePagePayModel import AlipayTradePagePayModel
from alipay.aop.api.domain.AlipayTradeWapPayModel import AlipayTradeWapPayModel
from alipay.aop.api.request.AlipayTradePagePayRequest import AlipayTradePagePayRequest
from alipay.aop.api.request.AlipayTradeWapPayRequest import AlipayTradeWapPayRequest

cases, key, app_id = sys.argv[1:]
KINDS = {
    "page": (AlipayTradePagePayModel, AlipayTradePagePayRequest, "FAST_INSTANT_TRADE_PAY"),
    "wap": (AlipayTradeWapPayModel, AlipayTradeWapPayRequest, "QUICK_WAP_WAY"),
}


class Ear:
    """The logger of the SDK, which is told the gateway, `?`, the string to sign and `&sign=`."""

    def info(self, line):
        self.heard = line.split("?", 1)[1].rsplit("&sign=", 1)[0]

    error = warning = debug = info


config = AlipayClientConfig()
config.app_id = app_id
config.app_private_key = Path(key).read_text()
ear = Ear()
client = DefaultAlipayClient(config, ear)
answers = []
for order in json.loads(Path(cases).read_text(encoding="utf-8")):
    model_class, request_class, code = KINDS[order.pop("product")]
    urls = {name: order.pop(name, None) for name in ("notify_url", "return_url")}
    model = model_class()
    for name, value in [*order.items(), ("product_code", code)]:
        setattr(model, name, value)
    request = request_class(biz_model=model)
    for name, value in urls.items():
        if value:
            setattr(request, name, value)
    url = client.page_execute(request, http_method="GET")
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, strict_parsing=True))
    answers.append({"request": query, "string_to_sign": ear.heard})
print(json.dumps(answers))
