// A person's path through `simulate serve`, in a real browser: opens the link, pays, sees `success`; refunds, forges; a wrong link
// is explained. Usage: node browser.mjs CHROMIUM LINK WRONG_LINK SCREENSHOT_FOLDER
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const [executablePath, link, wrongLink, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const context = await browser.newContext({ locale: 'zh-CN', viewport: { width: 1200, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(60_000);
const outside = [], wrong = [];
page.on('request', (request) => { if (!/^(http:\/\/127\.0\.0\.1:|data:)/.test(request.url())) outside.push(request.url()); });
page.on('pageerror', (error) => wrong.push(`${error}`));
page.on('console', (message) => { if (message.type() === 'error' && !/status of 4/.test(message.text())) wrong.push(message.text()); });
const picture = (name) => page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
const says = async (selector, text) => page.locator(selector, { hasText: text }).first().waitFor();

// The cashier: what is paid, and for what, as text whatever is in it.
await page.goto(link);
await says('.amount', '88.88');
await says('.subject', '一杯咖啡 <b>& 蛋糕</b>');
assert.equal(await page.locator('.subject b').count(), 0, 'a subject is no HTML');
await picture('1-cashier');

// He leaves, and nothing is told; he comes back, and pays.
await page.click('#cancel');
await says('#left', '没有付款');
await page.click('#return');
await page.click('#pay');
await page.locator('.notice[data-what=paid][data-state=answered]').waitFor();
await says('.delivery.success code', '200 success');
await says('h1', '付款成功');
const back = await page.getAttribute('#way-back', 'href');
assert.match(back, /^https:\/\/shop\.example\.com\/thanks\?.*method=alipay\.trade\.page\.pay\.return.*&sign=/);
await picture('2-paid');

// A forged one is refused; a part and then the rest is given back.
await page.click('.notice[data-what=paid] [data-do=forged]');
await says('.delivery[data-way=forged].success code', '400 fail · 未被采信（正确）');
await page.fill('#refund-amount', '8.88');
await page.click('#refund');
await page.locator('.notice[data-what=refunded][data-state=answered]').waitFor();
await says('#cashier', '已退款 ¥8.88');
await page.click('#refund');
await says('h1', '已全额退款');
await page.locator('.notice[data-state=answered]').nth(2).waitFor();
await picture('3-refunded');

// In English, and all trades on one page.
await page.click('#language');
await says('h1', 'Given back in full');
await page.goto(new URL('/', link).href);
await says('td', 'closed');
await picture('4-trades');

// The wrong link: 400, and why.
const answer = await page.goto(wrongLink);
assert.equal(answer.status(), 400);
await says('.tag', 'isv.invalid-signature');
await says('.hints', 'changed after it was signed');
await picture('5-refused');

assert.deepEqual(outside, [], 'the page needs no network');
assert.deepEqual(wrong, [], 'nothing went wrong in the page');
await browser.close();
console.log('   opened, cancelled, paid, answered success, forged and refused, refunded, explained');
