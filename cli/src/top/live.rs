//! The table on a terminal, until a key or a signal ends it.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::rows::{self, Order};
use super::screen::{self, Action, View};
use super::{INTERVAL, Sample, Watcher};
use crate::outcome::{Done, Failure};

/// How long the keyboard's thread may notice late that it is not needed any more.
const KEY_PATIENCE: Duration = Duration::from_millis(100);

/// Keys that may wait. More than anybody presses in a second.
const KEYS_MAX: usize = 64;

/// The terminal while it is ours; dropped, it is as it was before, whatever happened.
struct Terminal;

impl Terminal {
    fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let terminal = Self;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(terminal)
    }

    fn show(&self, lines: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0))?;
        for (row, line) in lines.iter().enumerate() {
            let row = u16::try_from(row).unwrap_or(u16::MAX);
            queue!(out, cursor::MoveTo(0, row), Clear(ClearType::UntilNewLine))?;
            out.write_all(line.as_bytes())?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nobody could be told.
        let _shown = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
        let _cooked = disable_raw_mode();
    }
}

/// Reads keys until it is dropped.
struct Keyboard {
    keys: mpsc::Receiver<Event>,
    over: Arc<AtomicBool>,
}

impl Keyboard {
    fn open() -> Self {
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        tokio::task::spawn_blocking(move || {
            while !ended.load(Ordering::Relaxed) {
                match poll(KEY_PATIENCE) {
                    Ok(true) => match read() {
                        // More than anybody can mean are left out.
                        Ok(event) => drop(sender.try_send(event)),
                        Err(_) => return,
                    },
                    Ok(false) => {}
                    // The terminal is gone, and with it whoever looks at it.
                    Err(_) => return,
                }
            }
        });
        Self { keys, over }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Shows it until it is enough.
pub(super) async fn run(watcher: &mut Watcher<'_>, first: Sample) -> Result<Done, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("the terminal can't be used: {error}"));
    let terminated = shell::signals::termination().map_err(failed)?;
    let mut terminated = std::pin::pin!(terminated);
    let terminal = Terminal::take().map_err(failed)?;
    let mut keyboard = Keyboard::open();
    let mut view = View {
        order: Order::Operations,
        above: 0,
    };
    let (mut before, mut now) = (Sample::default(), first);
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut lines = rows::rows(&before, &now);
        rows::sort(&mut lines, view.order);
        let (width, height) = size().map_err(failed)?;
        let size = (usize::from(width), usize::from(height));
        let shown = screen::lines(&rows::headline(&now), &lines, view, size);
        terminal.show(&shown).map_err(failed)?;
        tokio::select! {
            () = &mut terminated => break,
            event = keyboard.keys.recv() => match event {
                Some(Event::Key(key)) => match action(key) {
                    Some(Action::Quit) => break,
                    Some(action) => view.apply(action, size.1, lines.len()),
                    None => {}
                },
                // Another size: shown anew.
                Some(_) => {}
                None => break,
            },
            _ = ticks.tick() => {
                let mut looking = std::pin::pin!(watcher.look());
                // Without a leader it may take long; whoever wants to end need not wait.
                let next = loop {
                    tokio::select! {
                        next = &mut looking => break Some(next),
                        () = &mut terminated => break None,
                        event = keyboard.keys.recv() => if ends(event.as_ref()) {
                            break None;
                        },
                    }
                };
                match next {
                    None => break,
                    Some(Ok(next)) => before = std::mem::replace(&mut now, next),
                    // A cluster that is silent for a moment is shown as it was.
                    Some(Err(_)) => {}
                }
            }
        }
    }
    drop(terminal);
    Ok(Done::default())
}

/// Whether it is enough: the key says so, or nobody presses any.
fn ends(event: Option<&Event>) -> bool {
    match event {
        Some(Event::Key(key)) => action(*key) == Some(Action::Quit),
        Some(_) => false,
        None => true,
    }
}

fn action(key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c' | 'd')).then_some(Action::Quit);
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        KeyCode::Char('o') => Action::Sort(Order::Operations),
        KeyCode::Char('b') => Action::Sort(Order::Bytes),
        KeyCode::Char('t') => Action::Sort(Order::Slowness),
        KeyCode::Char('n') => Action::Sort(Order::Name),
        KeyCode::Up | KeyCode::Char('k') => Action::Up,
        KeyCode::Down | KeyCode::Char('j') => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Action::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupt_and_q_end_it() {
        let key = |code, modifiers| action(KeyEvent::new(code, modifiers));

        assert_eq!(
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
            Some(Action::Quit)
        );
        assert_eq!(
            key(KeyCode::Char('q'), KeyModifiers::NONE),
            Some(Action::Quit)
        );
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(
            key(KeyCode::Char('b'), KeyModifiers::NONE),
            Some(Action::Sort(Order::Bytes))
        );
    }
}
