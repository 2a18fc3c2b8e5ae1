"""Makes the corpus: authentic notifications of every shape, forgeries, and what Alipay signed for somebody else.

The signer is `cryptography`'s, and the rules are those of Alipay's documents; no line is shared with the gateway.
Writes keys, and corpus.jsonl with a line for each: name, kind, truth, app, body (base64).
"""

import base64
import json
import random
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

APP, RSA_APP, OTHER_APP = "2021000000000001", "2014000000000002", "2021000000000009"
SELLER, OTHER_SELLER = "2088101117955611", "2088000000000042"


def make_key(bits=2048):
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def content(fields, version="V1", empties=False):
    left_out = {b"sign", b"sign_type"} if version == "V1" else {b"sign"}
    return b"&".join(
        name + b"=" + value
        for name, value in sorted(fields)
        if name not in left_out and (value or empties)
    )


def sign(fields, key, version="V1", digest=None, empties=False):
    signature = key.sign(content(fields, version, empties), padding.PKCS1v15(), digest or hashes.SHA256())
    return fields + [(b"sign", base64.b64encode(signature))]


def encode(fields, how=quote_plus):
    return b"&".join(quote_plus(name).encode() + b"=" + how(value).encode() for name, value in fields)


def put(fields, name, value):
    value = value if isinstance(value, bytes) else value.encode()
    return [(n, v) for n, v in fields if n != name.encode()] + [(name.encode(), value)]


