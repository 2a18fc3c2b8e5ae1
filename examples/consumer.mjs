// A complete small consumer: Node.js, amqplib, SQLite. What it does, and why, is in docs/consuming.md.
//
//   npm install amqplib better-sqlite3@12       (on Node 22.13 or newer amqplib alone)
//   AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f QUEUE=payments.orders DATABASE=orders.db node consumer.mjs
//
// Exchange SQLite for the database that your orders are in: the rule is that the insert into `seen`, the order and the
// shipment are one transaction there.

import amqplib from 'amqplib'

const Database = await import('node:sqlite').then(
  (sqlite) => sqlite.DatabaseSync,
  async () => (await import('better-sqlite3')).default,
)
const db = new Database(process.env.DATABASE ?? 'orders.db')
db.exec(`
CREATE TABLE IF NOT EXISTS orders (out_trade_no TEXT PRIMARY KEY, amount_minor INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'new', trade_no TEXT, refunded_minor INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS shipments (out_trade_no TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS reviews (message_id TEXT, why TEXT NOT NULL, body TEXT NOT NULL);
`)
const environment = process.env.ENVIRONMENT ?? 'production'
const run = (sql, ...values) => Number(db.prepare(sql).run(...values).changes)
const orderOf = (event) => db.prepare('SELECT * FROM orders WHERE out_trade_no = ?').get(text(event, 'out_trade_no'))

function text(event, name) {
  if (typeof event?.[name] !== 'string') throw new TypeError(`there is no ${name}`)
  return event[name]
}

function paid(event, review) {
  const order = orderOf(event)
  if (!order) return review('a payment of an order that is not ours')
  // Hundredths as an integer, never total_amount * 100; there are none where the currency is not CNY.
  if (event.total_amount_minor !== order.amount_minor) return review("the amount is not the order's")
  const moved = run(
    "UPDATE orders SET state = 'paid', trade_no = ? WHERE out_trade_no = ? AND state IN ('new', 'closed')",
    text(event, 'trade_no'), event.out_trade_no,
  )
  if (moved === 1) run('INSERT INTO shipments VALUES (?)', event.out_trade_no)
  else if (order.trade_no && order.trade_no !== event.trade_no) {
    review('the order was paid by two trades: give one back')
  }
  // Else: it was refunded before this payment came. The order does not move backwards.
}

function refunded(event, review) {
  const order = orderOf(event)
  if (!order) return review('a refund of an order that is not ours: it proves that there was a payment')
  if (order.trade_no && order.trade_no !== text(event, 'trade_no')) {
    return review("a refund of another trade than the order's: the order stays as it is")
  }
  // Such a trade never paid the order. If its refund took the order over, the trade that pays would not be shipped.
  if (event.total_amount_minor !== order.amount_minor) {
    return review("a refund of a trade that did not pay the order's amount: the order stays as it is")
  }
  // Alipay's figure is the total given back so far; repeats and reorderings cannot make it smaller. It may be missing.
  const fee = event.refund.refund_fee_minor
  if (fee !== undefined && !Number.isSafeInteger(fee)) throw new TypeError('the refund is no amount')
  const total = Math.max(order.refunded_minor, fee ?? 0)
  const state = total >= order.amount_minor ? 'refunded' : 'partly_refunded'
  if (fee === undefined) {
    review('a refund that does not say how much was given back: look')
  } else if (['new', 'closed'].includes(order.state)) {
    review('refunded before its payment was heard of: look before you ship')
  }
  run(
    'UPDATE orders SET state = ?, refunded_minor = ?, trade_no = ? WHERE out_trade_no = ?',
    state, total, text(event, 'trade_no'), event.out_trade_no,
  )
}

