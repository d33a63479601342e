//! `restore`: fills a new metadata cluster with a dump, and with the replica sets that object servers know.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mrc_core::restore_plan::{Asked, Refusal, Registry, plan};
use prost::Message as _;
use proto::dump::{self, record::Kind};
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use proto::mrc::{OsdList, RestoreBatch, RestoreBegin, RestoreEnd};
use proto::osd;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shell::admin::Admin;

use crate::dump_file::{self, Contents};
use crate::lists::odd;
use crate::osds::{Osd, ask_all, silent};
use crate::outcome::{Done, Failure};

/// Bytes of records in one command. 64 KiB: with the longest record, an xattr of 64 KiB, it is far below the
/// 256 KiB that a command may have.
const BATCH_BYTES: usize = 64 << 10;

/// How long object servers are waited for. 30 s: those that run register within a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at them.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Restores, or goes on with a restore that was interrupted.
pub(crate) async fn run(admin: &Admin, file: &Path) -> Result<Done, Failure> {
    let contents = dump_file::read(file)?;
    let cluster = admin.identity().cluster.to_string();
    if contents.header.cluster != cluster {
        return Err(Failure::failed(format!(
            "{} is of cluster {} and this is cluster {cluster}; object servers belong to the cluster they \
             were made in, so new metadata servers have to have its id and secret",
            file.display(),
            contents.header.cluster
        )));
    }
    let (registry, absent) = planned(admin, &contents.registry).await?;
    let id = id_of(&contents, &registry);
    let begin = Op::RestoreBegin(RestoreBegin {
        file: id.clone(),
        cluster,
        sequences: Some(contents.sequences),
        dumped_ns: contents.header.time_ns,
        log_index: contents.header.log_index,
    });
    let mut sender = Sender {
        admin,
        id,
        batches: Vec::new(),
        batch: Vec::new(),
        bytes: 0,
        number: 0,
        next: restoring(admin, begin).await?,
        records: 0,
    };
    sender.send_all(file, &contents, &registry).await?;
    let end = Op::RestoreEnd(RestoreEnd {
        file: sender.id.clone(),
        batches: sender.number,
        map_version: registry.map_version,
    });
    let Reply::Done(_) = admin.ask_leader(end).await? else {
        return Err(odd());
    };
    Ok(told(file, &contents, &absent))
}

fn told(file: &Path, contents: &Contents, absent: &[String]) -> Done {
    let mut text = format!(
        "restored {} volumes and {} inodes of {}\n\
         Each file is now compared with its object; opening one waits for that. `xfs-admin restored show` says \
         how far it is.\n\
         Objects of files made after the dump are kept until `xfs-admin restored discard`.",
        contents.registry.volumes.len(),
        contents.inodes,
        file.display()
    );
    for absent in absent {
        text.push_str("\nwas not asked: ");
        text.push_str(absent);
    }
    Done {
        text,
        json: json!({
            "volumes": contents.registry.volumes.len(),
            "inodes": contents.inodes,
            "dumped_ns": contents.header.time_ns,
            "not_asked": absent,
        })
        .to_string(),
        missing: Vec::new(),
    }
}

