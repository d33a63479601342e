//! Numbers about a mount.

use shell::metrics::{Kind, Metric};

use crate::oxfs::OxFs;

impl OxFs {
    /// The numbers of the moment.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let messages = |service, value| Metric {
            name: "oxfs_client_messages",
            help: "Messages sent, by the kind of server",
            kind: Kind::Counter,
            label: Some(("service", service)),
            value,
        };
        let gauge = |name, help, value: usize| Metric {
            name,
            help,
            kind: Kind::Gauge,
            label: None,
            value: value as u64,
        };
        let shared = &self.inner.shared;
        vec![
            messages("mrc", shared.metadata.messages()),
            messages("osd", shared.servers.messages()),
            gauge(
                "oxfs_client_descriptors",
                "Descriptors of files that programs have open",
                self.inner.descriptors.len(),
            ),
        ]
    }
}
