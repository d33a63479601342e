//! A program that runs: it ends by itself, by its time limit or with its owner, and what it says is kept.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::error::Error;

/// How long a command may take that only asks. 60 s: on a busy pool an answer waits for a transaction
/// group, which may take tens of seconds.
pub(crate) const ASK_LIMIT: Duration = Duration::from_secs(60);

/// How long a command may take that changes something. 600 s: old pools free all blocks of a snapshot
/// within the command that destroys it.
pub(crate) const CHANGE_LIMIT: Duration = Duration::from_secs(600);

/// How long a killed program may linger. 5 s: longer only if the kernel holds it, on a hung pool.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How long the last words of an ended program may take. 5 s: they are in the pipe already, but a
/// program that it started may keep the pipe open for ever.
const WORDS_LIMIT: Duration = Duration::from_secs(5);

/// Bytes kept of a program's standard error. 64 KiB: more than anybody reads.
const SAID_BYTES_MAX: usize = 64 << 10;

/// Bytes taken of a program's standard output. 64 MiB: four properties of 200,000 snapshots.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// A command that is ready to be run, and how errors call it.
#[derive(Debug)]
pub(crate) struct Line {
    command: Command,
    text: String,
}

impl Line {
    /// A program with its words; no shell sees them.
    pub(crate) fn new<'a>(
        program: &std::path::Path,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut command = Command::new(program);
        let mut text = program.file_name().map_or_else(
            || program.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        for word in words {
            command.arg(word);
            text.push(' ');
            text.push_str(word);
        }
        // What it prints is parsed, so it must speak English and print times as UTC.
        command.env("LC_ALL", "C").env("TZ", "UTC");
        // A group of its own, so that what it starts can be killed with it.
        command.process_group(0);
        Self { command, text }
    }

    /// Runs it to its end, with nothing to read; gives what it printed.
    ///
    /// # Errors
    ///
    /// As [`Running::wait`]; [`Error::Unreadable`] if it printed more than 64 MiB or no UTF-8.
    pub(crate) fn run(self, limit: Duration) -> Result<String, Error> {
        let (status, printed, said, text) = self.run_any(limit)?;
        if status.success() {
            return Ok(printed);
        }
        Err(Error::failed(&text, status, said))
    }

    /// As [`Line::run`]; gives the standard error behind the output, for what old versions say there.
    pub(crate) fn run_both(self, limit: Duration) -> Result<String, Error> {
        let (status, printed, said, text) = self.run_any(limit)?;
        if status.success() {
            return Ok(format!("{printed}\n{said}"));
        }
        Err(Error::failed(&text, status, said))
    }

    /// As [`Line::run_both`], but a bad end is no error.
    pub(crate) fn run_to_any_end(self, limit: Duration) -> Result<String, Error> {
        let (_, printed, said, _) = self.run_any(limit)?;
        Ok(format!("{printed}\n{said}"))
    }

    fn run_any(mut self, limit: Duration) -> Result<(ExitStatus, String, String, String), Error> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (mut running, pipes) = Running::start(self)?;
        let Some(stdout) = pipes.stdout else {
            return Err(running.broken(io::Error::other("no standard output")));
        };
        let printed = Kept::of(stdout, OUTPUT_BYTES_MAX).map_err(|error| running.broken(error))?;
        let status = running.wait(limit)?;
        let text = running.text.clone();
        let said = running.said();
        let unreadable = |what| Error::Unreadable {
            command: text.clone(),
            what,
        };
        let (bytes, is_whole) = printed.take();
        if !is_whole {
            return Err(unreadable("more than 64 MiB, or no end"));
        }
        let printed = String::from_utf8(bytes).map_err(|_| unreadable("no UTF-8"))?;
        Ok((status, printed, said, text))
    }

    /// Starts it with a pipe for what it prints.
    pub(crate) fn start_reading(mut self) -> Result<(Running, ChildStdout), Error> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped());
        let (running, pipes) = Running::start(self)?;
        match pipes.stdout {
            Some(stdout) => Ok((running, stdout)),
            None => Err(running.broken(io::Error::other("no standard output"))),
        }
    }

    /// Starts it with a pipe for what it reads.
    pub(crate) fn start_writing(mut self) -> Result<(Running, ChildStdin), Error> {
        self.command.stdin(Stdio::piped()).stdout(Stdio::null());
        let (running, pipes) = Running::start(self)?;
        match pipes.stdin {
            Some(stdin) => Ok((running, stdin)),
            None => Err(running.broken(io::Error::other("no standard input"))),
        }
    }
}

struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
}

/// A program that was started; killed when it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Running {
    text: String,
    killer: Killer,
    ended: Receiver<io::Result<ExitStatus>>,
    status: Option<ExitStatus>,
    words: Kept,
}

impl Running {
    fn start(mut line: Line) -> Result<(Self, Pipes), Error> {
        tracing::debug!(command = line.text, "run");
        let failed = |source| Error::Run {
            command: line.text.clone(),
            source,
        };
        let mut child = line
            .command
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pipes = Pipes {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
        };
        let stderr = child.stderr.take();
        let killer = Killer(Arc::new(Mutex::new(Guarded {
            child,
            is_reaped: false,
        })));
        let watched = stderr
            .ok_or_else(|| io::Error::other("no standard error"))
            .and_then(|stderr| Ok((Kept::of(stderr, SAID_BYTES_MAX)?, killer.watch()?)));
        let (words, ended) = watched.map_err(|error| {
            killer.kill_and_reap();
            failed(error)
        })?;
        let running = Self {
            text: line.text,
            killer,
            ended,
            status: None,
            words,
        };
        Ok((running, pipes))
    }

    /// How errors call the command.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// What kills it from other threads.
    pub(crate) fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Waits for the end; kills the program at the limit.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] at the limit; [`Error::Run`] if nobody can tell how it ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.wait_at_most(limit)? {
            return Ok(status);
        }
        Err(self.stalled(limit))
    }

    /// Kills the program because it took longer than the limit; gives the error that says so.
    pub(crate) fn stalled(&mut self, limit: Duration) -> Error {
        self.killer.kill();
        let is_stuck = matches!(self.wait_at_most(KILL_LIMIT), Ok(None));
        Error::TimedOut {
            command: self.text.clone(),
            limit,
            said: self.said(),
            is_stuck,
        }
    }

    /// Waits for the end, and lets the program be if it doesn't come: that gives none.
    pub(crate) fn wait_at_most(&mut self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        match self.ended.recv_timeout(limit) {
            Ok(Ok(status)) => self.status = Some(status),
            Ok(Err(error)) => return Err(self.broken(error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(self.broken(io::Error::other("nobody waits for it")));
            }
        }
        Ok(self.status)
    }

    /// Waits for the end and judges it.
    ///
    /// # Errors
    ///
    /// As [`Running::wait`]; [`Error::Failed`] with all that the program said.
    pub(crate) fn succeed(&mut self, limit: Duration) -> Result<(), Error> {
        let status = self.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        Err(Error::failed(&self.text, status, self.said()))
    }

    /// Its standard error so far; all of it if it has ended.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.words.take().0)
            .trim_end()
            .to_owned()
    }

    /// The error of a program that can't be talked to.
    pub(crate) fn broken(&self, source: io::Error) -> Error {
        Error::Run {
            command: self.text.clone(),
            source,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.killer.kill();
        }
    }
}

#[derive(Debug)]
struct Guarded {
    child: Child,
    is_reaped: bool,
}

/// Kills a program from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Killer(Arc<Mutex<Guarded>>);

impl Killer {
    /// Kills the program and what it started; nothing happens once it has ended.
    pub(crate) fn kill(&self) {
        let guarded = self.lock();
        // Until it is reaped nobody else can have its number.
        if !guarded.is_reaped {
            // The only possible error is that it has just ended.
            let _ = killpg(pid_of(&guarded.child), Signal::SIGKILL);
        }
    }

    /// As [`Killer::kill`], for a program that nobody watches.
    fn kill_and_reap(&self) {
        self.kill();
        let mut guarded = self.lock();
        guarded.is_reaped = guarded.child.wait().is_ok();
    }

