//! The library's linearizability checker, with a bound on its time.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use todc_utils::{Action, History, Specification, WGLChecker};

/// How long one window may be thought about: exponential in the worst case, some milliseconds in
/// all others.
const PATIENCE: Duration = Duration::from_secs(30);

/// An operation between two moments.
#[derive(Clone, Debug)]
pub(crate) struct Span<T> {
    /// Before it.
    pub(crate) began_ns: u64,
    /// After it; the greatest number if it never returned.
    pub(crate) ended_ns: u64,
    /// What it did and answered.
    pub(crate) what: T,
}

/// Whether some order of these operations, that agrees with their times, obeys the specification.
/// None: the checker did not come to an end.
pub(crate) fn is_linearizable<S>(spans: &[Span<S::Operation>]) -> Option<bool>
where
    S: Specification + 'static,
    S::Operation: Send,
{
    if spans.is_empty() {
        return Some(true);
    }
    let actions = actions(spans);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let history = History::from_actions(actions);
        // Nobody listens any more after the patience ended.
        let _ = tell.send(WGLChecker::<S>::is_linearizable(history));
    });
    told.recv_timeout(PATIENCE).ok()
}

fn actions<T: Clone>(spans: &[Span<T>]) -> Vec<(usize, Action<T>)> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(spans.len() * 2);
    for (number, span) in spans.iter().enumerate() {
        moments.push((span.began_ns, false, number));
        moments.push((span.ended_ns, true, number));
    }
    // At one instant beginnings come first: what touches may have overlapped.
    moments.sort_unstable();
    let action = |(_, is_end, number): (u64, bool, usize)| {
        let what = spans[number].what.clone();
        let action = if is_end {
            Action::Response(what)
        } else {
            Action::Call(what)
        };
        // Every operation is a process of its own: a client may go on after one that never ended.
        (number, action)
    };
    moments.into_iter().map(action).collect()
}

/// Cuts operations, sorted by beginning, into windows of at least `least` where at the cut none is
/// under way.
pub(crate) fn windows<T: Clone>(spans: &[Span<T>], least: usize) -> Vec<Vec<Span<T>>> {
    let mut windows = Vec::new();
    let mut window: Vec<Span<T>> = Vec::new();
    let mut busy_until = 0;
    for span in spans {
        if window.len() >= least && busy_until < span.began_ns {
            windows.push(std::mem::take(&mut window));
        }
        busy_until = busy_until.max(span.ended_ns);
        window.push(span.clone());
    }
    if !window.is_empty() {
        windows.push(window);
    }
    windows
}

/// Leaves out operations, one after the other, as long as what is left is still wrong.
pub(crate) fn shrunk<T: Clone>(
    spans: &[Span<T>],
    mut may_go: impl FnMut(&[Span<T>], usize) -> bool,
    mut is_wrong: impl FnMut(&[Span<T>]) -> bool,
) -> Vec<Span<T>> {
    let mut left = spans.to_vec();
    let mut at = left.len();
    while at > 0 {
        at -= 1;
        if !may_go(&left, at) {
            continue;
        }
        let taken = left.remove(at);
        if !is_wrong(&left) {
            left.insert(at, taken);
        }
    }
    left
}
