//! Alipay's bill of trades (`alipay.data.dataservice.bill.downloadurl.query`, `bill_type=trade`): a CSV in GBK between
//! comment lines, plain or in the ZIP that it is downloaded in, beside its summary.
//!
//! It is read a line at a time, and a line that is not understood is told, never skipped in silence; the totals that the
//! bill itself names say whether all of it was read. Nothing of it is trusted: everything has a bound.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};
use std::path::Path;

use encoding_rs::{Encoding, GB18030, UTF_8};

use crate::admission::notification;
use crate::clock::Timestamp;
use crate::event::Money;

/// One or several bills of one account.
#[derive(Debug)]
pub(super) struct Bill {
    /// What was read, by name.
    pub(super) names: Vec<String>,
    /// The account: the seller's number, and 0156.
    pub(super) account: Option<String>,
    /// From when to when (the end is not part of it), as far as it says.
    pub(super) periods: Vec<(Timestamp, Timestamp)>,
    /// The trades and refunds.
    pub(super) rows: Vec<Row>,
    /// What could not be read.
    pub(super) faults: Vec<String>,
    /// The trades of lines that could not be read otherwise. Bound: [`MAX_FAULTS`].
    pub(super) unread: BTreeSet<String>,
    /// Whether it is known of every line which trade it is of: what is not there then is not in the bill.
    pub(super) names_every_trade: bool,
    /// Lines of other kinds than these two.
    pub(super) others: u64,
}

/// A payment or a refund. In the order of their time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// 完成时间.
    pub(super) completed_at: Timestamp,
    pub(super) kind: Kind,
    pub(super) trade_no: String,
    /// 商户订单号.
    pub(super) out_trade_no: String,
    /// 订单金额, without the sign of a refund.
    pub(super) amount: Money,
    /// 退款批次号/请求号; empty for a payment.
    pub(super) request_no: String,
    /// How many that look alike stand before it in what was given at once ([`Bill::tell_apart`]).
    pub(super) earlier: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// 交易.
    Payment,
    /// 退款.
    Refund,
}

/// Why a bill is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum BillError {
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("{0}: {1}")]
    Content(String, String),
}

impl BillError {
    /// Whether it is the file's fault and not the machine's.
    pub(super) fn is_of_content(&self) -> bool {
        matches!(self, Self::Content(..))
    }
}

/// What a file turned out to be.
enum Found {
    Detail,
    /// 业务汇总: the summary that lies beside it.
    Summary,
}

impl Default for Bill {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            account: None,
            periods: Vec::new(),
            rows: Vec::new(),
            faults: Vec::new(),
            unread: BTreeSet::new(),
            names_every_trade: true,
            others: 0,
        }
    }
}