// Decide on event_type, and never on trade_status: a refund may carry TRADE_SUCCESS.
const actions = {
  'payment.succeeded': paid,
  'payment.refunded': refunded,
  'payment.late': (_, review) => review('a payment so old that it may have been handled: look'),
  'payment.conflict': (_, review) => review('the same identity with other money: look'),
  'trade.closed': (event) =>
    run("UPDATE orders SET state = 'closed' WHERE out_trade_no = ? AND state = 'new'", text(event, 'out_trade_no')),
  'trade.pending': () => {},
  'trade.finished': () => {},
  // Another kind of notification, or a trade of which Alipay says something new.
  'notification.other': (event, review) => {
    if ('trade_no' in event) review('a trade in a state that nobody knows: look')
  },
}

function handle(messageId, body, review) {
  const event = JSON.parse(body)
  const type = text(event, 'event_type')
  if (!messageId) throw new TypeError('there is no message_id')
  // The unique constraint decides, and not a SELECT before it: two copies may be handled at once.
  if (run('INSERT OR IGNORE INTO seen VALUES (?)', messageId) === 0) return
  if (text(event, 'environment') !== environment) return review('the money of another environment')
  if (!Object.hasOwn(actions, type)) return review('an event type that this program does not know')
  actions[type](event, review)
}

/** One message, one transaction: everything of it, or nothing. */
function handleAtOnce(messageId, content) {
  const body = content.toString('utf8')
  const review = (why) => run('INSERT INTO reviews VALUES (?, ?, ?)', messageId ?? null, why, body)
  try {
    transaction(() => handle(messageId, body, review))
  } catch (error) {
    // A constraint that is not kept, by the one library or the other.
    const isRefusal = /SQLITE_CONSTRAINT/.test(error.code) || (error.errcode & 0xff) === 19
    // Ours, and it passes: the database is away.
    if (/SQLITE/.test(error.code) && !isRefusal) throw error
    // No try will mend it: a member is missing or of another kind. A queue that it blocks delivers nothing.
    transaction(() =>
      review(isRefusal ? 'the database refuses it, as a shipment that is there already: look' : 'not an event of the gateway'),
    )
  }
}

function transaction(work) {
  db.exec('BEGIN IMMEDIATE')
  try {
    work()
    db.exec('COMMIT')
  } catch (error) {
    db.exec('ROLLBACK')
    throw error
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds))

/**
 * The message is kept here until it is handled. Given back (nack, requeue), it would count as delivered again, and
 * RabbitMQ 4 drops what a quorum queue has delivered 20 times.
 */
async function handleAtLast(message) {
  for (;;) {
    try {
      return handleAtOnce(message.properties.messageId, message.content)
    } catch (error) {
      console.error(`not handled, and tried again: ${error.message}`)
      await pause(1000)
    }
  }
}

async function consume() {
  // Without a time limit (in milliseconds), a broker that answers nothing is waited for until somebody restarts this.
  const connection = await amqplib.connect(process.env.AMQP_URL, { timeout: 10_000 })
  const closed = new Promise((done) => connection.on('close', done))
  connection.on('error', (error) => console.error(`connection: ${error.message}`))
  const channel = await connection.createChannel()
  channel.on('error', () => connection.close().catch(() => {}))
  await channel.prefetch(10)
  // Bound: the prefetch.
  const inHand = new Set()
  await channel.consume(process.env.QUEUE ?? 'payments.orders', (message) => {
    // The broker has ended the consumer: its queue is gone.
    if (message === null) return connection.close().catch(() => {})
    const handled = handleAtLast(message)
      // Only now, after the commit: what is acknowledged is gone.
      .then(() => channel.ack(message))
      // The connection has ended: it comes again, and is dropped by its id.
      .catch((error) => console.error(`not acknowledged: ${error.message}`))
      .finally(() => inHand.delete(handled))
    inHand.add(handled)
  })
  await closed
  // Taken again before they are handled here, they would count as delivered again.
  await Promise.all(inHand)
}

for (;;) {
  await consume().catch((error) => console.error(`connecting again: ${error.message}`))
  await pause(2000)
}
