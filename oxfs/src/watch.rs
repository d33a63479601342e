//! Looks after the processes of a running cluster: says who dies, and starts them again if so asked.

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use shell::local::{LocalCluster, LocalServer};

use crate::config::{RESTART_PAUSE, RESTART_PAUSE_MAX, RESTART_SETTLED, WATCH_INTERVAL};
use crate::launch::{self, Started};
use crate::quorum::Missing;
use crate::remount::{self, State};
use crate::start;

/// Prints a line. Nobody reading it any more is no reason to leave a cluster behind.
macro_rules! say {
    ($($arguments:tt)*) => {
        let _ = writeln!(std::io::stdout(), $($arguments)*);
    };
}
pub(crate) use say;

/// Name of the mount in the list of the dead.
const MOUNT: &str = "the mount";

/// A process that died.
#[derive(Debug)]
struct Dead {
    name: String,
    /// When it died, or was started again.
    since: Instant,
    /// From its death to its next start.
    pause: Duration,
    started: bool,
}

/// What to do about a process, after a look at whether it runs.
#[derive(Debug, Eq, PartialEq)]
enum Turn {
    Nothing,
    /// It has died, for the first time or again.
    Died,
    /// Somebody started it again.
    Back,
    /// It is time to start it again.
    Start,
}

/// Watches the processes of a cluster.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    pub(crate) cluster: &'a LocalCluster,
    pub(crate) point: &'a Path,
    pub(crate) children: &'a mut Vec<Started>,
    pub(crate) restart: bool,
    dead: Vec<Dead>,
    /// It was told that the mount is gone in good order.
    unmounted: bool,
}

impl<'a> Watch<'a> {
    /// Servers that are missing already are not told again.
    pub(crate) fn new(
        cluster: &'a LocalCluster,
        point: &'a Path,
        children: &'a mut Vec<Started>,
        restart: bool,
        missing: &[Missing],
    ) -> Self {
        let dead = missing.iter().filter(|missing| !missing.runs());
        Self {
            cluster,
            point,
            children,
            restart,
            dead: dead
                .map(|missing| Dead::new(missing.server.name()))
                .collect(),
            unmounted: false,
        }
    }

