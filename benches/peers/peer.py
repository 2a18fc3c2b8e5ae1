"""What a merchant writes with python-alipay-sdk: FastAPI on uvicorn, aio-pika with publisher confirms.

Usage: peer.py PORT PUBLIC_KEY.pem AMQP_URI EXCHANGE plain|standard

`plain` is uvicorn by itself (asyncio and h11), `standard` what `uvicorn[standard]` brings (uvloop and httptools).
"""

import json
import sys
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import aio_pika
import uvicorn
from alipay import AliPay
from Cryptodome.PublicKey import RSA
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse

port, key, uri, exchange_name, kind = sys.argv[1:]
with open(key, encoding="ascii") as file:
    alipay_key = file.read()
# The SDK wants a private key, which is not used for verifying.
sdk = AliPay(appid="2021000000000001", app_notify_url=None, app_private_key_string=RSA.generate(2048).export_key().decode(),
             alipay_public_key_string=alipay_key, sign_type="RSA2")
broker = {}


@asynccontextmanager
async def lifespan(_app):
    connection = await aio_pika.connect(uri)
    channel = await connection.channel(publisher_confirms=True)
    broker["exchange"] = await channel.get_exchange(exchange_name, ensure=False)
    yield
    await connection.close()


app = FastAPI(lifespan=lifespan)


@app.post("/alipay/notify", response_class=PlainTextResponse)
async def notify(request: Request):
    form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
    everything = dict(form)
    signature = form.pop("sign")
    if not sdk.verify(form, signature):
        return "fail"
    event = {"id": f"{form['app_id']}.{form['trade_no']}", "trade_no": form["trade_no"], "out_trade_no": form["out_trade_no"],
             "total_amount": form["total_amount"], "notification": everything}
    message = aio_pika.Message(json.dumps(event).encode(), content_type="application/json", message_id=event["id"],
                               delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await broker["exchange"].publish(message, "payment.succeeded", mandatory=True)
    return "success"


loop, http = ("asyncio", "h11") if kind == "plain" else ("uvloop", "httptools")
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error", access_log=False, loop=loop, http=http)
