//! Each refusal of the namespace, one row per rule: what is asked, which errno comes back.

use mrc_core::{config, errno};
use proto::index::command::Op;
use proto::mrc::{self, request};

use crate::cluster::*;

/// A tree with one thing of each kind: `d/sub/deep`, `d/file`, `file`, `link`, `fifo`, `empty`.
struct Tree {
    cluster: Cluster,
    session: u64,
    d: u64,
    sub: u64,
    file: u64,
    link: u64,
    empty: u64,
}

fn tree() -> Tree {
    let (mut cluster, session) = Cluster::new();
    let mut make = |op| attr_of(cluster.change(session, op)).inode;
    let d = make(mkdir(ROOT, "d"));
    let sub = make(mkdir(d, "sub"));
    make(mkdir(sub, "deep"));
    make(create(d, "file", false));
    let file = make(create(ROOT, "file", false));
    let link = make(symlink(ROOT, "link", b"file"));
    let empty = make(mkdir(ROOT, "empty"));
    make(Op::MkNod(mrc::MkNod {
        parent: ROOT,
        name: name("fifo"),
        mode: mrc_core::S_IFIFO | 0o600,
        rdev: 0,
        owner: Some(OWNER),
    }));
    Tree {
        cluster,
        session,
        d,
        sub,
        file,
        link,
        empty,
    }
}

/// Asks each and compares; a refusal must leave nothing but the slot.
fn assert_refused(tree: &mut Tree, rows: Vec<(&str, Op, i32)>) {
    for (rule, op, expected) in rows {
        let slots_apart = |cluster: &Cluster| {
            let mut entries = cluster.entries();
            entries.retain(|(key, _)| !(key[0] == b's' && key.len() > 9));
            entries
        };
        let before = slots_apart(&tree.cluster);

        let reply = tree.cluster.change(tree.session, op);

        let got = errno_of(&reply);
        assert_eq!(errno::name(got), errno::name(expected), "{rule}: {reply:?}");
        assert_eq!(slots_apart(&tree.cluster), before, "{rule} left something");
    }
    tree.cluster.assert_consistent();
}

#[test]
fn names_that_can_not_be_are_refused() {
    let mut tree = tree();
    let long = "n".repeat(256);
    assert_refused(
        &mut tree,
        vec![
            ("256 bytes", mkdir(ROOT, &long), errno::ENAMETOOLONG),
            ("256 bytes", create(ROOT, &long, true), errno::ENAMETOOLONG),
            ("256 bytes", unlink(ROOT, &long), errno::ENAMETOOLONG),
            (
                "256 bytes",
                rename(ROOT, "file", ROOT, &long, How::Replace),
                errno::ENAMETOOLONG,
            ),
            ("none", mkdir(ROOT, ""), errno::ENOENT),
            ("slash", mkdir(ROOT, "a/b"), errno::EINVAL),
            ("zero", mkdir(ROOT, "a\0b"), errno::EINVAL),
            ("dot", rmdir(ROOT, "."), errno::EINVAL),
            ("dots", mkdir(ROOT, ".."), errno::EINVAL),
        ],
    );
    let longest = "n".repeat(255);
    attr_of(tree.cluster.change(tree.session, mkdir(ROOT, &longest)));
    tree.cluster.assert_consistent();
}

