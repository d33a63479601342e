//! What the installed programs can do, read from their usage texts.
//!
//! Version numbers tell little: distributions backport, and zfs-fuse counts for itself. Every version
//! since zfs-fuse prints its commands with their options when it is called without words.

use std::collections::{BTreeMap, BTreeSet};

/// What the installed programs can do. Whether a pool takes part is in [`crate::PoolFeatures`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Abilities {
    /// `zfs receive -s`: a receive that was cut can go on where it was.
    pub resumable_receive: bool,
    /// `zfs send -c`: blocks travel compressed as they are stored.
    pub compressed_send: bool,
    /// `zfs send -L`: blocks larger than 128 KiB travel whole.
    pub large_block_send: bool,
    /// `zfs bookmark`: an increment can build upon a snapshot that the sender has destroyed since.
    pub bookmarks: bool,
    /// `zfs send -nvP`: says the size of a stream without sending it.
    pub send_estimate: bool,
    /// `zfs receive -u`: doesn't mount what it received.
    pub unmounted_receive: bool,
    /// `zfs get -t`: asks datasets of one type only.
    pub typed_get: bool,
    /// `zpool list -p`: sizes to the byte.
    pub exact_sizes: bool,
    /// `zpool status -p`: error counts to the unit.
    pub exact_errors: bool,
    /// `zpool status -j`: JSON. Not used here, because the text is the same in all versions.
    pub json_status: bool,
}

impl Abilities {
    /// Reads the usage texts of `zfs` and `zpool`.
    pub(crate) fn of(zfs: &str, zpool: &str) -> Self {
        let zfs = Usage::parse(zfs);
        let zpool = Usage::parse(zpool);
        Self {
            resumable_receive: zfs.has("receive", 's') && zfs.has("send", 't'),
            // On Solaris `-c` means something else, but there is no `-L`.
            compressed_send: zfs.has("send", 'c') && zfs.has("send", 'L'),
            large_block_send: zfs.has("send", 'L'),
            bookmarks: zfs.options.contains_key("bookmark"),
            send_estimate: ['n', 'v', 'P'].iter().all(|flag| zfs.has("send", *flag)),
            unmounted_receive: zfs.has("receive", 'u'),
            typed_get: zfs.has("get", 't'),
            exact_sizes: zpool.has("list", 'p'),
            exact_errors: zpool.has("status", 'p'),
            json_status: zpool.has("status", 'j'),
        }
    }
}

/// Options in one letter of each command.
#[derive(Debug, Default)]
struct Usage {
    options: BTreeMap<String, BTreeSet<char>>,
}

impl Usage {
    /// A command's line begins with one tab and its name; further lines of it begin with more blanks.
    fn parse(text: &str) -> Self {
        let mut usage = Self::default();
        let mut command = None;
        for line in text.lines() {
            let Some(line) = line.strip_prefix('\t') else {
                command = None;
                continue;
            };
            let mut words = line.split_whitespace();
            if !line.starts_with([' ', '\t']) {
                command = words.next();
            }
            let Some(command) = command else { continue };
            let options = usage.options.entry(command.to_owned()).or_default();
            options.extend(words.filter_map(letters).flat_map(str::chars));
        }
        usage
    }

    fn has(&self, command: &str, option: char) -> bool {
        self.options
            .get(command)
            .is_some_and(|options| options.contains(&option))
    }
}

/// The letters of `[-abc]`, `[-a`, `-a` or `-a]`.
fn letters(word: &str) -> Option<&str> {
    let letters = word
        .trim_start_matches('[')
        .strip_prefix('-')?
        .trim_end_matches([']', ',']);
    let is_plain = !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_plain.then_some(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the format of zfs-fuse 0.7.0, shortened.
    const OLD_ZFS: &str = "\
missing command
usage: zfs command args ...
where 'command' is one of the following:

\tcreate [-p] [-o property=value] ... <filesystem>
\tdestroy [-rRf] <filesystem|volume>
\tdestroy [-rRd] <snapshot>

\tlist [-rH][-d max] [-o property[,...]] [-t type[,...]] [-s property] ...
\t    [-S property] ... [filesystem|volume|snapshot] ...

\tget [-rHp] [-d max] [-o \"all\" | field[,...]] [-s source[,...]]
\t    <\"all\" | property[,...]> [filesystem|volume|snapshot] ...

\tsend [-RDp] [-[iI] snapshot] <snapshot>
\treceive [-vnF] <filesystem|volume|snapshot>
\treceive [-vnF] -d <filesystem>

Each dataset is of the form: pool/[dataset/]*dataset[@name]
";

    /// In the format of zfs-fuse 0.7.0, shortened.
    const OLD_ZPOOL: &str = "\
missing command
usage: zpool command args ...
where 'command' is one of the following:

\tlist [-H] [-o property[,...]] [pool] ...
\tstatus [-vx] [pool] ...
\tscrub [-s] <pool> ...
\tget <\"all\" | property[,...]> <pool> ...
";

    /// In the format of OpenZFS 2.3, shortened.
    const NEW_ZFS: &str = "\
missing command
usage: zfs command args ...
where 'command' is one of the following:

\tversion [-j]

\tbookmark <snapshot|bookmark> <newbookmark>

\tget [-rHp] [-j [--json-int]] [-d max] [-o \"all\" | field[,...]]
\t    [-t type[,...]] [-s source[,...]]
\t    <\"all\" | property[,...]> [filesystem|volume|snapshot|bookmark] ...

\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]
\t     [-R [-X dataset[,dataset]...]]     <snapshot>
\tsend [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>
\tsend [-nVvPe] -t <receive_resume_token>
\tsend [-PnVv] --saved filesystem
\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...
\t    <filesystem|volume|snapshot>
\treceive -A <filesystem|volume>
";

    /// In the format of OpenZFS 2.3, shortened.
    const NEW_ZPOOL: &str = "\
usage: zpool command args ...
where 'command' is one of the following:

\tlist [-gHLpPv] [-o property[,...]] [-j [--json-int, --json-pool-key-guid]]
\t    [-T d|u] [pool] [interval [count]]
\tstatus [-DdegiLPpstvx] [-c script1[,script2,...]] ...
\t    [-j [--json-int, --json-flat-vdevs, --json-pool-key-guid]]
\t    [-T d|u] [pool] [interval [count]]
";

    #[test]
    fn usage_of_zfs_fuse_shows_nothing_that_came_later() {
        assert_eq!(Abilities::of(OLD_ZFS, OLD_ZPOOL), Abilities::default());
    }

    #[test]
    fn usage_of_openzfs_shows_all_of_it() {
        let all = Abilities {
            resumable_receive: true,
            compressed_send: true,
            large_block_send: true,
            bookmarks: true,
            send_estimate: true,
            unmounted_receive: true,
            typed_get: true,
            exact_sizes: true,
            exact_errors: true,
            json_status: true,
        };

        assert_eq!(Abilities::of(NEW_ZFS, NEW_ZPOOL), all);
    }

    #[test]
    fn text_that_is_no_usage_shows_nothing() {
        assert_eq!(Abilities::of("", "\t\n\t \n\t[-"), Abilities::default());
    }
}
