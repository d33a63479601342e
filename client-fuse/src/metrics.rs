//! Numbers about a mount.

use shell::link::LinkOptions;
use shell::metrics::Metric;

use crate::oxfs::OxFs;

impl OxFs {
    /// The numbers of the moment.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        let messages = |service, value| {
            let help = "Messages sent, by the kind of server";
            Metric::counter("oxfs_client_messages", help, value).with("service", service)
        };
        let shared = &self.inner.shared;
        let mut all = shared.served.metrics();
        all.extend([
            messages("mrc", shared.metadata.messages()),
            messages("osd", shared.servers.messages()),
            Metric::gauge(
                "oxfs_client_descriptors",
                "Descriptors of files that programs have open",
                self.inner.descriptors.len() as u64,
            ),
        ]);
        let calls = shared.wire.counts();
        all.extend(calls.metrics(LinkOptions::default().in_flight_max));
        all.extend(shared.budget.metrics());
        all
    }
}