#[test]
fn making_and_linking_refuses_like_ext4() {
    let mut tree = tree();
    let (file, d, link) = (tree.file, tree.d, tree.link);
    let open = |text: &str, write| {
        Op::Create(mrc::Create {
            parent: ROOT,
            name: name(text),
            mode: 0o600,
            owner: Some(OWNER),
            exclusive: false,
            write,
        })
    };
    let node = |mode| {
        Op::MkNod(mrc::MkNod {
            parent: ROOT,
            name: name("node"),
            mode,
            rdev: 5,
            owner: Some(OWNER),
        })
    };
    assert_refused(
        &mut tree,
        vec![
            ("in a file", mkdir(file, "x"), errno::ENOTDIR),
            ("in a link", create(link, "x", true), errno::ENOTDIR),
            ("in nothing", mkdir(9999, "x"), errno::ESTALE),
            ("name taken", mkdir(ROOT, "file"), errno::EEXIST),
            ("name taken", create(ROOT, "d", true), errno::EEXIST),
            ("name taken", symlink(ROOT, "fifo", b"x"), errno::EEXIST),
            ("opening a directory", open("d", true), errno::EISDIR),
            (
                "a link that came meanwhile",
                open("link", false),
                errno::ESTALE,
            ),
            (
                "a fifo that came meanwhile",
                open("fifo", true),
                errno::ESTALE,
            ),
            (
                "mknod of a directory",
                node(mrc_core::S_IFDIR),
                errno::EPERM,
            ),
            ("mknod of a link", node(mrc_core::S_IFLNK), errno::EINVAL),
            ("no target", symlink(ROOT, "x", b""), errno::ENOENT),
            (
                "4096 bytes of target",
                symlink(ROOT, "x", &[b't'; 4096]),
                errno::ENAMETOOLONG,
            ),
            ("link to a directory", link_op(d), errno::EPERM),
            ("link onto a name", link_to(file, "d"), errno::EEXIST),
            ("link to nothing", link_op(9999), errno::ESTALE),
            (
                "no owner",
                Op::MkDir(mrc::MkDir {
                    parent: ROOT,
                    name: name("x"),
                    mode: 0,
                    owner: None,
                }),
                errno::EINVAL,
            ),
        ],
    );
}

fn link_op(inode: u64) -> Op {
    link(inode, ROOT, "new")
}

fn link_to(inode: u64, text: &str) -> Op {
    link(inode, ROOT, text)
}

#[test]
fn removing_refuses_like_ext4() {
    let mut tree = tree();
    let (d, sub) = (tree.d, tree.sub);
    assert_refused(
        &mut tree,
        vec![
            ("nothing there", unlink(ROOT, "none"), errno::ENOENT),
            ("nothing there", rmdir(ROOT, "none"), errno::ENOENT),
            (
                "unlink of a directory",
                unlink(ROOT, "empty"),
                errno::EISDIR,
            ),
            ("rmdir of a file", rmdir(ROOT, "file"), errno::ENOTDIR),
            ("rmdir of a link", rmdir(ROOT, "link"), errno::ENOTDIR),
            ("entries left", rmdir(ROOT, "d"), errno::ENOTEMPTY),
            ("entries left", rmdir(d, "sub"), errno::ENOTEMPTY),
            ("in nothing", unlink(4711, "x"), errno::ESTALE),
        ],
    );
    tree.cluster
        .change(tree.session, rmdir(sub, "deep"))
        .unwrap();
    tree.cluster.change(tree.session, rmdir(d, "sub")).unwrap();
    assert_refused(
        &mut tree,
        vec![
            ("in a removed directory", mkdir(sub, "x"), errno::ENOENT),
            (
                "in a removed directory",
                create(sub, "x", true),
                errno::ENOENT,
            ),
            (
                "into a removed directory",
                rename(ROOT, "file", sub, "x", How::Replace),
                errno::ENOENT,
            ),
        ],
    );
}

