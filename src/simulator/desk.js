// The simulator's page. Everything that comes from outside is put in as text, never as HTML.
const WORDS = {
  zh: {
    brand: '模拟支付宝', notReal: '本地模拟 · 不是真钱', language: 'English', cashier: '收银台', pay: '确认付款', cancel: '放弃付款',
    expire: '让它超时关闭', hold: '先扣住通知（之后再放行，用来试“乱序”）', order: '商户订单号', trade: '支付宝交易号', app: '应用', method: '接口',
    notify: '通知地址', passback: '回传参数', timeout: '付款期限', paid: '付款成功', closed: '交易已关闭', finished: '交易已完结', refundedAll: '已全额退款', left: '你离开了收银台，没有付款。交易仍在等待付款，商户不会收到通知。',
    again: '回到收银台', back: '返回商户', refunded: '已退款', deliveries: '异步通知', none: '还没有通知。付款之后，这里会实时显示每一次投递和商户的回答。',
    until: '按支付宝的真实节奏投递（最多 8 次，约 25 小时），直到回答恰好是 success', scale: (n) => `，时间加速 ${n} 倍`, actions: '接下来发生什么', refund: '退款', refundLeft: (y) => `退款金额（剩 ${y}，留空为全部）`,
    finish: '过了退款期（TRADE_FINISHED）', reverse: '倒序重发全部', whats: { paid: '付款通知', refunded: '退款通知', closed: '关闭通知', finished: '完结通知' },
    states: { held_back: '扣住', waiting: '等待重发', on_the_way: '投递中', answered: '已收到 success', given_up: '放弃（8 次都没有 success）', undeliverable: '无法投递' },
    next: (s) => `${s} 后再次投递`, ways: { again: '手动重发', gbk: 'GBK 编码', forged: '伪造（改了金额）', expired: '过期（两天前的时间）' }, attempt: (n) => `第 ${n} 次`,
    send: '放行', tricks: { again: '现在重发', gbk: '用 GBK 重发', forged: '发一个伪造的', expired: '发一个过期的' },
    believed: '回答了 success：它相信了一个伪造的通知！', disbelieved: '未被采信（正确）', noAnswer: '没有回答', trades: '交易', noTrades: '还没有交易。用 pay-link 生成一个链接并在浏览器里打开：',
    subject: '商品', amount: '金额', status: '状态', notices: '通知', refusedTitle: '支付宝不接受这个链接', string: '待验签字符串（与你签名的逐字比较）', gone: '这里没有这笔交易。模拟器重启后，之前的交易就不在了。', offline: '模拟器没有回答', key: '支付宝公钥（写进网关的 alipay_public_keys）',
    trade_status: { WAIT_BUYER_PAY: '等待付款', TRADE_SUCCESS: '已付款', TRADE_CLOSED: '已关闭', TRADE_FINISHED: '已完结' },
  },
  en: {
    brand: 'Simulated Alipay', notReal: 'local simulation · no real money', language: '中文', cashier: 'Cashier', pay: 'Pay', cancel: 'Cancel',
    expire: 'Let it expire', hold: 'hold the notification back (let it go later, to try another order)', order: 'out_trade_no', trade: 'trade_no', app: 'app_id', method: 'method',
    notify: 'notify_url', passback: 'passback_params', timeout: 'may be paid for', paid: 'Paid', closed: 'Closed', finished: 'Finished', refundedAll: 'Given back in full', left: 'You left the cashier without paying. The trade still waits, and the merchant is told nothing.',
    again: 'Back to the cashier', back: 'Back to the shop', refunded: 'given back', deliveries: 'Notifications', none: 'None yet. After the payment every delivery and its answer shows here, live.',
    until: 'On Alipay’s own schedule (at most 8 deliveries, about 25 hours), until the answer is exactly success', scale: (n) => `, ${n} times as fast`, actions: 'What happens next', refund: 'Refund', refundLeft: (y) => `amount (${y} left; empty: all of it)`,
    finish: 'The refund window is over (TRADE_FINISHED)', reverse: 'All again, the last first', whats: { paid: 'payment', refunded: 'refund', closed: 'close', finished: 'finish' },
    states: { held_back: 'held back', waiting: 'will be delivered again', on_the_way: 'on its way', answered: 'answered success', given_up: 'given up after 8 deliveries', undeliverable: 'cannot be delivered' },
    next: (s) => `again in ${s}`, ways: { again: 'again, by hand', gbk: 'in GBK', forged: 'forged (other amount)', expired: 'expired (two days old)' }, attempt: (n) => `delivery ${n}`,
    send: 'Let it go', tricks: { again: 'Deliver again', gbk: 'Again in GBK', forged: 'Send a forged one', expired: 'Send an expired one' },
    believed: 'answered success: it believed a forgery!', disbelieved: 'not believed, rightly', noAnswer: 'no answer', trades: 'Trades', noTrades: 'No trades yet. Make a link with pay-link, and open it in a browser:',
    subject: 'subject', amount: 'amount', status: 'status', notices: 'notifications', refusedTitle: 'Alipay does not take this link', string: 'The string to verify (compare it with the one that you signed)', gone: 'There is no such trade here. What was before the simulator’s start is gone.', offline: 'the simulator does not answer', key: 'Alipay’s public key (for alipay_public_keys of the gateway)',
    trade_status: { WAIT_BUYER_PAY: 'waits for the buyer', TRADE_SUCCESS: 'paid', TRADE_CLOSED: 'closed', TRADE_FINISHED: 'finished' },
  },
};
const asked = new URLSearchParams(location.search).get('lang');
let language = asked in WORDS ? asked : localStorage.getItem('language') ?? (navigator.language.startsWith('zh') ? 'zh' : 'en');
if (!(language in WORDS)) language = 'zh';
const say = () => WORDS[language];
const told = (words) => (typeof words === 'string' ? words : words?.[language] ?? '');
const main = document.getElementById('main');

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

