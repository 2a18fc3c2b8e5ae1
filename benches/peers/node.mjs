// What a merchant writes with the official SDK: fastify, alipay-sdk, amqplib's confirm channel.
// Usage: node node.mjs PORT PUBLIC_KEY.pem AMQP_URI EXCHANGE
import { readFileSync } from 'node:fs';
import { parse } from 'node:querystring';
import { AlipaySdk } from 'alipay-sdk';
import amqplib from 'amqplib';
import Fastify from 'fastify';

const [port, key, uri, exchange] = process.argv.slice(2);
const bare = readFileSync(key, 'utf8').replace(/-----[^-]+-----|\s/g, '');
// The SDK wants a private key, which is not used for verifying.
const sdk = new AlipaySdk({ appId: '2021000000000001', privateKey: bare, alipayPublicKey: bare });
const channel = await (await amqplib.connect(uri)).createConfirmChannel();
const app = Fastify();
app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_, body, done) => done(null, parse(body)));
app.post('/alipay/notify', async (request, reply) => {
  const form = { ...request.body };
  if (!sdk.checkNotifySign(form)) return reply.type('text/plain').send('fail');
  const event = { id: `${form.app_id}.${form.trade_no}`, trade_no: form.trade_no, out_trade_no: form.out_trade_no,
    total_amount: form.total_amount, notification: form };
  await new Promise((resolve, reject) => channel.publish(exchange, 'payment.succeeded', Buffer.from(JSON.stringify(event)),
    { persistent: true, mandatory: true, contentType: 'application/json', messageId: event.id },
    (error) => (error ? reject(error) : resolve())));
  return reply.type('text/plain').send('success');
});
await app.listen({ port: Number(port), host: '127.0.0.1' });
