//! `oxfs mrc` and `oxfs osd`: one server in the foreground, until SIGTERM or SIGINT.

use std::fmt::Display;
use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, Result};
use shell::reload::{Reload, Reloader};
use shell::signals::Hangups;

/// Runs a metadata server.
pub(crate) fn mrc(file: &Path) -> Result<()> {
    let config = load_mrc(file)?;
    let reloader = Reloader::new(file, &config, load_mrc);
    let log = config.log.clone();
    // Raft puts everything in one order, and a command passes through a dozen tasks: handing it
    // from thread to thread costs more than the work that is done on it.
    until_terminated(Threads::One, &log, Some(reloader), async |shutdown| {
        Ok(mrc::run(config, shutdown).await?)
    })
}

/// Runs an object server.
pub(crate) fn osd(file: &Path) -> Result<()> {
    let config = load_osd(file)?;
    let reloader = Reloader::new(file, &config, load_osd);
    let log = config.log.clone();
    let threads = Threads::HalfOfCpus;
    until_terminated(threads, &log, Some(reloader), async |shutdown| {
        Ok(osd::run(config, shutdown).await?)
    })
}

fn load_mrc(file: &Path) -> Result<mrc::Config> {
    let config: mrc::Config = shell::config::load(file)?;
    config
        .validated()
        .with_context(|| file.display().to_string())
}

fn load_osd(file: &Path) -> Result<osd::Config> {
    let config: osd::Config = shell::config::load(file)?;
    config
        .validated()
        .with_context(|| file.display().to_string())
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

/// Reads the configuration again at every SIGHUP.
async fn at_hangups<C: Reload + Clone, E: Display>(
    reloader: Option<Reloader<C, E>>,
    mut hangups: Hangups,
) {
    if let Some(reloader) = reloader {
        match reloader.at_hangups(hangups).await {}
    }
    loop {
        hangups.next().await;
        tracing::info!("SIGHUP: there is no configuration file to read again");
    }
}

/// Starts logging and the runtime, and gives the server the future that ends it.
pub(crate) fn until_terminated<C: Reload + Clone + Send + 'static, E: Display + 'static>(
    threads: Threads,
    log: &str,
    reloader: Option<Reloader<C, E>>,
    serve: impl AsyncFnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<()>,
) -> Result<()> {
    shell::telemetry::init(log, None).context("can't start logging")?;
    let runtime = threads.runtime().context("can't start the runtime")?;
    let done = runtime.block_on(async {
        let terminated = shell::signals::termination().context("can't handle signals")?;
        let hangups = Hangups::new().context("can't handle signals")?;
        tokio::spawn(at_hangups(reloader, hangups));
        Box::pin(serve(Box::pin(terminated))).await
    });
    // Whatever still blocks a thread must not keep a process that has done its work.
    runtime.shutdown_background();
    done
}
