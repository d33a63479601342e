//! The errno values this crate gives, with the sentences that go with them.
//!
//! Numbers are those of Linux on all architectures OxFS builds for (asm-generic); the crate needs
//! no libc.

use types::Fault;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: i32 = $number;)*

        /// Returns what the number means, for people.
        #[must_use]
        pub const fn text(errno: i32) -> &'static str {
            match errno {
                $($number => $text,)*
                _ => "unknown error",
            }
        }

        /// Returns the symbol of the number, for tests and tables.
        #[must_use]
        pub const fn name(errno: i32) -> &'static str {
            match errno {
                0 => "OK",
                $($number => stringify!($name),)*
                _ => "E?",
            }
        }
    };
}

errnos! {
    /// Hard link to a directory, making one with mknod.
    EPERM = 1, "operation not permitted";
    /// No such name, or the directory itself was removed.
    ENOENT = 2, "no such file or directory";
    /// Nobody knows whether it was done.
    EIO = 5, "nobody knows whether it was done";
    /// Not now.
    EAGAIN = 11, "try again";
    /// In use.
    EBUSY = 16, "in use";
    /// The name is taken.
    EEXIST = 17, "the name exists already";
    /// A component is no directory.
    ENOTDIR = 20, "not a directory";
    /// A directory where a file is needed.
    EISDIR = 21, "is a directory";
    /// Malformed.
    EINVAL = 22, "invalid argument";
    /// Larger than a file can be.
    EFBIG = 27, "file too large";
    /// No room for more.
    ENOSPC = 28, "no room left";
    /// Too many links.
    EMLINK = 31, "too many links";
    /// Name of an xattr too long or empty.
    ERANGE = 34, "name or value out of range";
    /// Name or target too long.
    ENAMETOOLONG = 36, "name too long";
    /// The directory has entries.
    ENOTEMPTY = 39, "directory not empty";
    /// A symbolic link where a file is needed, or a tree too deep.
    ELOOP = 40, "too many levels of links or directories";
    /// No such xattr.
    ENODATA = 61, "no such extended attribute";
    /// A value too long.
    E2BIG = 7, "value too long";
    /// The request breaks the protocol.
    EPROTO = 71, "protocol error";
    /// The volume's quota is used up.
    EDQUOT = 122, "the volume's quota is used up";
    /// The index is damaged.
    EUCLEAN = 117, "the index needs repair";
    /// Not offered.
    EOPNOTSUPP = 95, "not supported";
    /// The inode does not exist any more: look the path up again.
    ESTALE = 116, "the file is gone; look its path up again";
}

/// A final answer for the program with the number's own sentence.
#[must_use]
pub fn fault(errno: i32) -> Fault {
    Fault::surface(errno, text(errno))
}