    /// Until `ended`.
    pub(crate) async fn run(&mut self, mut ended: Pin<&mut impl Future<Output = ()>>) {
        let servers = self.cluster.servers();
        loop {
            tokio::select! {
                () = ended.as_mut() => return,
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
            for child in self.children.iter_mut() {
                child.ended();
            }
            for server in &servers {
                self.look_at(server);
            }
            self.look_at_mount();
        }
    }

    fn look_at(&mut self, server: &LocalServer) {
        let name = server.name();
        let runs = self.cluster.running(&name).is_some();
        match turn(&mut self.dead, &name, runs, self.restart) {
            Turn::Nothing => {}
            Turn::Back => {
                say!("{name} is running again");
            }
            Turn::Died => {
                let dir = self.cluster.dir().display();
                let remedy = match self.restart {
                    true => "starting it again".to_owned(),
                    false => format!("start it with `oxfs start --dir {dir} {name}`"),
                };
                say!("{name} died{}; {remedy}", self.how_it_died(&name));
            }
            Turn::Start => match launch::server(self.cluster, server) {
                Ok(started) => {
                    say!("{}", start::line(&started));
                    self.children.retain(|child| child.process.name != name);
                    self.children.push(started);
                }
                Err(error) => {
                    say!("{error:#}");
                }
            },
        }
    }

    /// Why it ended, if it was ours: others are not told that by the kernel.
    fn how_it_died(&mut self, name: &str) -> String {
        let mut ours = self.children.iter_mut();
        let child = ours.find(|child| child.process.name == name);
        child
            .and_then(Started::why_ended)
            .map(|why| format!(" ({why})"))
            .unwrap_or_default()
    }

    fn look_at_mount(&mut self) {
        let state = remount::state(self.cluster, self.point);
        let point = self.point.display();
        let dead = match state {
            State::Died(dead) => dead,
            State::Unmounted => {
                if !std::mem::replace(&mut self.unmounted, true) {
                    let dir = self.cluster.dir().display();
                    say!(
                        "{point} was unmounted; `oxfs mount --dir {dir} default {point}` mounts it again"
                    );
                }
                return;
            }
            State::Runs => {
                self.unmounted = false;
                if turn(&mut self.dead, MOUNT, true, false) == Turn::Back {
                    say!("{point} is mounted again");
                }
                return;
            }
        };
        match turn(&mut self.dead, MOUNT, false, self.restart) {
            Turn::Nothing | Turn::Back => {}
            Turn::Died => {
                let name = dead.first().map(|process| process.name.clone());
                let how = self.how_it_died(&name.unwrap_or_default());
                let remedy = match self.restart {
                    true => "mounting it again".to_owned(),
                    false => format!(
                        "mount it again with `oxfs up --restart --dir {}`",
                        self.cluster.dir().display()
                    ),
                };
                say!("the mount on {point} died{how}; {remedy}");
            }
            Turn::Start => match remount::again(self.cluster, self.point, &dead) {
                Ok(mounting) => {
                    say!("{}", start::line(&mounting.started));
                    self.children.push(mounting.started);
                }
                Err(error) => {
                    say!("can't mount {point} again: {error:#}");
                }
            },
        }
    }
}

impl Dead {
    fn new(name: String) -> Self {
        Self {
            name,
            since: Instant::now(),
            pause: RESTART_PAUSE,
            started: false,
        }
    }
}

/// What is to be done about a process, given who is known to be dead.
fn turn(dead: &mut Vec<Dead>, name: &str, runs: bool, restart: bool) -> Turn {
    let Some(at) = dead.iter().position(|dead| dead.name == name) else {
        if runs {
            return Turn::Nothing;
        }
        dead.push(Dead::new(name.to_owned()));
        return Turn::Died;
    };
    let Some(known) = dead.get_mut(at) else {
        return Turn::Nothing;
    };
    match (runs, known.started) {
        (true, false) => {
            dead.swap_remove(at);
            Turn::Back
        }
        (true, true) => {
            if known.since.elapsed() >= RESTART_SETTLED {
                dead.swap_remove(at);
            }
            Turn::Nothing
        }
        (false, true) => {
            known.started = false;
            known.since = Instant::now();
            known.pause = (known.pause * 2).min(RESTART_PAUSE_MAX);
            Turn::Died
        }
        (false, false) if restart && known.since.elapsed() >= known.pause => {
            known.started = true;
            known.since = Instant::now();
            Turn::Start
        }
        (false, false) => Turn::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets time pass for whoever is dead.
    fn later(dead: &mut [Dead], by: Duration) {
        for dead in dead {
            dead.since = dead.since.checked_sub(by).unwrap();
        }
    }

    #[test]
    fn death_is_told_once_and_so_is_the_return() {
        let mut dead = Vec::new();
        let mut look = |runs| turn(&mut dead, "osd-1", runs, false);

        let turns = [true, false, false, true, true].map(&mut look);

        let told = [
            Turn::Nothing,
            Turn::Died,
            Turn::Nothing,
            Turn::Back,
            Turn::Nothing,
        ];
        assert_eq!(turns, told);
    }

    #[test]
    fn what_dies_again_is_started_again_after_a_longer_pause() {
        let mut dead = Vec::new();
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Died);
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Nothing);

        later(&mut dead, RESTART_PAUSE);
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Start);
        assert_eq!(turn(&mut dead, "osd-1", true, true), Turn::Nothing);
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Died);
        later(&mut dead, RESTART_PAUSE);
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Nothing);
        later(&mut dead, RESTART_PAUSE);
        assert_eq!(turn(&mut dead, "osd-1", false, true), Turn::Start);

        later(&mut dead, RESTART_SETTLED);
        assert_eq!(turn(&mut dead, "osd-1", true, true), Turn::Nothing);
        assert!(dead.is_empty(), "it has settled");
    }

    #[test]
    fn without_restart_nothing_is_started() {
        let mut dead = vec![Dead::new("osd-1".to_owned())];
        later(&mut dead, RESTART_PAUSE_MAX);

        assert_eq!(turn(&mut dead, "osd-1", false, false), Turn::Nothing);
    }
}