#[test]
fn renaming_refuses_like_linux() {
    let mut tree = tree();
    let (d, sub) = (tree.d, tree.sub);
    let mv = |from: (u64, &str), to: (u64, &str), how| rename(from.0, from.1, to.0, to.1, how);
    use How::{Exchange, NoReplace, Replace};
    let both = Op::Rename(mrc::Rename {
        parent: ROOT,
        name: name("file"),
        new_parent: ROOT,
        new_name: name("empty"),
        no_replace: true,
        exchange: true,
    });
    assert_refused(
        &mut tree,
        vec![
            (
                "no source",
                mv((ROOT, "none"), (ROOT, "x"), Replace),
                errno::ENOENT,
            ),
            (
                "no target",
                mv((ROOT, "file"), (ROOT, "x"), Exchange),
                errno::ENOENT,
            ),
            ("both flags", both, errno::EINVAL),
            (
                "taken",
                mv((ROOT, "file"), (ROOT, "link"), NoReplace),
                errno::EEXIST,
            ),
            (
                "taken by itself",
                mv((ROOT, "file"), (ROOT, "file"), NoReplace),
                errno::EEXIST,
            ),
            (
                "file onto directory",
                mv((ROOT, "file"), (ROOT, "empty"), Replace),
                errno::EISDIR,
            ),
            (
                "directory onto file",
                mv((ROOT, "empty"), (ROOT, "file"), Replace),
                errno::ENOTDIR,
            ),
            (
                "directory onto link",
                mv((ROOT, "empty"), (ROOT, "link"), Replace),
                errno::ENOTDIR,
            ),
            (
                "onto a full directory",
                mv((ROOT, "empty"), (ROOT, "d"), Replace),
                errno::ENOTEMPTY,
            ),
            (
                "into itself",
                mv((ROOT, "d"), (d, "x"), Replace),
                errno::EINVAL,
            ),
            (
                "into itself, deep",
                mv((ROOT, "d"), (sub, "x"), Replace),
                errno::EINVAL,
            ),
            (
                "exchanged with what is in it",
                mv((ROOT, "d"), (sub, "deep"), Exchange),
                errno::EINVAL,
            ),
            (
                "exchanged with what it is in",
                mv((d, "sub"), (ROOT, "d"), Exchange),
                errno::EINVAL,
            ),
            (
                "onto what it is in",
                mv((d, "sub"), (ROOT, "d"), Replace),
                errno::ENOTEMPTY,
            ),
            (
                "file onto what it is in",
                mv((d, "file"), (ROOT, "d"), Replace),
                errno::ENOTEMPTY,
            ),
        ],
    );
}

#[test]
fn attributes_and_sizes_refuse_like_ext4() {
    let mut tree = tree();
    let (d, file, link) = (tree.d, tree.file, tree.link);
    let resize = |inode, size_bytes| {
        Op::SetAttr(mrc::SetAttr {
            inode,
            size_bytes: Some(size_bytes),
            ..mrc::SetAttr::default()
        })
    };
    let written = |inode, size_at_least_bytes| {
        Op::Written(mrc::Written {
            inode,
            size_at_least_bytes,
            mtime_ns: None,
            close: true,
            stays_open: false,
            truncate_epoch: 0,
        })
    };
    let open_write = |inode| Op::OpenWrite(mrc::OpenWrite { inode });
    assert_refused(
        &mut tree,
        vec![
            ("truncate a directory", resize(d, 0), errno::EISDIR),
            ("truncate a link", resize(link, 0), errno::EINVAL),
            (
                "too large",
                resize(file, types::FILE_BYTES_MAX + 1),
                errno::EFBIG,
            ),
            ("too large", written(file, u64::MAX), errno::EFBIG),
            ("write a directory", written(d, 1), errno::EINVAL),
            ("open a directory", open_write(d), errno::EISDIR),
            ("open a link", open_write(link), errno::ELOOP),
            ("open nothing", open_write(4711), errno::ESTALE),
        ],
    );
}

#[test]
fn xattrs_refuse_like_linux() {
    let mut tree = tree();
    let file = tree.file;
    let set = |text: &str, bytes: usize, create, replace| {
        Op::SetXattr(mrc::SetXattr {
            create,
            replace,
            ..set_xattr(file, text, &vec![1; bytes])
        })
    };
    let remove = |text: &str| {
        Op::RemoveXattr(mrc::RemoveXattr {
            inode: file,
            name: name(text),
        })
    };
    tree.cluster
        .change(tree.session, set("user.there", 3, true, false))
        .unwrap();
    let long = format!("user.{}", "n".repeat(251));
    assert_refused(
        &mut tree,
        vec![
            ("exists", set("user.there", 1, true, false), errno::EEXIST),
            ("absent", set("user.none", 1, false, true), errno::ENODATA),
            ("absent", remove("user.none"), errno::ENODATA),
            (
                "65537 bytes",
                set("user.big", 65_537, false, false),
                errno::E2BIG,
            ),
            (
                "256 bytes of name",
                set(&long, 1, false, false),
                errno::ERANGE,
            ),
            ("no name", set("", 1, false, false), errno::ERANGE),
            (
                "only a prefix",
                set("user.", 1, false, false),
                errno::EINVAL,
            ),
            (
                "no prefix",
                set("plain", 1, false, false),
                errno::EOPNOTSUPP,
            ),
            (
                "an ACL, which nobody would enforce",
                set("system.posix_acl_access", 1, false, false),
                errno::EOPNOTSUPP,
            ),
        ],
    );
}

