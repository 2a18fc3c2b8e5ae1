//! Bills as Alipay writes them, and what may be wrong with one.

use std::io::{Cursor, Write as _};

use super::*;

const HEADER: &str = "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,\
    订单金额（元）,商家实收（元）,支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,\
    商家红包消费金额（元）,卡消费金额（元）,退款批次号/请求号,服务费（元）,分润（元）,备注";
const TRADE: &str = "2026112322001427340000000001";

fn line(kind: &str, amount: &str, request_no: &str) -> String {
    format!(
        "{TRADE}\t,R-1\t,{kind}\t,杯子,2026-11-23 10:15:30,2026-11-23 10:15:31,\t,\t,\t,\t,*某(186****00),{amount},{amount},\
         0.00,0.00,0.00,0.00,0.00,,0.00\t,0.00,{request_no}\t,-0.01,0.00,"
    )
}

fn bill(lines: &[String]) -> String {
    let table = lines.join("\r\n");
    format!(
        "#支付宝业务明细查询\r\n#账号：[20881011179556110156]\r\n\
         #起始日期：[2026年11月23日 00:00:00]   终止日期：[2026年11月24日 00:00:00]\r\n\
         #----------业务明细列表----------\r\n{HEADER}\r\n{table}\r\n#----------业务明细列表结束----------\r\n\
         #导出时间：[2026年11月24日 05:46:49]\r\n"
    )
}

fn gbk(text: &str) -> Vec<u8> {
    encoding_rs::GBK.encode(text).0.into_owned()
}

fn read(content: &[u8]) -> Result<Bill, BillError> {
    let mut bill = Bill::default();
    match bill.read_csv("bill", content)? {
        Found::Detail => Ok(bill),
        Found::Summary => Err(super::content("bill", "summary")),
    }
}

#[test]
fn a_bill_is_read_as_alipay_writes_it_and_as_an_editor_saves_it() {
    let text = bill(&[line("交易", "88.88", ""), line("退款", "-10.00", "RF-1")]);
    for bytes in [gbk(&text), text.clone().into_bytes(), format!("\u{feff}{text}").into_bytes()] {
        let bill = read(&bytes).unwrap();
        assert_eq!(bill.seller(), Some("2088101117955611"));
        let row = |kind, amount, request_no: &str| Row {
            kind,
            trade_no: TRADE.to_owned(),
            out_trade_no: "R-1".to_owned(),
            amount: Money::from_minor(amount),
            completed_at: Timestamp::from_beijing((2026, 11, 23), (10, 15, 31, 0)).unwrap(),
            request_no: request_no.to_owned(),
            earlier: 0,
        };
        assert_eq!(bill.rows, [row(Kind::Payment, 8888, ""), row(Kind::Refund, 1000, "RF-1")]);
        let day = |day| Timestamp::from_beijing((2026, 11, day), (0, 0, 0, 0)).unwrap();
        assert_eq!(bill.periods, [(day(23), day(24))]);
        assert!(bill.is_whole());
    }
}

#[test]
fn the_totals_that_a_bill_names_show_a_line_that_was_not_read() {
    let text = bill(&[line("交易", "88.88", "")]);
    let agreeing =
        format!("{text}#交易合计：1笔，商家实收共88.88元\r\n#退款合计：0笔，商家实收退款共0.00元\r\n");
    assert!(read(&gbk(&agreeing)).unwrap().is_whole());
    let two = text.replace("#导出", "#交易合计：2笔，商家实收共99.99元\r\n#导出");
    let bill = read(&gbk(&two)).unwrap();
    assert_eq!(bill.faults, ["bill: it says 2 payments, and 1 could be read"]);
}

#[test]
fn a_line_that_is_not_understood_is_told_and_the_others_are_read() {
    let commas = line("交易", "1.00", "").replace("杯子", "杯子,大").replace("186", "1,86");
    let spreadsheet = line("交易", "1.00", "").replace(TRADE, "2.02611E+27");
    let amount = line("交易", "1,000.00", "");
    let time = line("交易", "1.00", "").replace("10:15:31", "25:00:00");
    // A payment has no sign, and a refund has one.
    let (negative, doubly) = (line("交易", "-1.00", ""), line("退款", "--1.00", "RF"));
    let bad = [commas, spreadsheet, amount, time, negative, doubly];
    let bill = read(&gbk(&bill(&[&bad[..], &[line("交易", "2.00", "")]].concat()))).unwrap();
    assert_eq!(bill.rows.len(), 1);
    assert_eq!(bill.faults.len(), bad.len(), "{:?}", bill.faults);
    assert!(bill.faults[1].contains("line 7: its 支付宝交易号 is none; was it saved by a spreadsheet?"));
    assert!(!bill.names_every_trade, "the spreadsheet took a number");
}