def drop(fields, *names):
    return [(n, v) for n, v in fields if n.decode() not in names]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.alipay, self.shared, self.stranger = make_key(), make_key(1024), make_key()

    def payment(self):
        r = self.random
        number = r.randrange(10**10)
        yuan = f"{r.randrange(1, 10**5)}.{r.randrange(100):02}"
        fields = {
            "gmt_create": "2026-11-23 10:15:30", "charset": "utf-8", "gmt_payment": "2026-11-23 10:15:31",
            "notify_time": "2026-11-23 10:15:32", "subject": r.choice(["测试商品", "T-shirt", "会员 年费"]),
            "buyer_id": "2088000000000016", "invoice_amount": yuan, "version": "1.0",
            "notify_id": f"20261123002221015320014273{number:010}",
            "fund_bill_list": json.dumps([{"amount": yuan, "fundChannel": "ALIPAYACCOUNT"}], separators=(",", ":")),
            "notify_type": "trade_status_sync", "out_trade_no": f"R-{number}", "total_amount": yuan,
            "trade_status": "TRADE_SUCCESS", "trade_no": f"202611232200142734{number:010}",
            "auth_app_id": APP, "receipt_amount": yuan, "point_amount": "0.00", "app_id": APP,
            "buyer_pay_amount": yuan, "sign_type": "RSA2", "seller_id": SELLER,
        }
        pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
        r.shuffle(pairs)
        return pairs

    def refund(self):
        fields = put(drop(self.payment(), "receipt_amount", "fund_bill_list"), "refund_fee", "0.01")
        return put(put(fields, "gmt_refund", "2026-11-23 10:15:31.250"), "out_biz_no", "B-1")

    def shapes(self):
        """Authentic, each as (kind, body)."""
        p, signed = self.payment, lambda fields, **more: encode(sign(fields, self.alipay, **more))
        text = lambda name, value: (lambda: signed(put(p(), name, value)))
        yield "payment", lambda: signed(p())
        yield "plus in a text", text("subject", "iPhone 15+ 手机壳")
        yield "spaces at the ends", text("subject", "  测试 ")
        yield "tab and line break in a text", text("body", "一行\n两行\t三")
        yield "quotes and tags", text("subject", "\"引号\" <b>'&amp;'</b>")
        yield "ampersand and equals in a text", text("passback_params", "a=1&b=2")
        yield "names of fields in a text, where none can have been", lambda: signed(
            put(p(), "passback_params", self.random.choice(["uid=5&status=1", "a=1&service=vip", "id=3&method=alipay"])))
        yield "percent-encoded passback", text("passback_params", "a%3D1%26b%3D%E4%B8%AD")
        yield "JSON in a text", text("passback_params", '{"order":"1+1","a":[1, 2]}')
        yield "backslashes", text("subject", "C:\\path\\new")
        yield "emoji", text("subject", "礼物🎁")
        yield "long text", text("body", "长" * 400)
        yield "star raw", lambda: encode(sign(put(p(), "subject", "5*3"), self.alipay), lambda v: quote_plus(v, safe="*"))
        yield "space as %20", lambda: encode(sign(put(p(), "subject", "a b"), self.alipay), quote)
        yield "GBK", lambda: signed(put(put(p(), "charset", "GBK"), "subject", "测试商品".encode("gbk")))
        yield "GB18030", lambda: signed(put(put(p(), "charset", "GB18030"), "subject", "㐀测试".encode("gb18030")))
        yield "charset absent", lambda: signed(drop(p(), "charset", "version", "auth_app_id"))
        yield "buyer_open_id", lambda: signed(put(drop(p(), "buyer_id"), "buyer_open_id", "074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5"))
        yield "refund_fee=0.00 on a payment", text("refund_fee", "0.00")
        yield "empty value, not signed", lambda: signed(put(p(), "body", ""))
        yield "empty value, signed", lambda: signed(put(p(), "body", ""), empties=True)
        yield "auth_app_id of another", text("auth_app_id", OTHER_APP)
        yield "unknown fields", lambda: signed(put(put(p(), "merchant_app_id", APP), "notify_action_type", "payByAccountAction"))
        yield "partial refund", lambda: signed(self.refund())
        yield "full refund", lambda: signed(put(put(self.refund(), "trade_status", "TRADE_CLOSED"), "gmt_close", "2026-11-23 10:15:31"))
        yield "closed unpaid", lambda: signed(put(drop(p(), "gmt_payment"), "trade_status", "TRADE_CLOSED"))
        yield "waiting", lambda: signed(put(drop(p(), "gmt_payment"), "trade_status", "WAIT_BUYER_PAY"))
        yield "finished first", text("trade_status", "TRADE_FINISHED")
        yield "agreement", lambda: signed(put(drop(p(), "trade_status", "trade_no", "out_trade_no", "total_amount"), "notify_type", "dut_user_sign"))
        yield "application gateway, V2", lambda: signed(
            put(put(drop(p(), "trade_status", "total_amount"), "notify_type", "servicemarket_order_notify"), "service", "alipay.open.servicemarket.order.notify"), version="V2")
        yield "sign_type RSA", lambda: encode(sign(self.of_rsa(p()), self.shared, digest=hashes.SHA1()))

    def of_rsa(self, fields):
        return put(put(put(fields, "app_id", RSA_APP), "auth_app_id", RSA_APP), "sign_type", "RSA")

    def forgeries(self):
        p, key = self.payment, self.alipay
        signed = lambda fields=None, **more: sign(fields or p(), key, **more)
        with_raw_sign = lambda fields, signature: encode(fields + [(b"sign", base64.b64encode(signature))])
        for name, value in [("total_amount", "0.01"), ("trade_no", "2026112322001427349999999999"), ("out_trade_no", "X"),
                            ("trade_status", "TRADE_FINISHED"), ("seller_id", OTHER_SELLER), ("app_id", RSA_APP),
                            ("notify_time", "2026-11-24 10:15:32"), ("subject", "别的")]:
            yield f"{name} changed", lambda name=name, value=value: encode(put(signed(), name, value))
        yield "field added", lambda: encode(put(signed(), "refund_fee", "1.00"))
        yield "field removed", lambda: encode(drop(signed(), "receipt_amount"))
        yield "name doubled, first", lambda: b"total_amount=0.01&" + encode(signed())
        yield "name doubled, last", lambda: encode(signed()) + b"&total_amount=0.01"
        yield "name doubled, encoded", lambda: encode(signed()) + b"&%74otal_amount=0.01"
        yield "stranger's key", lambda: encode(sign(p(), self.stranger))
        yield "stranger's key, RSA", lambda: encode(sign(put(p(), "sign_type", "RSA"), self.stranger, digest=hashes.SHA1()))
        yield "SHA-1 under RSA2", lambda: encode(signed(digest=hashes.SHA1()))
        yield "SHA-1, sign_type said RSA afterwards", lambda: encode(put(signed(digest=hashes.SHA1()), "sign_type", "RSA"))
        yield "no sign", lambda: encode(p())
        yield "sign empty", lambda: encode(put(p(), "sign", ""))
        yield "sign of zeros", lambda: with_raw_sign(p(), bytes(256))
        yield "sign of another notification", lambda: with_raw_sign(p(), base64.b64decode(dict(signed())[b"sign"]))
        yield "sign with a byte behind it", lambda: with_raw_sign(p(), base64.b64decode(dict(signed())[b"sign"]) + b"\0")
        yield "sign_type none", lambda: encode(put(drop(signed(), "sign"), "sign_type", "none"))
        yield "payment's border moved into the subject", self.moved_into_subject
        yield "refund_fee swallowed by the passback", self.swallowed
        yield "border in a name", self.border_in_a_name
        yield "unknown field swallowed by trade_status", self.swallowed_by_status
        yield "V2 trap: a trade signed as gateway traffic", lambda: encode(signed(put(p(), "service", "alipay.x"), version="V2"))

    def moved_into_subject(self):
        genuine = sign(put(self.payment(), "subject", "x&total_amount=0.01"), self.alipay)
        return encode(put([(n, v) for n, v in genuine if n not in (b"subject", b"total_amount")], "subject", "x") + [(b"total_amount", b"0.01")])

    def swallowed(self):
        fields = put(put(self.refund(), "passback_params", "p"), "receipt_amount", "1.00")
        genuine = sign(fields, self.alipay)
        values = dict(genuine)
        merged = b"p&receipt_amount=" + values[b"receipt_amount"] + b"&refund_fee=" + values[b"refund_fee"]
        return encode(put(drop(genuine, "receipt_amount", "refund_fee"), "passback_params", merged))

    def swallowed_by_status(self):
        genuine = sign(put(self.payment(), "trade_type", "x1"), self.alipay)
        return encode(put(drop(genuine, "trade_type"), "trade_status", "TRADE_SUCCESS&trade_type=x1"))

    def border_in_a_name(self):
        genuine = sign(put(self.payment(), "refund_fee", "1.00"), self.alipay)
        values = dict(genuine)
        name = b"receipt_amount=" + values[b"receipt_amount"] + b"&refund_fee"
        return encode(drop(genuine, "receipt_amount", "refund_fee") + [(name, b"1.00")])

    def for_others(self):
        """Signed by Alipay, and not for us."""
        yield "of another seller", lambda: encode(sign(put(self.payment(), "seller_id", OTHER_SELLER), self.alipay))
        yield "of an app that is not ours", lambda: encode(sign(put(self.payment(), "app_id", OTHER_APP), self.alipay))
        yield "of another merchant, shared RSA key", lambda: encode(sign(put(self.of_rsa(self.payment()), "seller_id", OTHER_SELLER), self.shared, digest=hashes.SHA1()))
        yield "a replay of last month", lambda: encode(sign(put(self.payment(), "notify_time", "2026-10-01 10:15:32"), self.alipay))
        yield "a return-URL query", lambda: encode(sign(put(drop(self.payment(), "notify_id", "notify_time", "notify_type", "trade_status"), "method", "alipay.trade.page.pay.return"), self.alipay))


def main():
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    maker = Maker(1)
    (folder / "alipay.pem").write_bytes(pem(maker.alipay))
    (folder / "shared.pem").write_bytes(pem(maker.shared))
    private = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    (folder / "merchant.pem").write_bytes(make_key().private_bytes(*private))
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as out:
        for truth, kinds in [("authentic", maker.shapes), ("forged", maker.forgeries), ("not for us", maker.for_others)]:
            kinds = list(kinds())
            for n in range(count if truth != "not for us" else count // 6):
                kind, make = kinds[n % len(kinds)]
                body = base64.b64encode(make()).decode()
                app = "RSA" if "RSA" in kind and "RSA2" not in kind and "said" not in kind and "stranger" not in kind else "RSA2"
                out.write(json.dumps({"kind": kind, "truth": truth, "app": app, "body": body}, ensure_ascii=False) + "\n")


main()