async function ask(path, order) {
  const options = order && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(order) };
  const response = await fetch(`/api/${path}`, options);
  if (response.status === 404) return null;
  const answer = await response.json();
  if (!response.ok) throw new Error(told(answer.why) || response.statusText);
  return answer;
}

function toast(text) {
  document.getElementById('toast')?.remove();
  const node = el('div', { id: 'toast', role: 'alert' }, text);
  document.body.append(node);
  setTimeout(() => node.remove(), 5000);
}

const press = (path, order = {}) => async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  try {
    await ask(path, typeof order === 'function' ? order() : order);
    await refresh();
  } catch (error) {
    toast(error.message);
  }
  button.disabled = false;
};

// A shape's parts are made anew only when what they show has changed, so that nobody loses what he is typing.
const shown = new Map();
function part(parent, name, data, make) {
  const text = `${language}${JSON.stringify(data)}`;
  let node = document.getElementById(name);
  if (node && shown.get(name) === text) return;
  shown.set(name, text);
  const fresh = make(data);
  fresh.id = name;
  if (node) node.replaceWith(fresh);
  else parent.append(fresh);
}

const rows = (pairs) => el('dl', {}, pairs.filter(([, value]) => value).flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
const yuan = (amount) => [el('small', {}, '¥'), amount];
const tone = { TRADE_SUCCESS: 'good', TRADE_FINISHED: 'good', TRADE_CLOSED: 'calm', WAIT_BUYER_PAY: '' };
let hasLeft = false;

function cashierCard(trade) {
  const w = say();
  const waits = trade.status === 'WAIT_BUYER_PAY';
  const isRefunded = trade.status === 'TRADE_CLOSED' && trade.paid_at;
  const headline = waits ? w.cashier : isRefunded ? w.refundedAll : { TRADE_SUCCESS: w.paid, TRADE_FINISHED: w.finished, TRADE_CLOSED: w.closed }[trade.status];
  const hold = el('input', { type: 'checkbox', id: 'hold' });
  const order = () => ({ hold: hold.checked });
  const base = `trades/${trade.trade_no}`;
  return el('section', { class: 'card centre' },
    !waits && el('div', { class: `stamp ${trade.status === 'TRADE_CLOSED' ? '' : 'good'}`, 'aria-hidden': 'true' }, trade.status === 'TRADE_CLOSED' ? '○' : '✓'),
    el('h1', { 'data-status': trade.status }, headline),
    el('div', { class: 'amount' }, yuan(trade.total_amount)),
    el('p', { class: 'subject' }, trade.subject),
    Number(trade.refunded) > 0 && el('p', { class: 'soft' }, `${w.refunded} ¥${trade.refunded}`),
    waits && hasLeft && [el('div', { class: 'warn', id: 'left' }, w.left), el('div', { class: 'buttons' },
      el('button', { type: 'button', id: 'return', onclick: () => { hasLeft = false; refresh(); } }, w.again))],
    waits && !hasLeft && [
      el('div', { class: 'buttons' }, el('button', { class: 'main', type: 'button', id: 'pay', onclick: press(`${base}/pay`, order) }, `${w.pay} ¥${trade.total_amount}`)),
      el('div', { class: 'buttons' },
        el('button', { type: 'button', id: 'cancel', onclick: () => { hasLeft = true; refresh(); } }, w.cancel),
        el('button', { type: 'button', id: 'expire', onclick: press(`${base}/close`, order) }, w.expire)),
      el('label', { class: 'check' }, hold, w.hold)],
    trade.way_back && el('div', { class: 'buttons' }, el('a', { class: 'button', id: 'way-back', href: trade.way_back, rel: 'noreferrer' }, w.back)),
    trade.notify_problem && el('div', { class: 'warn' }, told(trade.notify_problem)),
    rows([[w.order, trade.out_trade_no], [w.trade, trade.trade_no], [w.app, trade.app_id], [w.method, trade.method], [w.notify, trade.notify_url],
      [w.passback, trade.passback_params], [w.timeout, trade.timeout_express]]));
}

function actionsCard(trade) {
  const w = say();
  const base = `trades/${trade.trade_no}`;
  const left = (Number(trade.total_amount) - Number(trade.refunded)).toFixed(2);
  const amount = el('input', { type: 'text', id: 'refund-amount', inputmode: 'decimal', 'aria-label': w.refundLeft(left), placeholder: left });
  const order = () => (amount.value.trim() ? { amount: amount.value.trim() } : {});
  const mayRefund = trade.status === 'TRADE_SUCCESS';
  return el('section', { class: 'card', hidden: trade.status === 'WAIT_BUYER_PAY' },
    el('h2', {}, w.actions),
    mayRefund && [el('p', { class: 'soft small' }, w.refundLeft(left)), el('div', { class: 'buttons' }, amount,
      el('button', { type: 'button', id: 'refund', onclick: press(`${base}/refund`, order) }, w.refund))],
    el('div', { class: 'buttons' },
      mayRefund && el('button', { type: 'button', id: 'finish', onclick: press(`${base}/finish`) }, w.finish),
      trade.notices.length > 1 && el('button', { type: 'button', id: 'reverse', onclick: press(`${base}/reverse`) }, w.reverse)));
}

function delivery(one) {
  const w = say();
  const good = one.verdict === 'success' || one.verdict === 'disbelieved';
  const verdict = one.verdict in w ? ` · ${w[one.verdict]}` : '';
  const answer = one.status === null ? `${w.noAnswer}: ${one.error}` : `${one.status} ${one.answer}`;
  return el('li', { class: `delivery ${good ? 'success' : 'fail'}`, 'data-way': one.way },
    el('span', {}, one.way === 'scheduled' ? w.attempt(one.attempt) : w.ways[one.way]),
    el('span', { class: 'when' }, `${one.at.slice(11, 19)} · ${one.took_ms} ms`),
    el('code', { class: good ? 'good' : 'bad' }, `→ ${answer}${verdict}`));
}

function noticesCard(trade) {
  const w = say();
  const base = `trades/${trade.trade_no}/notices`;
  const notice = (one, index) => el('div', { class: 'notice', 'data-what': one.what, 'data-state': one.state.is },
    el('div', { class: 'head' }, el('b', {}, w.whats[one.what]),
      el('span', { class: `tag ${{ answered: 'good', given_up: 'bad', undeliverable: 'bad' }[one.state.is] ?? ''}` }, w.states[one.state.is]),
      one.state.is === 'waiting' && el('span', { class: 'soft small due', 'data-at': one.state.at })),
    el('div', { class: 'soft small' }, `notify_id ${one.notify_id}`),
    el('ol', { class: 'deliveries' }, one.deliveries.map(delivery)),
    el('div', { class: 'buttons' },
      one.state.is === 'held_back' && el('button', { class: 'plain', type: 'button', 'data-do': 'send', onclick: press(`${base}/${index}/send`) }, w.send),
      Object.entries(w.tricks).map(([way, words]) => el('button', { class: 'plain', type: 'button', 'data-do': way, onclick: press(`${base}/${index}/${way}`) }, words))));
  return el('section', { class: 'card' }, el('h2', {}, w.deliveries),
    el('p', { class: 'soft small' }, w.until + (about.time_scale > 1 ? w.scale(about.time_scale) : '')),
    trade.notices.length ? trade.notices.map(notice) : el('p', { class: 'soft', id: 'none' }, w.none));
}

function home({ trades }) {
  const w = say();
  const example = `alipay-notify-gateway pay-link --simulator ${location.origin} --app-id ${about.app_id} \\\n  --key keys/app-private-pkcs1.pem --amount 88.88 --subject '${language === 'zh' ? '一杯咖啡' : 'A cup of coffee'}' \\\n  --notify-url http://127.0.0.1:8080/alipay/notify`;
  const row = (trade) => el('tr', {},
    el('td', {}, el('a', { href: `/cashier/${trade.trade_no}` }, trade.out_trade_no)),
    el('td', {}, trade.subject), el('td', { class: 'number' }, `¥${trade.total_amount}`),
    el('td', {}, el('span', { class: `tag ${tone[trade.status]}` }, w.trade_status[trade.status])),
    el('td', {}, trade.notices.map((one) => el('div', { class: 'small' }, `${w.whats[one.what]}: ${w.states[one.state.is]} (${one.deliveries})`))));
  return el('section', { class: 'card' }, el('h1', {}, w.trades),
    trades.length
      ? el('table', {}, el('thead', {}, el('tr', {}, [w.order, w.subject, w.amount, w.status, w.notices].map((name) => el('th', {}, name)))), el('tbody', {}, trades.map(row)))
      : [el('p', { class: 'soft' }, w.noTrades), el('pre', {}, example)]);
}

function refusalCard(refusal) {
  const w = say();
  return el('section', { class: 'card' }, el('h1', {}, w.refusedTitle),
    el('p', {}, el('span', { class: 'tag bad' }, refusal.code)),
    el('p', { id: 'problem' }, told(refusal.problem)),
    refusal.hints.length > 0 && el('ul', { class: 'hints' }, refusal.hints.map((hint) => el('li', {}, told(hint)))),
    refusal.string_to_sign && [el('h2', {}, w.string), el('pre', {}, refusal.string_to_sign)]);
}

function frame() {
  const w = say();
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  document.getElementById('brand').textContent = w.brand;
  document.getElementById('not-real').textContent = w.notReal;
  document.getElementById('language').textContent = w.language;
  const footer = document.getElementById('footer');
  footer.replaceChildren(`app_id ${about.app_id} · seller_id ${about.seller_id} · `, el('a', { href: '/alipay-public.pem' }, w.key));
}

function countDown() {
  for (const node of document.querySelectorAll('.due')) {
    const seconds = Math.max(0, Math.round((Number(node.dataset.at) - Date.now()) / 1000));
    const text = seconds >= 3600 ? `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min` : seconds >= 60 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s` : `${seconds} s`;
    node.textContent = say().next(text);
  }
}

const refusal = JSON.parse(document.getElementById('refusal').textContent);
const trade_no = location.pathname.startsWith('/cashier/') ? location.pathname.slice('/cashier/'.length) : null;
let about = { app_id: '', seller_id: '', time_scale: 1 };

async function refresh() {
  if (refusal) {
    part(main, 'refused', refusal, refusalCard);
  } else if (trade_no === null) {
    part(main, 'home', await ask('trades'), home);
  } else {
    const trade = await ask(`trades/${encodeURIComponent(trade_no)}`);
    if (!trade) {
      part(main, 'gone', {}, () => el('section', { class: 'card' }, el('p', {}, say().gone)));
      return;
    }
    main.className = 'two';
    const left = document.getElementById('left-column') ?? main.appendChild(el('div', { class: 'column', id: 'left-column' }));
    const { notices, way_back, ...facts } = trade;
    // The way back is signed anew each time: it is no change.
    part(left, 'cashier', { ...facts, hasLeft }, () => cashierCard(trade));
    part(left, 'actions', { status: trade.status, refunded: trade.refunded, several: notices.length > 1 }, () => actionsCard(trade));
    const settled = notices.map(({ due_in_ms, ...notice }) => notice);
    part(main, 'notices', { settled }, () => noticesCard(trade));
    countDown();
  }
}

document.getElementById('language').addEventListener('click', () => {
  language = language === 'zh' ? 'en' : 'zh';
  localStorage.setItem('language', language);
  frame();
  refresh();
});

async function live() {
  try {
    if (!about.app_id) {
      about = await ask('about');
      frame();
    }
    await refresh();
  } catch (error) {
    toast(`${say().offline}: ${error.message}`);
  }
  setTimeout(live, document.hidden ? 3000 : 500);
}
live();