#[test]
fn of_a_line_that_is_not_understood_the_trade_is_known_if_its_number_is_one() {
    let bad = line("交易", "1.00", "").replace("10:15:31", "25:00:00");
    let text = bill(&[bad, line("交易", "2.00", "")]);
    let said = |payments: u64| {
        let total = format!("#交易合计：{payments}笔，商家实收共3.00元\r\n");
        read(&gbk(&text.replace("#导出", &format!("{total}#导出")))).unwrap()
    };
    let bill = said(2);
    assert_eq!(bill.unread, BTreeSet::from([TRADE.to_owned()]));
    assert!(bill.names_every_trade && !bill.is_whole());
    // A third line is nowhere.
    assert!(!said(3).names_every_trade);
}

#[test]
fn a_mark_that_an_editor_sets_does_not_hide_what_the_bill_is() {
    let text = bill(&[line("交易", "88.88", "")]);
    let marked = [UTF_8_MARK, &gbk(&text)].concat();
    assert_eq!(read(&marked).unwrap().rows.len(), 1);
    for wide in [
        text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(),
        text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ] {
        let mark: &[u8] = if wide[1] == 0 { b"\xff\xfe" } else { b"\xfe\xff" };
        let error = read(&[mark, &wide].concat()).unwrap_err();
        assert!(error.to_string().contains("UTF-16") && error.is_of_content(), "{error}");
    }
}

#[test]
fn what_a_spreadsheet_quotes_is_one_cell() {
    let quoted = line("交易", "1.00", "").replace("杯子", "\"杯子, 大\"");
    let open = line("交易", "2.00", "").replace("杯子", "\"特价杯子");
    let bill = read(&gbk(&bill(&[quoted, open, line("交易", "3.00", "")]))).unwrap();
    assert_eq!(bill.rows.iter().map(|row| row.amount.minor()).collect::<Vec<_>>(), [100, 200, 300]);
    assert!(bill.is_whole(), "{:?}", bill.faults);
}

#[test]
fn a_comma_in_a_name_is_read_around_where_the_form_of_all_else_leaves_no_doubt() {
    let plain = line("退款", "-10.00", "RF-1");
    let whole = read(&gbk(&bill(std::slice::from_ref(&plain)))).unwrap();
    let renamed = [
        plain.replace("杯子", "杯子,大,红"),
        plain.replace("杯子", "\"特价\",杯子"),
        plain.replace("*某", "*某,1.00"),
        format!("{plain}送货,上门"),
    ];
    let bill = read(&gbk(&bill(&renamed))).unwrap();
    assert!(bill.is_whole(), "{:?}", bill.faults);
    assert_eq!(bill.rows, vec![whole.rows[0].clone(); renamed.len()]);
}

#[test]
fn a_line_with_commas_that_can_be_read_in_two_ways_is_told_and_neither_is_believed() {
    // As the name of a thing that looks like a line of 2.00.
    let times = "2026-11-22 10:15:30,2026-11-22 10:15:31";
    let rest = ",2.00,2.00,0.00,0.00,0.00,0.00,0.00,,0.00,0.00,,-0.01,0.00,";
    let twofold = line("交易", "1.00", "").replace("杯子", &format!("杯子,{times},,,,,某{rest}"));
    // A thousand with a comma in each of its columns is no 1.
    let thousand = line("交易", "1,000.00", "");
    // Nor is one whose kind cannot be seen of another kind.
    let order = line("交易", "1.00", "").replace("R-1", "R-1,2");
    let bill = read(&gbk(&bill(&[twofold, thousand, order]))).unwrap();
    assert_eq!((bill.rows.len(), bill.faults.len()), (0, 3), "{:?} {:?}", bill.rows, bill.faults);
}

