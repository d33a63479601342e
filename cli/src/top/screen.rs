//! What is on the terminal: a headline, the lines that fit, and what the keys do.

use super::rows::{Line, Order};
use crate::render;

/// Lines that are no processes: headline, headings, keys.
const FRAME: usize = 3;

/// What the keys have chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct View {
    pub(super) order: Order,
    /// Lines above the first one shown.
    pub(super) above: usize,
}

/// What a key does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Quit,
    Sort(Order),
    Up,
    Down,
    PageUp,
    PageDown,
}

impl View {
    /// Does it. `height` is the terminal's, `count` how many processes there are.
    pub(super) fn apply(&mut self, action: Action, height: usize, count: usize) {
        let page = height.saturating_sub(FRAME).max(1);
        self.above = match action {
            Action::Quit => self.above,
            Action::Sort(order) => {
                self.order = order;
                0
            }
            Action::Up => self.above.saturating_sub(1),
            Action::Down => self.above + 1,
            Action::PageUp => self.above.saturating_sub(page),
            Action::PageDown => self.above + page,
        };
        self.above = self.above.min(count.saturating_sub(page));
    }
}

/// The lines for a terminal of this size, none longer than it is wide.
pub(super) fn lines(
    headline: &str,
    sorted: &[Line],
    view: View,
    (width, height): (usize, usize),
) -> Vec<String> {
    let room = height.saturating_sub(FRAME).max(1);
    let above = view.above.min(sorted.len().saturating_sub(room));
    let table = render::table(sorted);
    let mut table = table.lines();
    let mut lines = vec![headline.to_owned()];
    lines.extend(table.next().map(str::to_owned));
    lines.extend(table.skip(above).take(room).map(str::to_owned));
    let last = sorted.len().min(above + room);
    let shown = match sorted.len() {
        0 => "nobody".to_owned(),
        count => format!("{} to {last} of {count}", above + 1),
    };
    lines.push(format!(
        "{shown}   q: end  o: by operations  b: bytes  t: times  n: name  arrows: scroll"
    ));
    lines
        .into_iter()
        .map(|line| line.chars().take(width).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        order: Order::Name,
        above: 0,
    };

    fn many(count: usize) -> Vec<Line> {
        let line = |number| Line {
            process: format!("osd-{number}"),
            ..Line::default()
        };
        (1..=count).map(line).collect()
    }

    #[test]
    fn two_hundred_servers_are_scrolled_through_on_any_terminal() {
        let servers = many(200);
        let mut view = VIEW;

        for size in [(80, 24), (20, 4), (300, 500), (0, 0)] {
            let shown = lines("all", &servers, view, size);
            assert!(shown.len() <= size.1.max(FRAME + 1), "{size:?}");
            assert!(shown.iter().all(|line| line.chars().count() <= size.0));
        }
        for _ in 0..20 {
            view.apply(Action::PageDown, 24, servers.len());
        }
        let end = lines("all", &servers, view, (80, 24));
        assert!(end[22].starts_with("osd-200"), "{end:?}");
        assert!(end[23].starts_with("180 to 200 of 200"), "{end:?}");
        view.apply(Action::Up, 24, servers.len());
        assert!(lines("all", &servers, view, (80, 24))[22].starts_with("osd-199"));
        // Most of them are gone.
        let few = lines("all", &many(3), view, (80, 24));
        assert!(few[2].starts_with("osd-1"), "{few:?}");
    }

    #[test]
    fn sorting_anew_begins_at_the_top() {
        let mut view = View { above: 50, ..VIEW };

        view.apply(Action::Sort(Order::Bytes), 24, 200);

        let expected = View {
            order: Order::Bytes,
            above: 0,
        };
        assert_eq!(view, expected);
    }
}
