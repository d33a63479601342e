//! Metadata servers whose own files rot: they end and say what to do, and programs notice nothing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

mod common;

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use common::{Client, Cluster, inode_of, lookup, make_dir};
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::link::Role;

const NAMES: usize = 200;

fn name(number: usize) -> String {
    format!("name-{number:03}")
}

/// A cluster with some directories, and their inodes.
fn filled() -> (Cluster, Client, Vec<u64>) {
    let cluster = Cluster::start(3);
    let mut client = cluster.client();
    client.open_volume(&Client::new(&cluster.addresses, Role::Osd, 1));
    let inodes = (0..NAMES)
        .map(|number| inode_of(client.change(make_dir(&name(number))).unwrap()))
        .collect();
    client.leader();
    (cluster, client, inodes)
}

/// Who leads, whether or not all are there.
fn leader(client: &Client) -> Option<u64> {
    let Ok(Reply::ClusterStatus(status)) = client.read(Op::Status(wire::Status {})) else {
        return None;
    };
    let mut servers = status.servers.iter();
    servers
        .find(|server| server.state == "leader")
        .map(|leader| leader.id)
}

fn file_of(cluster: &Cluster, id: u64, folder: &str, prefix: &str) -> PathBuf {
    let items = std::fs::read_dir(cluster.dir_of(id).join(folder)).unwrap();
    let mut paths = items.map(|item| item.unwrap().path());
    paths
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(prefix)
        })
        .unwrap()
}

fn look_up_all(client: &Client, inodes: &[u64]) {
    for (number, inode) in inodes.iter().enumerate() {
        // Neither EIO nor ENOENT.
        let found = client.read(lookup(&name(number))).unwrap();
        assert_eq!(inode_of(found), *inode);
    }
}

/// It ended by itself, said why, and is as good as new in an empty directory.
fn ended_and_comes_back(cluster: &mut Cluster, id: u64, file: &Path) {
    let said = cluster.ended(id).unwrap_err().to_string();
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
    assert!(said.contains("offset"), "{said}");
    let remedy = "remove this server's directory and start it again";
    assert!(said.contains(remedy), "{said}");
    cluster.wipe(id);
    cluster.restart(id);
}

#[test]
fn leader_whose_index_rots_ends_and_others_have_the_answers() {
    let (mut cluster, client, inodes) = filled();
    for id in 1..=3 {
        cluster.stop(id).unwrap();
        cluster.wait_until_free(id);
    }
    let rotten = 1;
    let file = file_of(&cluster, rotten, "", "index-");
    let mut bytes = std::fs::read(&file).unwrap();
    let mut changed = 0;
    for page in bytes.chunks_mut(4100) {
        let names = page.windows(5).filter(|it| it == b"name-").count();
        if names > 10 {
            // A bit of a name: without checksums it would not be found.
            let at = page.windows(5).rposition(|it| it == b"name-").unwrap();
            page[at + 5] ^= 1;
            changed += 1;
        }
    }
    assert!(changed > 0);
    std::fs::write(&file, bytes).unwrap();
    for id in 1..=3 {
        cluster.restart(id);
    }
    // It ends when it has to read, at the latest when it leads.
    let listens = |cluster: &Cluster| TcpStream::connect(cluster.addresses[0]).is_ok();
    loop {
        look_up_all(&client, &inodes);
        if !listens(&cluster) {
            break;
        }
        match leader(&client) {
            Some(leader) if leader != rotten => {
                cluster.stop(leader).unwrap();
                cluster.restart(leader);
            }
            _ => {}
        }
    }

    ended_and_comes_back(&mut cluster, rotten, &file);
    client.leader();
    look_up_all(&client, &inodes);
}

#[test]
fn server_whose_files_rotted_while_it_was_down_does_not_start_with_them() {
    for (folder, prefix) in [("", "index-"), ("log", "log-")] {
        let (mut cluster, mut client, inodes) = filled();
        let rotten = client.leader() % 3 + 1;
        cluster.stop(rotten).unwrap();
        cluster.wait_until_free(rotten);
        client.change(make_dir("meanwhile")).unwrap();
        let file = file_of(&cluster, rotten, folder, prefix);
        let mut bytes = std::fs::read(&file).unwrap();
        for page in bytes.chunks_mut(4100) {
            if let Some(at) = page.iter().rposition(|byte| *byte != 0) {
                page[at / 2] ^= 4;
            }
        }
        std::fs::write(&file, bytes).unwrap();

        cluster.restart(rotten);

        ended_and_comes_back(&mut cluster, rotten, &file);
        client.leader();
        look_up_all(&client, &inodes);
        client.read(lookup("meanwhile")).unwrap();
    }
}