#[test]
fn refunds_that_look_alike_in_one_file_are_two_unless_they_bear_one_number_and_in_two_files_the_same() {
    let folder = std::env::temp_dir().join(format!("bill-alike-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("bill.csv");
    let distinct = |request_no: &str| {
        let lines = [line("交易", "88.88", ""), line("退款", "-1.00", request_no)];
        std::fs::write(&file, gbk(&bill(&[&lines[..], &lines[1..]].concat()))).unwrap();
        let mut bill = Bill::default();
        bill.read(&file).unwrap();
        bill.read(&file).unwrap();
        bill.rows.iter().collect::<BTreeSet<_>>().len()
    };
    assert_eq!((distinct(""), distinct("RF-1")), (3, 2));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_bill_that_is_cut_short_or_of_another_kind_is_refused() {
    let text = bill(&[line("交易", "1.00", "")]);
    let cut = text.split("#----------业务明细列表结束").next().unwrap();
    assert!(read(&gbk(cut)).unwrap_err().to_string().contains("cut short"));
    let account_bill = "#支付宝账务明细查询\n账务流水号,业务流水号,商户订单号,商品名称,发生时间\n";
    for other in [account_bill, "", "hello\n", "\u{0}\u{1}\n"] {
        let error = read(&gbk(other)).unwrap_err();
        assert!(error.is_of_content() && error.to_string().contains("no bill of trades"), "{error}");
    }
}

#[test]
fn a_line_without_end_is_refused_and_not_gathered() {
    let mut endless = gbk(&bill(&[]));
    endless.extend(std::iter::repeat_n(b'1', 1 << 20));
    let error = read(&endless).unwrap_err();
    assert!(error.to_string().contains("longer than any"), "{error}");
}

#[test]
fn what_unpacks_to_more_than_any_bill_is_refused() {
    /// Comment lines without end.
    struct Endless;
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = if at % 64 == 0 { b'\n' } else { b'#' };
            }
            Ok(buffer.len())
        }
    }
    let mut bill = Bill::default();
    // A GiB of it would take a while: the bound is what is tried, and it is a constant.
    let mut lines = Lines { input: BufReader::new(Endless), read: MAX_BYTES - 1000, number: 0, name: "bomb" };
    let mut line = Vec::new();
    let error = loop {
        match lines.next(&mut line) {
            Ok(true) => {}
            Ok(false) => panic!("it has no end"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("larger than any bill"), "{error}");
    assert!(bill.read_csv("empty", io::empty()).is_err());
}

#[test]
fn a_zip_is_read_by_what_its_files_are_and_not_by_their_names() {
    let summary = gbk("#支付宝业务汇总查询\r\n#账号：[20881011179556110156]\r\n门店编号,门店名称\r\n");
    let detail = gbk(&bill(&[line("交易", "88.88", "")]));
    let zipped = |files: &[(&str, &[u8])]| {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            let deflated =
                zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            zip.start_file(*name, deflated).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let folder = std::env::temp_dir().join(format!("bill-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("bill.zip");
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let mut bill = Bill::default();
        bill.read(&file).map(|()| bill)
    };
    let whole = zipped(&[("summary.csv", &summary), ("detail.csv", &detail)]);
    assert_eq!(read(&whole).unwrap().rows.len(), 1);
    assert!(read(&zipped(&[("summary.csv", &summary)])).is_err());
    // Packed again by macOS; any other file that is no bill may be a day that cannot be read.
    let beside: &[u8] = b"\0\x05\x16\x07";
    let packed = zipped(&[
        ("bill/.DS_Store", b"\0\0\0\x01Bud1"),
        ("bill/detail.csv", &detail),
        ("__MACOSX/bill/._detail.csv", beside),
    ]);
    assert_eq!(read(&packed).unwrap().rows.len(), 1);
    for other in ["._detail.csv", "a.DS_Store", ".DS_Store/detail.csv"] {
        assert!(read(&zipped(&[("detail.csv", &detail), (other, beside)])).is_err(), "{other}");
    }
    let many: Vec<(String, &[u8])> = (0..=MAX_FILES).map(|at| (at.to_string(), &detail[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    assert!(read(&zipped(&many)).unwrap_err().to_string().contains("more files"));
    // Damaged anywhere, it is refused or read as it was, and nothing panics.
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        if let Ok(bill) = read(&damaged) {
            assert!(bill.rows.len() <= 1);
        }
        let _ = read(&whole[..at]);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