impl Bill {
    /// Adds a file, CSV or ZIP.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), BillError> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let name = super::page::plain(&name);
        let failed = |error| BillError::Io(path.display().to_string(), error);
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = [0; 4];
        let is_zip = match file.read_exact(&mut magic) {
            Ok(()) => magic == *b"PK\x03\x04",
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            // A directory, say: no fault of a bill's.
            Err(error) => return Err(failed(error)),
        };
        file.rewind().map_err(failed)?;
        let before = self.rows.len();
        if is_zip {
            self.read_zip(&name, file)?;
        } else if matches!(self.read_csv(&name, file)?, Found::Summary) {
            return Err(content(
                &name,
                "this is the summary (汇总): give the details (业务明细), or the ZIP",
            ));
        }
        self.tell_apart(before);
        Ok(())
    }

    /// Refunds of one trade that look alike and bear no number are as many as one file has of them; what a second file
    /// has again is the same.
    fn tell_apart(&mut self, before: usize) {
        let of_refund = |row: &&mut Row| row.kind == Kind::Refund && row.request_no.is_empty();
        let mut refunds: Vec<&mut Row> = self.rows.iter_mut().skip(before).filter(of_refund).collect();
        refunds.sort();
        for alike in refunds.chunk_by_mut(|one, next| one == next) {
            alike.iter_mut().enumerate().for_each(|(earlier, row)| row.earlier = earlier);
        }
    }

    fn read_zip(&mut self, name: &str, file: File) -> Result<(), BillError> {
        if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_ZIP) {
            return Err(content(name, "is larger than any bill"));
        }
        let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| content(name, error))?;
        if zip.len() > MAX_FILES {
            return Err(content(name, "has more files in it than any bill"));
        }
        let mut details = 0;
        for at in 0..zip.len() {
            let entry = zip.by_index(at).map_err(|error| content(name, error))?;
            // What macOS puts beside the files that it packs again is none of Alipay's.
            let of_macos = |name: Cow<'_, str>| {
                name.starts_with("__MACOSX/") || name.rsplit('/').next() == Some(".DS_Store")
            };
            if entry.is_dir() || entry.name().is_ok_and(of_macos) {
                continue;
            }
            if matches!(self.read_csv(&format!("{name}, file {}", at + 1), entry)?, Found::Detail) {
                details += 1;
            }
        }
        if details == 0 { Err(content(name, "there are no details (业务明细) in it")) } else { Ok(()) }
    }

    fn read_csv(&mut self, name: &str, input: impl Read) -> Result<Found, BillError> {
        // A reader that says it is at its end where it is cut off would make a large bill a short one.
        let mut lines = Lines { input: BufReader::new(input.take(MAX_BYTES + 1)), read: 0, number: 0, name };
        let mut table = Table::default();
        let (payments, refunds) = (self.count(Kind::Payment), self.count(Kind::Refund));
        let mut raw = Vec::new();
        while lines.next(&mut raw)? {
            if lines.number == 1 && [b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| raw.starts_with(*mark)) {
                return Err(content(
                    name,
                    "it is UTF-16, as an editor saves it: give it as it was downloaded, or as UTF-8",
                ));
            }
            let line = raw.strip_prefix(UTF_8_MARK).filter(|_| lines.number == 1).unwrap_or(&raw);
            let text = table.decode(line).trim_matches(['\r', '\n']).to_owned();
            match text.strip_prefix('#') {
                Some(_) if text.contains("业务汇总查询") => return Ok(Found::Summary),
                Some(comment) => self.note(comment, &mut table, name)?,
                None if text.trim().is_empty() => {}
                None if table.columns.is_none() => table.columns = Some(header(&text, name)?),
                None => self.row(&text, &mut table, name, lines.number)?,
            }
        }
        if table.columns.is_none() {
            return Err(content(name, "this is no bill of trades (业务明细): its header is not there"));
        }
        if !table.has_ended {
            return Err(content(name, "it is cut short: the line 业务明细列表结束 is missing"));
        }
        let mut missing = 0;
        for (said, kind, before, what) in [
            (table.payments, Kind::Payment, payments, "payments"),
            (table.refunds, Kind::Refund, refunds, "refunds"),
        ] {
            let read = self.count(kind) - before;
            if let Some(said) = said.filter(|said| *said != read) {
                self.faults.push(format!("{name}: it says {said} {what}, and {read} could be read"));
                missing += said.abs_diff(read);
            }
        }
        // As many lines may be of trades that were named.
        self.names_every_trade &= missing <= table.unread;
        self.names.push(name.to_owned());
        Ok(Found::Detail)
    }

    /// Whether all of it was understood.
    pub(super) fn is_whole(&self) -> bool {
        self.faults.is_empty()
    }

    /// The seller, as notifications name it.
    pub(super) fn seller(&self) -> Option<&str> {
        self.account.as_deref().and_then(|account| account.get(..SELLER_DIGITS))
    }

    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.rows.iter().filter(|row| row.kind == kind).map(|_| 1).sum()
    }

    fn note(&mut self, comment: &str, table: &mut Table, name: &str) -> Result<(), BillError> {
        if comment.contains("业务明细列表结束") {
            table.has_ended = true;
        } else if let Some(account) = after(comment, "账号").and_then(bracketed) {
            if self.account.as_deref().is_some_and(|known| known != account) {
                return Err(content(name, "it is of another account than the one before it"));
            }
            self.account = Some(account.to_owned());
        } else if let Some(from) = after(comment, "起始日期") {
            let until = after(comment, "终止日期").and_then(bracketed).and_then(moment);
            self.periods.extend(bracketed(from).and_then(moment).zip(until));
        } else if let Some(total) = after(comment, "交易合计") {
            table.payments = number(total);
        } else if let Some(total) = after(comment, "退款合计") {
            table.refunds = number(total);
        }
        Ok(())
    }

    fn row(&mut self, text: &str, table: &mut Table, name: &str, line: u64) -> Result<(), BillError> {
        if self.rows.len() >= MAX_ROWS {
            return Err(content(name, format!("more than {MAX_ROWS} trades: give the days one by one")));
        }
        match table.row(text) {
            Ok(Some(row)) => self.rows.push(row),
            Ok(None) => self.others += 1,
            Err(_) if self.faults.len() >= MAX_FAULTS => {
                return Err(content(name, "more lines than anybody would look at cannot be read"));
            }
            Err(fault) => {
                self.faults.push(format!("{name}, line {line}: {fault}"));
                match table.trade_no(text) {
                    Some(trade_no) => {
                        table.unread += 1;
                        self.unread.insert(trade_no);
                    }
                    None => self.names_every_trade = false,
                }
            }
        }
        Ok(())
    }
}

