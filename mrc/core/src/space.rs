//! How much of their disks object servers have for files that have several replicas.

/// A file system that one or more object servers keep their replicas on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FileSystem {
    /// How many servers.
    pub servers: u64,
    /// Its bytes: all, or those that are free.
    pub bytes: u64,
}

/// Returns how many bytes fit, each on `replicas` servers, or on all if they are fewer.
///
/// Each server takes one replica of a byte at most, so what lies on one server alone beyond what others
/// have is of no use. It is what fits if groups are spread as well as they can be.
#[must_use]
pub fn usable_bytes(file_systems: &[FileSystem], replicas: u32) -> u64 {
    let servers: u64 = file_systems.iter().map(|it| it.servers).sum();
    let replicas = u128::from(replicas).min(u128::from(servers)).max(1);
    let fits = |bytes: u64| {
        let bytes = u128::from(bytes);
        let shares = file_systems
            .iter()
            .map(|it| u128::from(it.bytes).min(u128::from(it.servers) * bytes));
        shares.sum::<u128>() >= replicas * bytes
    };
    // What fits is an interval from 0 on: its end is found by halving.
    let (mut fitting, mut beyond) = (0_u64, u64::MAX);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    fitting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(bytes: u64) -> FileSystem {
        FileSystem { servers: 1, bytes }
    }

    #[test]
    fn each_server_takes_one_replica_of_a_byte() {
        // As many servers as replicas: the fullest decides.
        assert_eq!(usable_bytes(&[alone(9), alone(5), alone(7)], 3), 5);
        assert_eq!(usable_bytes(&[alone(9), alone(0), alone(7)], 3), 0);
        // More of them share what there is.
        assert_eq!(usable_bytes(&[alone(6); 4], 3), 8);
        // One is larger than all others together.
        assert_eq!(usable_bytes(&[alone(1000), alone(5), alone(5)], 2), 10);
        assert_eq!(usable_bytes(&[alone(10), alone(20)], 1), 30);
    }

    #[test]
    fn shared_file_system_takes_the_replicas_of_all_its_servers() {
        let shared = FileSystem {
            servers: 3,
            bytes: 90,
        };
        assert_eq!(usable_bytes(&[shared], 3), 30);
        assert_eq!(usable_bytes(&[shared, alone(50)], 3), 45);
    }

    #[test]
    fn fewer_servers_than_replicas_take_one_replica_each() {
        assert_eq!(usable_bytes(&[alone(9), alone(5)], 3), 5);
        assert_eq!(usable_bytes(&[], 3), 0);
    }
}
