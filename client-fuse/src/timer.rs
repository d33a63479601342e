//! Wakes the machines of open files when they asked to be woken.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Weak;

use shell::clock::boottime;
use tokio::sync::mpsc;
use types::Instant;

use crate::file::File;

/// Where files ask to be woken.
#[derive(Clone, Debug)]
pub(crate) struct Timers(mpsc::UnboundedSender<(Instant, Weak<File>)>);

impl Timers {
    /// The timers and the task that serves them; it ends with the last of the timers.
    pub(crate) fn start() -> Self {
        // Unbounded, but each file has at most one wish it still waits for and a few older ones.
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(serve(receiver));
        Self(sender)
    }

    pub(crate) fn arm(&self, at: Instant, file: Weak<File>) {
        // The task ends only when the mount does.
        let _ = self.0.send((at, file));
    }
}

async fn serve(mut wishes: mpsc::UnboundedReceiver<(Instant, Weak<File>)>) {
    let mut number = 0_u64;
    let mut heap: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut files: std::collections::HashMap<u64, Weak<File>> = std::collections::HashMap::new();
    loop {
        let wait = heap
            .peek()
            .map(|Reverse((at, _))| at.since(boottime()).to_std());
        let wish = match wait {
            None => wishes.recv().await.map(Some),
            Some(wait) => tokio::select! {
                wish = wishes.recv() => wish.map(Some),
                () = tokio::time::sleep(wait) => Some(None),
            },
        };
        match wish {
            None => return,
            Some(Some((at, file))) => {
                number += 1;
                heap.push(Reverse((at, number)));
                files.insert(number, file);
            }
            Some(None) => {}
        }
        let now = boottime();
        while let Some(Reverse((at, id))) = heap.peek().copied() {
            if at > now {
                break;
            }
            heap.pop();
            if let Some(file) = files.remove(&id).and_then(|file| file.upgrade()) {
                file.tick(at);
            }
        }
    }
}