#[test]
fn an_inode_holds_bounded_xattrs() {
    let mut tree = tree();
    let (file, empty) = (tree.file, tree.empty);
    let value = vec![7; config::XATTR_VALUE_BYTES_MAX];
    for n in 0..16 {
        let op = Op::SetXattr(set_xattr(file, &format!("user.{n}"), &value));
        tree.cluster.change(tree.session, op).unwrap();
    }
    let stem = "n".repeat(240);
    for n in 0..262 {
        let op = Op::SetXattr(set_xattr(empty, &format!("user.{stem}{n:04}"), b""));
        tree.cluster.change(tree.session, op).unwrap();
    }

    assert_refused(
        &mut tree,
        vec![
            (
                "values beyond 1 MiB",
                Op::SetXattr(set_xattr(file, "user.more", b"x")),
                errno::ENOSPC,
            ),
            (
                "names beyond what listxattr can answer",
                Op::SetXattr(set_xattr(empty, &format!("user.{stem}"), b"")),
                errno::ENOSPC,
            ),
        ],
    );
    let smaller = Op::SetXattr(set_xattr(file, "user.3", b"x"));
    tree.cluster.change(tree.session, smaller).unwrap();
    tree.cluster.assert_consistent();
}

#[test]
fn queries_refuse_like_ext4() {
    let tree = tree();
    let (file, d) = (tree.file, tree.d);
    let xattr = |inode, text: &str| {
        request::Op::GetXattr(mrc::GetXattr {
            inode,
            name: name(text),
        })
    };
    let rows = [
        (lookup(ROOT, "none"), errno::ENOENT),
        (lookup(file, "x"), errno::ENOTDIR),
        (lookup(4711, "x"), errno::ESTALE),
        (lookup(ROOT, &"n".repeat(256)), errno::ENAMETOOLONG),
        (
            request::Op::GetAttr(mrc::GetAttr { inode: 4711 }),
            errno::ESTALE,
        ),
        (
            request::Op::ReadLink(mrc::ReadLink { inode: file }),
            errno::EINVAL,
        ),
        (
            request::Op::ReadDir(mrc::ReadDir {
                inode: file,
                ..mrc::ReadDir::default()
            }),
            errno::ENOTDIR,
        ),
        (xattr(file, "user.none"), errno::ENODATA),
        (xattr(file, "system.posix_acl_access"), errno::EOPNOTSUPP),
        (xattr(4711, "user.x"), errno::ESTALE),
    ];

    for (op, expected) in rows {
        let reply = tree.cluster.ask(&op);
        assert_eq!(
            errno::name(errno_of(&reply)),
            errno::name(expected),
            "{op:?}"
        );
    }
    assert_eq!(attr_of(tree.cluster.ask(&lookup(d, ".."))).inode, ROOT);
    assert_eq!(attr_of(tree.cluster.ask(&lookup(d, "."))).inode, d);
}

#[test]
fn a_file_has_at_most_65000_links() {
    let mut tree = tree();
    let file = tree.file;
    for n in 1..config::LINKS_MAX {
        let op = link(file, tree.empty, &n.to_string());
        tree.cluster.change(tree.session, op).unwrap();
    }

    assert_eq!(tree.cluster.attr(file).nlink, config::LINKS_MAX);
    let op = link(file, tree.empty, "one more");
    let reply = tree.cluster.change(tree.session, op);
    assert_eq!(errno_of(&reply), errno::EMLINK);
    tree.cluster.assert_consistent();
}
