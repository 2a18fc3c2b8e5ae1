// Asks the official Node SDK for each case's signed query (sdkExecute), and hears what it hands to RSA.
// Prints [{"request": {parameter: value}, "string_to_sign": "..."}].
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { readFileSync } from 'node:fs';
import { parse } from 'node:querystring';

const heard = [];
const { createSign } = crypto;
crypto.createSign = (algorithm) => {
  const sign = createSign(algorithm);
  const { update } = sign;
  sign.update = (data, encoding) => {
    heard.push(`${data}`);
    return update.call(sign, data, encoding);
  };
  return sign;
};
syncBuiltinESMExports();
const { AlipaySdk } = await import('alipay-sdk');

const [casesFile, keyFile, appId] = process.argv.slice(2);
const sdk = new AlipaySdk({ appId, privateKey: readFileSync(keyFile, 'utf8') });
const codes = { page: 'FAST_INSTANT_TRADE_PAY', wap: 'QUICK_WAP_WAY' };
const answers = JSON.parse(readFileSync(casesFile, 'utf8')).map((order) => {
  const { product, notify_url, return_url, ...members } = order;
  members.product_code = codes[product];
  // JSON has no order of its own: by name, as pay-link and the Python SDK write it.
  const bizContent = Object.fromEntries(Object.entries(members).sort(([a], [b]) => (a < b ? -1 : 1)));
  const parameters = { format: 'json', bizContent };
  if (notify_url) parameters.notifyUrl = notify_url;
  if (return_url) parameters.returnUrl = return_url;
  const query = sdk.sdkExecute(`alipay.trade.${product}.pay`, parameters);
  return { request: { ...parse(query) }, string_to_sign: heard.pop() };
});
console.log(JSON.stringify(answers));
