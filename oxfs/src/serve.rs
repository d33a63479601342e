//! `oxfs mrc` and `oxfs osd`: one server in the foreground, until SIGTERM or SIGINT.

use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Runs a metadata server.
pub(crate) fn mrc(file: &Path) -> Result<()> {
    let config: mrc::Config = shell::config::load(file)?;
    let config = config
        .validated()
        .with_context(|| file.display().to_string())?;
    // Raft puts everything in one order, and a command passes through a dozen tasks: handing it
    // from thread to thread costs more than the work that is done on it.
    until_terminated(Threads::One, async |shutdown| {
        Ok(mrc::run(config, shutdown).await?)
    })
}

/// Runs an object server.
pub(crate) fn osd(file: &Path) -> Result<()> {
    let config: osd::Config = shell::config::load(file)?;
    let config = config
        .validated()
        .with_context(|| file.display().to_string())?;
    until_terminated(Threads::HalfOfCpus, async |shutdown| {
        Ok(osd::run(config, shutdown).await?)
    })
}

/// Prints what a stopped object server's directory holds, a line for each object.
pub(crate) fn store_sums(dir: &Path) -> Result<()> {
    osd::store_sums(dir, &mut std::io::stdout().lock())
        .with_context(|| format!("can't read the store {}", dir.display()))
}

/// How many threads run a process's tasks. What blocks has threads of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Threads {
    /// One for everything.
    One,
    /// Half as many as there are CPUs, at least one: the threads that store and those that serve
    /// the kernel need the others.
    HalfOfCpus,
}

impl Threads {
    fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        match self {
            Self::One => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build(),
            Self::HalfOfCpus => {
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads((cpus / 2).max(1))
                    .enable_all()
                    .build()
            }
        }
    }
}

/// Starts logging and the runtime, and gives the server the future that ends it.
pub(crate) fn until_terminated(
    threads: Threads,
    serve: impl AsyncFnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<()>,
) -> Result<()> {
    shell::telemetry::init("info,openraft=error", None).context("can't start logging")?;
    let runtime = threads.runtime().context("can't start the runtime")?;
    let done = runtime.block_on(async {
        let terminated = shell::signals::termination().context("can't handle signals")?;
        Box::pin(serve(Box::pin(terminated))).await
    });
    // Whatever still blocks a thread must not keep a process that has done its work.
    runtime.shutdown_background();
    done
}