/// The lines of a file, each with a bound, and all together.
struct Lines<'a, R> {
    input: BufReader<R>,
    read: u64,
    number: u64,
    name: &'a str,
}

impl<R: Read> Lines<'_, R> {
    /// Reads the next line. `false` at the end.
    fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, BillError> {
        line.clear();
        self.number += 1;
        let length = self.input.by_ref().take(MAX_LINE).read_until(b'\n', line);
        let length = length.map_err(|error| content(self.name, error))? as u64;
        self.read += length;
        if length == MAX_LINE && line.last() != Some(&b'\n') {
            return Err(content(self.name, format!("line {} is longer than any of a bill", self.number)));
        }
        if self.read > MAX_BYTES {
            return Err(content(self.name, "unpacked, it is larger than any bill"));
        }
        Ok(length > 0)
    }
}

/// What is known of the table while it is read.
#[derive(Default)]
struct Table {
    encoding: Option<&'static Encoding>,
    columns: Option<Columns>,
    has_ended: bool,
    payments: Option<u64>,
    refunds: Option<u64>,
    /// How many lines were not understood, except for their trade.
    unread: u64,
}

/// Where in a line what stands.
struct Columns {
    count: usize,
    trade_no: usize,
    out_trade_no: usize,
    kind: usize,
    amount: usize,
    completed_at: usize,
    request_no: Option<usize>,
    /// What people name as they like, with commas.
    texts: Vec<usize>,
    times: Vec<usize>,
    amounts: Vec<usize>,
}

impl Table {
    /// Alipay writes GBK; what went through an editor is perhaps UTF-8. The first line that is not ASCII decides for all.
    fn decode<'l>(&mut self, line: &'l [u8]) -> Cow<'l, str> {
        if self.encoding.is_none() && !line.is_ascii() {
            self.encoding = Some(if std::str::from_utf8(line).is_ok() { UTF_8 } else { GB18030 });
        }
        self.encoding.unwrap_or(UTF_8).decode_without_bom_handling(line).0
    }

    /// `None`: a line of another kind.
    fn row(&self, text: &str) -> Result<Option<Row>, String> {
        let columns = self.columns.as_ref().ok_or("there is no header")?;
        let cells = cells(text);
        let extra = cells.len().checked_sub(columns.count);
        if extra == Some(0) {
            return columns.row(&cells);
        }
        extra
            .and_then(|extra| columns.row_with_commas(&cells, extra).map(Some))
            .ok_or_else(|| format!("it has {} columns, and the header {}", cells.len(), columns.count))
    }

    /// The trade of a line, whatever else is wrong with it.
    fn trade_no(&self, text: &str) -> Option<String> {
        let at = self.columns.as_ref()?.trade_no;
        notification::trade_no(cells(text).get(at)?.as_bytes()).map(str::to_owned)
    }
}

impl Columns {
    /// Alipay quotes nothing, so a name with commas takes several cells. It is read where only one column can have been
    /// it, by the form of all others, or where it is the same row whichever it was.
    fn row_with_commas(&self, cells: &[&str], extra: usize) -> Option<Row> {
        let mut readings = self.texts.iter().filter_map(|at| {
            let mut read = cells.to_vec();
            read.drain(*at..*at + extra);
            let is =
                |column: &usize, form: fn(&str) -> bool| read.get(*column).is_some_and(|cell| form(cell));
            let is_in_form = self.amounts.contains(&self.amount)
                && self.times.iter().all(|at| is(at, |cell| moment(cell).is_some()))
                && self.amounts.iter().all(|at| is(at, is_amount));
            // Another kind is none that could be told from a comma before it.
            is_in_form.then(|| self.row(&read).ok()?)?
        });
        let row = readings.next()?;
        readings.all(|other| other == row).then_some(row)
    }

