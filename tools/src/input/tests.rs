//! Tests of the input: rows against a second reader, real bad input, and any bytes at all.

use std::cell::Cell;
use std::io::Read;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Gives its bytes in pieces of `step`, so that every break between reads is met.
struct Drip {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl Read for Drip {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.step.min(out.len()).min(self.bytes.len() - self.at);
        out[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn input(bytes: &[u8], step: usize, columns: Option<Columns>) -> Result<Input, Failure> {
    let drip = Drip { bytes: bytes.to_vec(), at: 0, step };
    Input::new(Source::new(Path::new("test"), Box::new(drip), None)?, None, columns, 0)
}

fn items(bytes: &[u8], columns: Option<Columns>) -> Vec<Item> {
    let read = |step| {
        let mut input = input(bytes, step, columns.clone()).unwrap();
        std::iter::from_fn(|| input.next().unwrap()).collect::<Vec<Item>>()
    };
    let items = read(usize::MAX);
    assert_eq!(items, read(1), "where reads break changes nothing");
    items
}

fn columns(stream: &str, time: &str, value: Option<&str>) -> Option<Columns> {
    let value = value.map_or(ValueColumn::Row, |name| ValueColumn::One(name.to_owned()));
    let missing = vec!["NA".to_owned()];
    Some(Columns { stream: stream.to_owned(), time: TimeColumns::parse(time), value, missing })
}

fn rows(items: &[Item]) -> Vec<(u64, &str, u64, String)> {
    let row = |item: &'_ Item| match item {
        Item::Row(row) => Some(row.clone()),
        Item::Refused(_) => None,
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let rows = items.iter().filter_map(row);
    rows.map(|row| (row.line, &*text(row.stream).leak(), row.time_us, text(row.value))).collect()
}

fn refusals(items: &[Item]) -> Vec<(u64, Reason, Option<&str>)> {
    let mut found = Vec::new();
    for item in items {
        if let Item::Refused(refusal) = item {
            found.push((refusal.line, refusal.reason, refusal.column.as_deref()));
        }
    }
    found
}

#[test]
fn csv_rows_with_their_lines() {
    let csv = b"\xef\xbb\xbfwho,when,what\n\na,1,x\r\nb,2,\"two\nlines, a comma and a \"\" quote\"\r\nc,3,\n\"d\",4,z";
    let items = items(csv, columns("who", "when", Some("what")));
    let expected = [
        (3, "a", 1, "x".to_owned()),
        (4, "b", 2, "two\nlines, a comma and a \" quote".to_owned()),
        (6, "c", 3, String::new()),
        (7, "d", 4, "z".to_owned()),
    ];
    assert_eq!(rows(&items), expected);
    assert_eq!(refusals(&items), []);
}

#[test]
fn a_csv_row_as_json_keeps_the_order_of_the_file() {
    let items = items(b"b,a,t\n\"q\"\"\",\xc3\xa9,7\nx,y\xff,8\n", columns("b", "t", None));
    assert_eq!(rows(&items), [(2, "q\"", 7, r#"{"b":"q\"","a":"é","t":"7"}"#.to_owned())]);
    assert_eq!(refusals(&items), [(3, Reason::NotUtf8, Some("a"))]);
}

#[test]
fn flights_have_rows_without_a_stream() {
    let csv = "tailnum,minute,time_hour\nN14228,15,2013-01-01T10:00:00Z\nNA,5,2013-01-01T10:00:00Z\n\
               ,5,2013-01-01T10:00:00Z\nN1,NA,2013-01-01T10:00:00Z\nN1,61,2013-01-01T10:00:00Z\n\
               N1,5,2013-01-01 10:00:00\nN1,5\n";
    let items = items(csv.as_bytes(), columns("tailnum", "time_hour,minute", None));
    let row = r#"{"tailnum":"N14228","minute":"15","time_hour":"2013-01-01T10:00:00Z"}"#;
    assert_eq!(rows(&items), [(2, "N14228", 1_357_035_300_000_000, row.to_owned())]);
    let expected = [
        (3, Reason::StreamMissing, Some("tailnum")),
        (4, Reason::StreamMissing, Some("tailnum")),
        (5, Reason::TimeMissing, Some("minute")),
        (6, Reason::TimeWrong, Some("minute")),
        (7, Reason::TimeWrong, Some("time_hour")),
        (8, Reason::FieldCount, None),
    ];
    assert_eq!(refusals(&items), expected);
}

#[test]
fn an_open_quote_costs_one_line() {
    let items = items(b"s,t\na,1\n\"b,2\nc,3\nd,4\n", columns("s", "t", None));
    assert_eq!(refusals(&items), [(3, Reason::QuoteOpen, None)]);
    assert_eq!(
        rows(&items).iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(),
        [(2, "a"), (4, "c"), (5, "d")]
    );
}

#[test]
fn rows_that_are_too_long_cost_themselves_and_bounded_memory() {
    let long = "x".repeat(ROW_BYTES_MAX + 1);
    let quoted = format!("s,t\na,1\n\"{long}\n{long}\nb,2\n");
    let mut input = input(quoted.as_bytes(), usize::MAX, columns("s", "t", None)).unwrap();
    let found: Vec<Item> = std::iter::from_fn(|| input.next().unwrap()).collect();
    assert_eq!(refusals(&found), [(3, Reason::QuoteOpen, None), (4, Reason::RowTooLong, None)]);
    assert_eq!(rows(&found).iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(), [(2, "a"), (5, "b")]);
    let json = format!(
        "{{\"stream\":\"a\",\"time_us\":1,\"value\":\"{long}\"}}\n{{\"stream\":\"b\",\"time_us\":1,\"value\":\"\"}}"
    );
    let mut input = super::tests::input(json.as_bytes(), usize::MAX, None).unwrap();
    let found: Vec<Item> = std::iter::from_fn(|| input.next().unwrap()).collect();
    assert_eq!(refusals(&found), [(1, Reason::RowTooLong, None)]);
    assert_eq!(rows(&found), [(2, "b", 1, String::new())]);
}

#[test]
fn csv_without_its_columns_is_wrong_use() {
    let fails = |bytes: &[u8], columns| input(bytes, usize::MAX, columns).err().expect("refused");
    let failure = fails(b"a,b\n1,2\n", None);
    assert!(failure.what.contains("a, b"), "{failure}");
    assert!(fails(b"a,b\n", columns("c", "a", None)).what.contains("no column c"));
    assert!(fails(b"a,b,b\n", columns("a", "b", None)).what.contains("twice"));
    assert!(fails(b"a,b,b\n", columns("a", "a", None)).what.contains("twice"));
    assert!(input(b"a,b,b\n", 1, columns("a", "a", Some("a"))).is_ok());
    assert!(fails(b"\"a,b\n1,2", columns("a", "b", None)).what.contains("quote"));
    assert!(fails(b"[{}]", None).what.contains("array"));
    assert!(fails(b"\xff\xfea\0", None).what.contains("UTF-16"));
    assert!(fails(b"\x1f\x8b\x08", None).what.contains("gzip"));
    assert_eq!(items(b" \n\n", None), []);
}

#[test]
fn exported_names_need_no_options() {
    let json = concat!(
        r#"{"stream":"a","time_us":1,"value":"x\u0000\ud83d\ude00","version":65536}"#,
        "\n\r\n",
        r#"{"stream_base64":"/w==","time_us":2,"value_base64":"","space":7,"expiry_us":9}"#,
        "\r\n",
        r#"{"stream":"a","time_us":"2013-01-01T10:00:00Z","value":""}"#,
    );
    let items = items(json.as_bytes(), None);
    let row = |line, space, stream: &[u8], time_us, expiry_us, value: &str| {
        Item::Row(Row { line, space, stream: stream.to_vec(), time_us, expiry_us, value: value.into() })
    };
    let expected = [
        row(1, 0, b"a", 1, 0, "x\0😀"),
        row(3, 7, b"\xff", 2, 9, ""),
        row(4, 0, b"a", 1_357_034_400_000_000, 0, ""),
    ];
    assert_eq!(items, expected);
}

#[test]
fn json_rows_that_are_no_records() {
    let lines: [(&[u8], Reason, Option<&str>); 20] = [
        (b"{", Reason::Json, None),
        (b"[1]", Reason::Json, None),
        (b"{\"stream\":\"a\"} x", Reason::Json, None),
        (b"{\"stream\":\"\xff\"}", Reason::NotUtf8, None),
        (br#"{"stream":"a","stream":"b"}"#, Reason::NameTwice, Some("stream")),
        (br#"{"stream":"a","time_us":1,"value":"","when":2}"#, Reason::NameUnknown, Some("when")),
        (br#"{"time_us":1,"value":""}"#, Reason::StreamMissing, Some("stream")),
        (br#"{"stream":null,"time_us":1,"value":""}"#, Reason::StreamMissing, Some("stream")),
        (br#"{"stream":"","time_us":1,"value":""}"#, Reason::StreamMissing, Some("stream")),
        (br#"{"stream":{},"time_us":1,"value":""}"#, Reason::StreamWrong, Some("stream")),
        (
            br#"{"stream":"a","stream_base64":"","time_us":1,"value":""}"#,
            Reason::StreamWrong,
            Some("stream_base64"),
        ),
        (br#"{"stream":"a","value":""}"#, Reason::TimeMissing, Some("time_us")),
        (br#"{"stream":"a","time_us":1.5,"value":""}"#, Reason::TimeWrong, Some("time_us")),
        (br#"{"stream":"a","time_us":-1,"value":""}"#, Reason::TimeWrong, Some("time_us")),
        (br#"{"stream":"a","time_us":"soon","value":""}"#, Reason::TimeWrong, Some("time_us")),
        (br#"{"stream":"a","time_us":1}"#, Reason::ValueMissing, Some("value")),
        (br#"{"stream":"a","time_us":1,"value":["x"]}"#, Reason::ValueWrong, Some("value")),
        (br#"{"stream":"a","time_us":1,"value":"\ud800"}"#, Reason::ValueWrong, Some("value")),
        (br#"{"stream":"a","time_us":1,"value_base64":"?"}"#, Reason::ValueWrong, Some("value_base64")),
        (br#"{"stream":"a","time_us":1,"value":"","space":65536}"#, Reason::FieldWrong, Some("space")),
    ];
    let mut json = b"{\"stream\":\"a\",\"time_us\":1,\"value\":\"good\"}\n".to_vec();
    let mut expected = Vec::new();
    for (index, (line, reason, column)) in lines.into_iter().enumerate() {
        json.extend_from_slice(line);
        json.push(b'\n');
        expected.push((index as u64 + 2, reason, column));
    }
    let items = items(&json, None);
    assert_eq!(refusals(&items), expected);
    assert_eq!(rows(&items), [(1, "a", 1, "good".to_owned())]);
    for item in &items {
        if let Item::Refused(refusal) = item {
            assert!(!refusal.mend.is_empty() && !refusal.what.is_empty(), "{refusal:?}");
        }
    }
}

#[test]
fn json_columns_chosen_by_options() {
    let json = b"{ \"id\":12, \"at\":\"5\", \"text\":\"x\", \"tags\":[ 1 ] } \n";
    let row = "{ \"id\":12, \"at\":\"5\", \"text\":\"x\", \"tags\":[ 1 ] }".to_owned();
    assert_eq!(rows(&items(json, columns("id", "at", None))), [(1, "12", 5, row)]);
    assert_eq!(rows(&items(json, columns("id", "at", Some("text")))), [(1, "12", 5, "x".to_owned())]);
    assert_eq!(rows(&items(json, columns("id", "at", Some("tags")))), [(1, "12", 5, "[ 1 ]".to_owned())]);
    assert_eq!(
        refusals(&items(json, columns("id", "at", Some("none")))),
        [(1, Reason::ValueMissing, Some("none"))]
    );
    assert_eq!(refusals(&items(json, columns("tags", "at", None))), [(1, Reason::StreamWrong, Some("tags"))]);
}

#[test]
fn limits_of_streams_and_values() {
    let line = |stream: &str, value: &str| {
        format!("{{\"stream\":\"{stream}\",\"time_us\":1,\"value\":\"{value}\"}}\n").into_bytes()
    };
    let (stream, value) = ("s".repeat(128), "v".repeat(1 << 20));
    assert_eq!(refusals(&items_once(&line(&stream, &value))), []);
    let long = refusals_of(&line(&format!("{stream}s"), ""));
    assert_eq!(long, [(1, Reason::StreamWrong, Some("stream".to_owned()))]);
    let long = refusals_of(&line("s", &format!("{value}v")));
    assert_eq!(long, [(1, Reason::ValueWrong, Some("value".to_owned()))]);
}

fn items_once(bytes: &[u8]) -> Vec<Item> {
    let mut input = input(bytes, usize::MAX, None).unwrap();
    std::iter::from_fn(|| input.next().unwrap()).collect()
}

fn refusals_of(bytes: &[u8]) -> Vec<(u64, Reason, Option<String>)> {
    let items = items_once(bytes);
    refusals(&items)
        .into_iter()
        .map(|(line, reason, column)| (line, reason, column.map(str::to_owned)))
        .collect()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(bytes.len())];
    let count = zstd_safe::compress(&mut out[..], bytes, 3).unwrap();
    out.truncate(count);
    out
}

#[test]
fn zstd_is_told_by_its_first_bytes_and_an_early_end_is_an_error() {
    let text = b"s,t\na,1\nb,2\n";
    // Two frames in one file, as `cat a.zst b.zst` leaves them; the break is in the middle of a row.
    let both = [packed(&text[..6]), packed(&text[6..])].concat();
    assert_eq!(items(&both, columns("s", "t", None)).len(), 2);
    for cut in 1..both.len() {
        let failed = match input(&both[..cut], 3, columns("s", "t", None)) {
            Err(_) => true,
            Ok(mut input) => loop {
                match input.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break true,
                }
            },
        };
        // Between the frames the file is whole, and before its fourth byte it is not zstd but text.
        let whole = cut == packed(&text[..6]).len();
        assert_eq!(failed, !whole, "cut at {cut}");
    }
}

#[test]
fn a_small_file_may_unpack_to_much() {
    let text = format!("{{\"stream\":\"a\",\"time_us\":1,\"value\":\"{}\"}}\n", " ".repeat(1 << 20));
    let read = Rc::new(Cell::new(0));
    let source =
        Source::new(Path::new("x"), Box::new(&*packed(text.repeat(3).as_bytes()).leak()), None).unwrap();
    let progress = source.progress().clone();
    let mut input = Input::new(source, None, None, 0).unwrap();
    while let Some(Item::Row(row)) = input.next().unwrap() {
        read.set(read.get() + row.value.len());
    }
    assert_eq!(read.get(), 3 << 20);
    assert!(progress.read_bytes.get() < 10_000);
}

use std::rc::Rc;

/// The same file by the csv crate: line-free, just the fields.
fn second_reader(csv: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(csv);
    let records = reader.byte_records().map(|record| record.unwrap());
    records.map(|record| record.iter().map(<[u8]>::to_vec).collect()).collect()
}

fn any_field() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,3}", "[a\",\r\n]{0,6}"]
}

proptest! {
    #[test]
    fn csv_agrees_with_the_csv_crate(rows in prop::collection::vec(prop::collection::vec(any_field(), 3), 0..20),
                                      crlf: bool, step in 1..20_usize) {
        let mut text = "s,v,t".to_owned();
        let mut lines = Vec::new();
        for row in &rows {
            text.push_str(if crlf { "\r\n" } else { "\n" });
            let ends = text.replace("\r\n", "\n").replace('\r', "\n");
            lines.push(1 + ends.matches('\n').count() as u64);
            let quoted: Vec<String> = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            text.push_str(&quoted.join(","));
        }
        let mut ours = input(text.as_bytes(), step, columns("s", "t", None)).unwrap();
        let mut items = Vec::new();
        while let Some(item) = ours.next().unwrap() {
            items.push(item);
        }
        let theirs = second_reader(text.as_bytes());
        prop_assert_eq!(theirs.len(), rows.len() + 1);
        let found: Vec<u64> = items.iter().map(|item| match item {
            Item::Row(row) => row.line,
            Item::Refused(refusal) => refusal.line,
        }).collect();
        prop_assert_eq!(found, lines);
    }

    #[test]
    fn fields_agree_with_the_csv_crate(csv in "[a\",\r\n]{0,60}") {
        // Every row is refused for its count of fields, whose number tells how it was taken apart.
        let text = format!("s,t,1,2,3,4,5,6,7,8,9,a,b,c,d,e,f,g,h,i,j,k\n{csv}");
        let mut ours = input(text.as_bytes(), 5, columns("s", "t", Some("1"))).unwrap();
        let mut counts = Vec::new();
        while let Some(item) = ours.next().unwrap() {
            let Item::Refused(refusal) = item else { continue };
            match refusal.reason {
                Reason::FieldCount => counts.push(refusal.what),
                // The csv crate closes an open quote at the end of the file; we do not believe it.
                Reason::QuoteOpen => return Ok(()),
                _ => {}
            }
        }
        let theirs = second_reader(csv.as_bytes()).into_iter().filter(|row| row.len() != 22);
        let theirs: Vec<String> =
            theirs.map(|row| format!("the row has {} fields, the header 22", row.len())).collect();
        prop_assert_eq!(counts, theirs);
    }

    #[test]
    fn any_bytes_at_all(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1..50_usize,
                        head in prop::sample::select(vec![&b""[..], b"s,t\n", b"{", b"{\"stream\":\"", b"\x28\xb5\x2f\xfd"]),
                        chosen: bool) {
        let columns = if chosen { columns("s", "t", None) } else { None };
        if let Ok(mut input) = input(&[head, &bytes].concat(), step, columns) {
            while let Ok(Some(_)) = input.next() {}
        }
    }

    #[test]
    fn damaged_samples(at in 0..4000_usize, byte: u8, cut in 0..4000_usize) {
        let mut bytes = include_bytes!("../../sample/commits-sample.ndjson.zst")[..4096].to_vec();
        bytes[at] = byte;
        bytes.truncate(4096 - cut);
        if let Ok(mut input) = input(&bytes, usize::MAX, None) {
            while let Ok(Some(_)) = input.next() {}
        }
    }
}

#[test]
fn the_sample_is_read_whole() {
    let bytes = include_bytes!("../../sample/commits-sample.ndjson.zst");
    let items = items_once(bytes);
    assert_eq!((items.len(), refusals(&items).len()), (3069, 0));
}