    /// Waits for the end in a thread of its own, so that others can wait for it with a limit.
    fn watch(&self) -> io::Result<Receiver<io::Result<ExitStatus>>> {
        let (tell, ended) = mpsc::channel();
        let killer = self.clone();
        in_thread(move || {
            let pid = pid_of(&killer.lock().child);
            // Without the lock and without reaping: the program can still be killed meanwhile.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
            let mut guarded = killer.lock();
            let status = guarded.child.wait();
            guarded.is_reaped = true;
            drop(guarded);
            // Nobody may care any more.
            let _ = tell.send(status);
        })?;
        Ok(ended)
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs something beside the caller; unlike [`thread::spawn`] it doesn't panic where no thread can be made.
pub(crate) fn in_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let named = thread::Builder::new().name("zfs".to_owned());
    named.spawn(work).map(drop)
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

#[derive(Debug, Default)]
struct Bytes {
    bytes: Vec<u8>,
    is_whole: bool,
}

/// What comes out of a pipe, read by a thread of its own so that the program never waits for us.
#[derive(Debug)]
struct Kept {
    bytes: Arc<Mutex<Bytes>>,
    done: Receiver<()>,
}

impl Kept {
    fn of(mut pipe: impl Read + Send + 'static, bytes_max: usize) -> io::Result<Self> {
        let bytes = Arc::<Mutex<Bytes>>::default();
        let (tell, done) = mpsc::channel::<()>();
        let kept = Arc::clone(&bytes);
        in_thread(move || {
            let mut buffer = [0; 8192];
            let mut is_whole = true;
            loop {
                let count = match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => {
                        is_whole = false;
                        break;
                    }
                };
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = bytes_max.saturating_sub(kept.bytes.len());
                is_whole &= count <= room;
                let piece = buffer.get(..count.min(room)).unwrap_or_default();
                kept.bytes.extend_from_slice(piece);
            }
            kept.lock().unwrap_or_else(PoisonError::into_inner).is_whole = is_whole;
            drop(tell);
        })?;
        Ok(Self { bytes, done })
    }

    /// All bytes of an ended program, and whether these are all it wrote.
    fn take(&self) -> (Vec<u8>, bool) {
        // The writer drops its end when it is done; nothing is ever sent.
        let _ = self.done.recv_timeout(WORDS_LIMIT);
        let kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.bytes.clone(), kept.is_whole)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Line {
        Line::new(Path::new("/bin/sh"), ["-c", script])
    }

    #[test]
    fn output_of_a_good_end_is_given_and_a_bad_end_is_an_error_with_its_words() {
        let limit = Duration::from_secs(60);

        assert_eq!(shell("echo a; echo b >&2").run(limit).unwrap(), "a\n");
        let error = shell("echo printed; echo said >&2; exit 3")
            .run(limit)
            .unwrap_err();
        assert!(
            matches!(&error, Error::Failed { said, .. } if said == "said"),
            "{error}"
        );
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let outputs = shell("echo printed; echo said >&2; exit 3")
            .run_to_any_end(limit)
            .unwrap();
        assert_eq!(outputs, "printed\n\nsaid");
    }

    #[test]
    fn program_that_takes_too_long_is_killed_with_what_it_started() {
        let begun = Instant::now();

        let error = shell("echo said >&2; sleep 1000 & sleep 1000")
            .run(Duration::from_millis(200))
            .unwrap_err();

        let Error::TimedOut { said, is_stuck, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!((said.as_str(), *is_stuck), ("said", false));
        // Below the limit for last words: the other sleep doesn't hold the pipe any more.
        assert!(begun.elapsed() < WORDS_LIMIT, "{:?}", begun.elapsed());
    }

    #[test]
    fn words_are_kept_up_to_the_limit_and_a_talkative_program_is_not_stopped_by_them() {
        let script = "head -c 200000 /dev/zero | tr '\\0' x >&2; exit 1";

        let error = shell(script).run(Duration::from_secs(60)).unwrap_err();

        let Error::Failed { said, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(said.len(), SAID_BYTES_MAX);
    }

    #[test]
    fn dropped_program_is_killed() {
        let (running, mut stdin) = shell("cat; sleep 1000").start_writing().unwrap();
        let killer = running.killer();
        stdin.write_all(b"x").unwrap();

        drop(running);

        let ended = killer.watch().unwrap();
        assert!(ended.recv_timeout(Duration::from_secs(60)).is_ok());
        assert!(killer.lock().is_reaped);
    }

    #[test]
    fn missing_program_is_an_error_with_its_name() {
        let error = Line::new(Path::new("/nowhere/zfs"), ["list"])
            .run(Duration::from_secs(60))
            .unwrap_err();

        assert!(error.to_string().contains("`zfs list`"), "{error}");
    }
}