/// What to restore, once enough object servers were asked; and who was not.
async fn planned(admin: &Admin, dumped: &Registry) -> Result<(Registry, Vec<String>), Failure> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let (asked, absent) = ask(admin).await?;
        match plan(dumped, &asked) {
            Ok(plan) => return Ok((plan, absent)),
            Err(Refusal::TooFew { .. }) if started.elapsed() < PATIENCE => {}
            Err(refusal) => {
                let absent: Vec<String> = absent.iter().map(|it| format!("\n  {it}")).collect();
                return Err(Failure::failed(format!("{refusal}{}", absent.concat())));
            }
        }
        if !std::mem::replace(&mut told, true) {
            let _gone = writeln!(io::stderr(), "waiting for object servers to register");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Asks all object servers that have come to the new cluster what they know.
async fn ask(admin: &Admin) -> Result<(Vec<Asked>, Vec<String>), Failure> {
    let Reply::Osds(known) = admin.ask_leader(Op::OsdList(OsdList {})).await? else {
        return Err(odd());
    };
    let known: Vec<Osd> = known
        .osds
        .into_iter()
        .map(|osd| Osd {
            id: osd.osd,
            address: osd.address,
        })
        .collect();
    let op = osd::request::Op::MapShow(osd::MapShow {});
    let (mut asked, mut absent) = (Vec::new(), Vec::new());
    for (server, answer) in ask_all(admin, &known, None, &op).await {
        match answer {
            Ok(osd::Response { map: Some(it), .. }) if it.osd == server.id => asked.push(Asked {
                osd: it.osd,
                store_uuid: it.store_uuid,
                map: it.map,
            }),
            Ok(_) => absent.push(format!(
                "osd {} ({}): another server or release answers there",
                server.id, server.address
            )),
            Err(error) => absent.push(silent(&server, &error)),
        }
    }
    Ok((asked, absent))
}

/// Names what is restored: the same dump with the same replica sets, so that a restore that was interrupted
/// goes on only with the same records.
fn id_of(contents: &Contents, registry: &Registry) -> Bytes {
    let mut sum = Sha256::new();
    sum.update(contents.sha256);
    sum.update(registry.map_version.to_be_bytes());
    for record in volumes(registry).chain(servers_and_groups(registry)) {
        sum.update(record.encode_length_delimited_to_vec());
    }
    Bytes::copy_from_slice(&sum.finalize())
}

fn volumes(registry: &Registry) -> impl Iterator<Item = dump::Record> {
    let volumes = registry.volumes.iter().cloned().map(Kind::Volume);
    volumes.map(|kind| dump::Record { kind: Some(kind) })
}

fn servers_and_groups(registry: &Registry) -> impl Iterator<Item = dump::Record> {
    let servers = registry.object_servers.iter().cloned();
    let groups = registry.groups.iter().cloned().map(Kind::Group);
    let kinds = servers.map(Kind::ObjectServer).chain(groups);
    kinds.map(|kind| dump::Record { kind: Some(kind) })
}

async fn restoring(admin: &Admin, op: Op) -> Result<u64, Failure> {
    match admin.ask_leader(op).await? {
        Reply::Restoring(restoring) => Ok(restoring.next_batch),
        _ => Err(odd()),
    }
}

/// Cuts records into batches, the same ones each time, and sends those that are not there.
struct Sender<'a> {
    admin: &'a Admin,
    id: Bytes,
    /// Cut and not sent.
    batches: Vec<Vec<dump::Record>>,
    batch: Vec<dump::Record>,
    bytes: usize,
    /// Batches sent or skipped.
    number: u64,
    /// The first one that is missing.
    next: u64,
    records: u64,
}

/// Batches cut ahead of those that were sent. 64: 4 MiB, so that the file is read in long strides.
const BATCHES_AHEAD_MAX: usize = 64;

impl Sender<'_> {
    /// Volumes first: everything else belongs to one.
    async fn send_all(
        &mut self,
        file: &Path,
        contents: &Contents,
        registry: &Registry,
    ) -> Result<(), Failure> {
        volumes(registry).for_each(|record| self.add(record));
        self.cut();
        self.send().await?;
        // Reading waits whenever enough is cut: nothing of the size of the dump is ever in memory.
        let (cut, mut cuts) = tokio::sync::mpsc::channel::<dump::Record>(1024);
        let path = file.to_owned();
        let reading = tokio::task::spawn_blocking(move || {
            dump_file::read_with(&path, |record| {
                let gone = || Failure::failed("sending the dump has failed");
                cut.blocking_send(record).map_err(|_| gone())
            })
        });
        while let Some(record) = cuts.recv().await {
            self.add(record);
            if self.batches.len() >= BATCHES_AHEAD_MAX {
                self.send().await?;
            }
        }
        let read = reading.await;
        let read =
            read.map_err(|error| Failure::failed(format!("reading the dump failed: {error}")))?;
        if read? != *contents {
            return Err(Failure::failed(format!(
                "{} was changed while it was being restored; begin again with empty directories of all metadata \
                 servers",
                file.display()
            )));
        }
        self.cut();
        servers_and_groups(registry).for_each(|record| self.add(record));
        self.cut();
        self.send().await?;
        if io::stderr().is_terminal() {
            let _gone = writeln!(io::stderr());
        }
        Ok(())
    }

    fn add(&mut self, record: dump::Record) {
        self.bytes += record.encoded_len();
        self.batch.push(record);
        if self.bytes >= BATCH_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.bytes = 0;
        if !self.batch.is_empty() {
            self.batches.push(std::mem::take(&mut self.batch));
        }
    }

    async fn send(&mut self) -> Result<(), Failure> {
        for records in std::mem::take(&mut self.batches) {
            self.records += records.len() as u64;
            if self.number >= self.next {
                let batch = Op::RestoreBatch(RestoreBatch {
                    file: self.id.clone(),
                    number: self.number,
                    records,
                });
                restoring(self.admin, batch).await?;
            }
            self.number += 1;
        }
        if io::stderr().is_terminal() {
            let _gone = write!(io::stderr(), "\r{} records ", self.records);
        }
        Ok(())
    }
}
