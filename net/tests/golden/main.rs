//! Golden vectors: every operation and reply with its decoded fields, and frames that must be refused.
//!
//! `golden/vectors.json` is what other languages check their clients against, so it changes only together with the
//! protocol. The tests compare the file with what this code encodes and decodes. After a wanted change write it anew:
//!
//! ```text
//! NET_GOLDEN_WRITE=1 cargo test -p net --test golden
//! ```

mod describe;
mod vectors;

use net::frame::next_frame;
use net::route::ClusterMap;
use net::{Operation, Reply, Request};
use serde_json::{Value, json};

const FILE: &str = include_str!("../../golden/vectors.json");

/// What a frame says, or the error that it must be refused with.
fn decode(bytes: &[u8], limit: u32) -> Result<(Value, Value), Value> {
    let frame = match next_frame(bytes, limit) {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(json!({ "kind": "Incomplete" })),
        Err(error) => return Err(describe::frame_error(&error)),
    };
    assert_eq!(frame.consumed, bytes.len(), "a vector is one frame");
    let fields = if frame.header.is_reply {
        let reply =
            Reply::decode(frame.header.operation, frame.body).map_err(|e| describe::reply_error(&e))?;
        if let net::reply::Answer::Map(map) = reply.answer {
            ClusterMap::decode(map).map_err(|e| json!({ "kind": "BadMap", "of": e.of, "index": e.index }))?;
        }
        describe::reply(&reply)
    } else {
        let request =
            Request::decode(frame.header.operation, frame.body).map_err(|e| describe::request_error(&e))?;
        describe::request(&request)
    };
    Ok((describe::header(&frame.header), fields))
}

fn valid(direction: &str, frames: Vec<(String, Vec<u8>)>) -> Vec<Value> {
    frames
        .into_iter()
        .map(|(name, frame)| {
            let (header, fields) = decode(&frame, 4 << 20).expect("a valid vector decodes");
            let hex = describe::hex(&frame);
            json!({ "name": name, "direction": direction, "hex": hex, "header": header, "fields": fields })
        })
        .collect()
}

fn document() -> Value {
    let mut all = valid("request", vectors::requests());
    all.extend(valid("reply", vectors::replies()));
    let malformed: Vec<Value> = vectors::malformed()
        .into_iter()
        .map(|bad| {
            let error = decode(&bad.frame, bad.limit).expect_err(&bad.name);
            json!({ "name": bad.name, "hex": describe::hex(&bad.frame), "limit": bad.limit, "error": error })
        })
        .collect();
    json!({ "protocol_version": 1, "vectors": all, "malformed": malformed })
}

/// One vector per line, so that a change shows as the lines it touches.
fn text(document: &Value) -> String {
    let lines = |list: &str| {
        let items = document[list].as_array().expect("a list").iter();
        items.map(|item| format!("  {item}")).collect::<Vec<_>>().join(",\n")
    };
    format!(
        "{{\n\"protocol_version\": {},\n\"vectors\": [\n{}\n],\n\"malformed\": [\n{}\n]\n}}\n",
        document["protocol_version"],
        lines("vectors"),
        lines("malformed")
    )
}

#[test]
fn the_file_is_what_the_code_says() {
    let fresh = text(&document());
    if std::env::var_os("NET_GOLDEN_WRITE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/vectors.json");
        #[expect(
            clippy::disallowed_methods,
            reason = "a developer's tool that writes a file of the source tree"
        )]
        std::fs::write(path, &fresh).expect("the source tree can be written");
        return;
    }
    for (line, (said, is)) in FILE.lines().zip(fresh.lines()).enumerate() {
        assert_eq!(said, is, "golden/vectors.json line {}", line + 1);
    }
    assert_eq!(FILE, fresh, "golden/vectors.json has other lines");
}

#[test]
fn each_vector_of_the_file_decodes_or_is_refused_as_it_says() {
    let file: Value = serde_json::from_str(FILE).expect("the file is JSON");
    for vector in file["vectors"].as_array().expect("a list") {
        let bytes = describe::unhex(vector["hex"].as_str().expect("hex"));
        let (header, fields) = decode(&bytes, 4 << 20).expect("a valid vector decodes");
        assert_eq!((&vector["header"], &vector["fields"]), (&header, &fields), "{}", vector["name"]);
    }
    for vector in file["malformed"].as_array().expect("a list") {
        let bytes = describe::unhex(vector["hex"].as_str().expect("hex"));
        let limit = vector["limit"].as_u64().expect("a limit") as u32;
        assert_eq!(decode(&bytes, limit), Err(vector["error"].clone()), "{}", vector["name"]);
    }
}

#[test]
fn each_operation_has_vectors_in_both_directions_and_many_are_refused() {
    let document = document();
    let has = |operation: Operation, direction: &str| {
        document["vectors"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|v| v["header"]["operation"] == operation.name() && v["direction"] == direction)
    };
    for operation in Operation::ALL {
        assert!(has(operation, "request") && has(operation, "reply"), "{operation:?} has no vector");
    }
    let malformed = document["malformed"].as_array().expect("a list");
    assert!(malformed.len() >= 30);
    let mut names: Vec<&str> = malformed
        .iter()
        .chain(document["vectors"].as_array().expect("a list"))
        .map(|v| v["name"].as_str().expect("a name"))
        .collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two vectors of one name");
    // Each kind of error appears.
    for kind in [
        "BadMagic",
        "HeaderChecksum",
        "BadVersion",
        "UnknownOperation",
        "BadFlags",
        "FrameTooLarge",
        "BodyChecksum",
        "BadRequest",
        "TooLarge",
        "BadReply",
        "BadMap",
    ] {
        assert!(malformed.iter().any(|v| v["error"]["kind"] == kind), "no vector is refused with {kind}");
    }
}
