//! Identifiers. Each is its own type, so that none can be passed for another.

use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A volume; 0 is never used.
    VolumeId, u64
);
number_id!(
    /// An inode number within its volume; 1 is the root directory, never used twice.
    Inode, u64
);
number_id!(
    /// A placement group within its volume, from 0.
    PgId, u32
);
number_id!(
    /// An object server.
    OsdId, u64
);
number_id!(
    /// One mount's registration with the metadata cluster; 0 is never used.
    SessionId, u64
);
number_id!(
    /// A member of a lease cell; object servers use their [`OsdId`].
    MemberId, u64
);

impl From<OsdId> for MemberId {
    fn from(osd: OsdId) -> Self {
        Self(osd.0)
    }
}

/// A placement group of the cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PgKey {
    /// The volume it belongs to.
    pub volume: VolumeId,
    /// Its number there.
    pub pg: PgId,
}

impl fmt::Display for PgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.volume, self.pg)
    }
}

/// An object: the bytes of one column of a file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectId {
    /// The volume of the file.
    pub volume: VolumeId,
    /// The file.
    pub inode: Inode,
    /// The column, 0 for files of width one.
    pub column: u32,
}

impl ObjectId {
    /// The lease cell that decides who is the object's primary.
    #[must_use]
    pub const fn cell(self) -> CellId {
        // 40 + 64 + 24 bits. Volume numbers and widths beyond that are refused where they are made.
        CellId(
            ((self.volume.0 as u128) << 88) | ((self.inode.0 as u128) << 24) | self.column as u128,
        )
    }

    /// The object whose cell this is; the inverse of [`ObjectId::cell`].
    #[must_use]
    pub const fn of_cell(cell: CellId) -> Self {
        Self {
            volume: VolumeId((cell.0 >> 88) as u64),
            inode: Inode((cell.0 >> 24) as u64),
            column: (cell.0 & 0xff_ffff) as u32,
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}.{}", self.volume, self.inode.0, self.column)
    }
}

/// A lease cell; opaque to the lease protocol.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct CellId(pub u128);

impl fmt::Display for CellId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A cluster's identity, drawn once when it is made; 32 hexadecimal digits in text.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Text that is no identifier.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no cluster id; a cluster id is 32 hexadecimal digits")]
pub struct IdError(pub String);

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(IdError(text.to_owned()));
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| IdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_and_object_are_each_others_inverse() {
        let object = ObjectId {
            volume: VolumeId(3),
            inode: Inode(u64::MAX - 7),
            column: 5,
        };

        assert_eq!(ObjectId::of_cell(object.cell()), object);
    }

    #[test]
    fn cluster_id_round_trips_and_refuses_other_text() {
        let id = ClusterId(0x1234);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("12".parse::<ClusterId>().is_err());
        assert!(
            "zz345678901234567890123456789012"
                .parse::<ClusterId>()
                .is_err()
        );
    }
}
