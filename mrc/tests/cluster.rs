//! Metadata servers over real links: one alone, three together, killed, wiped and left behind.

mod common;

use common::{Client, Cluster, create, heartbeat, inode_of, lookup, make_dir};
use proto::mrc as wire;
use proto::mrc::request::Op;
use proto::mrc::response::Reply;
use shell::link::Role;
use types::{Capability, Rights, UnixNanos};

fn osd(cluster: &Cluster, id: u64) -> Client {
    Client::new(&cluster.addresses, Role::Osd, id)
}

#[test]
fn single_server_makes_opens_and_finds_a_file() {
    let cluster = Cluster::start(1);
    let mut client = cluster.client();
    client.open_volume(&osd(&cluster, 1));

    let Reply::Opened(opened) = client.change(create("a", true)).unwrap() else {
        panic!("not opened");
    };

    let inode = opened.attr.unwrap().inode;
    let grant = opened.grant.unwrap();
    assert_eq!(inode_of(client.read(lookup("a")).unwrap()), inode);
    assert_eq!(grant.replicas.len(), 1);
    assert_eq!(grant.replicas[0].address, heartbeat(1).address);
    let capability =
        Capability::open(&grant.capability, &common::secret(), UnixNanos(0)).unwrap();
    assert_eq!((capability.inode.0, capability.rights), (inode, Rights::Write));
    assert_eq!(capability.session.0, client.session);
    assert_eq!(client.read(lookup("b")).unwrap_err().errno, libc::ENOENT);
}
