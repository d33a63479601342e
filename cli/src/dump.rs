//! `dump`: all metadata, as it is at one position of the log, in a file.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::Duration;

use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{DumpBegin, DumpBegun, DumpNext, DumpPage};
use serde_json::json;
use shell::admin::Admin;
use shell::link::CallError;

use crate::dump_file::Writer;
use crate::dump_line::{FORMAT, Header};
use crate::lists::odd;
use crate::outcome::{Done, Failure};

/// How long the server may take for a page. 20 s: it reads half a megabyte from a disk that others use.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a page is asked for whose answer does not come. 3: a connection that was cut is made anew, and
/// then the server has ended.
const PAGE_TRIES_MAX: usize = 3;

/// Writes the dump. One that fails leaves nothing, and what was there before.
pub(crate) async fn run(admin: &Admin, file: &Path) -> Result<Done, Failure> {
    let Reply::DumpBegun(begun) = admin.ask_leader(Op::DumpBegin(DumpBegin {})).await? else {
        return Err(odd());
    };
    let header = Header {
        format: FORMAT,
        cluster: begun.cluster.clone(),
        log_index: begun.log_index,
        time_ns: begun.time_ns,
        program: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut writer = Writer::create(file, header)?;
    let (mut number, mut count) = (0, 0_u64);
    loop {
        let page = page(admin, &begun, number).await?;
        count += page.records.len() as u64;
        for record in page.records {
            writer.add(record)?;
        }
        if io::stderr().is_terminal() {
            let _gone = write!(io::stderr(), "\r{count} records ");
        }
        number += 1;
        if page.end {
            break;
        }
    }
    if io::stderr().is_terminal() {
        let _gone = writeln!(io::stderr());
    }
    let contents = writer.finish()?;
    Ok(Done {
        text: format!(
            "{}: {} volumes, {} inodes, as of log entry {}; written, read again and found whole",
            file.display(),
            contents.registry.volumes.len(),
            contents.inodes,
            begun.log_index
        ),
        json: json!({
            "file": file.display().to_string(),
            "log_index": begun.log_index,
            "time_ns": begun.time_ns,
            "records": contents.records,
            "inodes": contents.inodes,
            "volumes": contents.registry.volumes.len(),
        })
        .to_string(),
        missing: Vec::new(),
    })
}

/// The next page, from the server that began.
async fn page(admin: &Admin, begun: &DumpBegun, page: u64) -> Result<DumpPage, Failure> {
    let mut last = String::new();
    for _ in 0..PAGE_TRIES_MAX {
        let dump = begun.dump;
        let op = Op::DumpNext(DumpNext { dump, page });
        match admin.ask(&begun.address, op, PAGE_TIMEOUT).await {
            Ok(Some(Reply::DumpPage(page))) => return Ok(page),
            Ok(_) => return Err(odd()),
            Err(CallError::Fault(fault)) => return Err(Failure::failed(fault.message)),
            Err(error) => last = error.to_string(),
        }
    }
    Err(Failure::failed(format!(
        "the metadata server at {} does not go on with the dump ({last}); dump again",
        begun.address
    )))
}
