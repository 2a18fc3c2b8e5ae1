// Asks the official Node SDK as its README says: the form as an object, `checkNotifySign` or `checkNotifySignV2`.
import { readFileSync } from 'node:fs';
import { parse } from 'node:querystring';
import { AlipaySdk } from 'alipay-sdk';

const [folder, version] = process.argv.slice(2);
const read = (name) => readFileSync(`${folder}/${name}`, 'utf8');
const client = (key, signType) =>
  new AlipaySdk({ appId: '2021000000000001', privateKey: read('merchant.pem'), alipayPublicKey: read(key), signType });
const clients = { RSA2: client('alipay.pem', 'RSA2'), RSA: client('shared.pem', 'RSA') };

const accepted = (line) => {
  const { app, body } = JSON.parse(line);
  const data = { ...parse(Buffer.from(body, 'base64').toString('utf8')) };
  try {
    return Boolean(version === 'V2' ? clients[app].checkNotifySignV2(data) : clients[app].checkNotifySign(data));
  } catch {
    return false;
  }
};

console.log(JSON.stringify(read('corpus.jsonl').trim().split('\n').map(accepted)));