    /// `None`: a line of another kind.
    fn row(&self, cells: &[&str]) -> Result<Option<Row>, String> {
        let cell = |at: usize| cells.get(at).copied().unwrap_or_default();
        let kind = match cell(self.kind) {
            "交易" => Kind::Payment,
            "退款" => Kind::Refund,
            _ => return Ok(None),
        };
        let trade_no = notification::trade_no(cell(self.trade_no).as_bytes());
        let amount = match (kind, cell(self.amount)) {
            (Kind::Refund, amount) => amount.strip_prefix('-').unwrap_or(amount),
            // A sign is none of a payment's: it is no amount then.
            (Kind::Payment, amount) => amount,
        };
        let amount = Money::parse(amount.as_bytes());
        Ok(Some(Row {
            kind,
            trade_no: trade_no.ok_or("its 支付宝交易号 is none; was it saved by a spreadsheet?")?.to_owned(),
            out_trade_no: cell(self.out_trade_no).to_owned(),
            amount: amount.ok_or("its 订单金额 is no amount")?,
            completed_at: moment(cell(self.completed_at)).ok_or("its 完成时间 is no time")?,
            request_no: self.request_no.map(cell).unwrap_or_default().to_owned(),
            earlier: 0,
        }))
    }
}

fn header(text: &str, name: &str) -> Result<Columns, BillError> {
    let cells = cells(text);
    let maybe = |title: &str| cells.iter().position(|cell| cell.starts_with(title));
    let all = |fits: &dyn Fn(&str) -> bool| {
        let fitting = cells.iter().enumerate().filter(|(_, cell)| fits(cell));
        fitting.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let find = |title: &str| {
        let missing = format!("this is no bill of trades (业务明细): its header has no {title}");
        maybe(title).ok_or_else(|| content(name, missing))
    };
    Ok(Columns {
        count: cells.len(),
        trade_no: find("支付宝交易号")?,
        out_trade_no: find("商户订单号")?,
        kind: find("业务类型")?,
        amount: find("订单金额")?,
        completed_at: find("完成时间")?,
        request_no: maybe("退款批次号"),
        texts: all(&|title| TEXTS.contains(&title)),
        times: all(&|title| title.ends_with("时间") || title.starts_with("完成时间")),
        amounts: all(&|title| title.contains('元')),
    })
}

/// The cells of a line, without the tabs that Alipay sets behind long numbers. It quotes nothing; a spreadsheet that the
/// bill went through quotes what has a comma.
fn cells(line: &str) -> Vec<&str> {
    let (mut cells, mut rest) = (Vec::new(), line);
    loop {
        let quoted = rest.strip_prefix('"').and_then(|inside| {
            inside
                .split_once("\",")
                .map(|(cell, rest)| (cell, Some(rest)))
                .or_else(|| inside.strip_suffix('"').map(|cell| (cell, None)))
        });
        let (cell, next) = quoted.unwrap_or_else(|| match rest.split_once(',') {
            Some((cell, rest)) => (cell, Some(rest)),
            None => (rest, None),
        });
        cells.push(cell.trim());
        match next {
            Some(next) => rest = next,
            None => return cells,
        }
    }
}

/// As Alipay writes each amount: with two decimals.
fn is_amount(cell: &str) -> bool {
    let amount = cell.strip_prefix('-').unwrap_or(cell);
    Money::parse(amount.as_bytes()).is_some_and(|money| money.to_string() == amount)
}

fn after<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.split_once(word).map(|(_, rest)| rest)
}

fn bracketed(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(inside, _)| inside.trim())
}

fn number(text: &str) -> Option<u64> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `2026-11-23 10:15:31` or `2026年11月23日 10:15:31`, in UTC+8.
fn moment(text: &str) -> Option<Timestamp> {
    let text = text.replace(['年', '月'], "-").replace('日', "");
    notification::time(text.trim().as_bytes())
}

fn content(name: &str, what: impl ToString) -> BillError {
    BillError::Content(name.to_owned(), what.to_string())
}

/// What an editor sets before UTF-8, or before whatever it takes for it.
const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
/// The columns with names in them.
const TEXTS: [&str; 6] = ["商品名称", "门店名称", "操作员", "对方账户", "券名称", "备注"];
/// 2088 and twelve digits; the account's number has 0156 behind it.
const SELLER_DIGITS: usize = 16;
/// Bound: a downloaded ZIP. A trade takes some 30 bytes of it.
const MAX_ZIP: u64 = 256 << 20;
/// Bound: files in it. There are two, or a few where the bill is large.
const MAX_FILES: usize = 64;
/// Bound: a file unpacked, whatever its size says.
const MAX_BYTES: u64 = 1 << 30;
/// Bound: a line. One of a bill has some 300 bytes.
const MAX_LINE: u64 = 64 << 10;
/// Bound: what is kept in memory of it.
const MAX_ROWS: usize = 3_000_000;
/// Bound: lines that are told to be unreadable.
const MAX_FAULTS: usize = 1000;

#[cfg(test)]
mod tests;
