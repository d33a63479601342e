//! `top`: what servers and mounts do now.

mod live;
mod rows;
mod screen;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use proto::mrc::{Jobs, SessionInfo};
use shell::admin::Admin;

use crate::find::Found;
use crate::numbers::{Asked, Asker, Said, sessions};
use crate::outcome::{Done, Failure};
use crate::render;
use crate::status;
use crate::{jobs, lists};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Who is there is asked anew only after so many looks: servers come and go seldom.
const LOOKS_PER_LIST: u32 = 10;

/// What was seen at one time.
#[derive(Debug, Default)]
struct Sample {
    servers: Vec<(Asked, Option<Said>)>,
    mounts: Vec<SessionInfo>,
    /// None: no metadata server leads.
    jobs: Option<Jobs>,
}

/// Looks at a cluster again and again.
struct Watcher<'a> {
    admin: &'a Admin,
    found: &'a Found,
    asker: Asker,
    servers: Vec<Asked>,
    looks: u32,
}

impl<'a> Watcher<'a> {
    fn new(admin: &'a Admin, found: &'a Found) -> Self {
        Self {
            admin,
            found,
            asker: Asker::default(),
            servers: Vec::new(),
            looks: 0,
        }
    }

    /// Who is there, and what each says. Whoever does not answer in time has said nothing.
    async fn look(&mut self) -> Result<Sample, Failure> {
        if self.looks.is_multiple_of(LOOKS_PER_LIST) {
            self.servers = self.list().await?;
        }
        self.looks = self.looks.wrapping_add(1);
        let (answers, mounts, jobs) = tokio::join!(
            self.asker.ask(self.admin, &self.servers),
            sessions(self.admin),
            jobs::ask(self.admin)
        );
        let servers = answers.into_iter();
        Ok(Sample {
            servers: servers.map(|(server, said)| (server, said.ok())).collect(),
            mounts: mounts.unwrap_or_default(),
            jobs: jobs.ok(),
        })
    }

    async fn list(&self) -> Result<Vec<Asked>, Failure> {
        let answers = status::ask(self.admin, self.found).await;
        if answers.iter().all(|(_, answer)| answer.is_err()) {
            // Says who was asked, and what to do.
            lists::osds_known(self.admin).await?;
        }
        Ok(status::known_servers(&answers, self.found))
    }
}

/// Prints one table, or shows it until `q` on a terminal.
pub(crate) async fn run(admin: &Admin, found: &Found, once: bool) -> Result<Done, Failure> {
    let mut watcher = Watcher::new(admin, found);
    let first = watcher.look().await?;
    if !once && std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        return live::run(&mut watcher, first).await;
    }
    let next = Instant::now() + INTERVAL;
    tokio::time::sleep_until(next.into()).await;
    let second = watcher.look().await?;
    let mut rows = rows::rows(&first, &second);
    rows::sort(&mut rows, rows::Order::Operations);
    let silent = second.servers.iter().filter(|(_, said)| said.is_none());
    let missing = silent.map(|(server, _)| format!("{} did not answer", server.name()));
    Ok(Done {
        text: format!("{}\n{}", rows::headline(&second), render::table(&rows)),
        json: render::json(&rows),
        missing: missing.collect(),
    })
}
