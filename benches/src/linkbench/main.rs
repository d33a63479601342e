//! What links cost and how soon they resume: `linkbench cut`, `linkbench payload`.

mod cut;
mod payload;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures links between two processes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How soon a link is of use after a cut of its network ended, or what it does while packets are lost.
    Cut {
        /// Lengths of the cuts, in seconds.
        #[arg(long, value_delimiter = ',', default_value = "1.5,5,10")]
        seconds: Vec<f64>,
        /// Percentages of packets lost for half a minute.
        #[arg(long, value_delimiter = ',')]
        loss: Vec<u8>,
        /// How often each is done.
        #[arg(long, default_value_t = 3)]
        repeat: u32,
    },
    /// What a MiB of payload costs with each compression and checksum: bytes on the network and CPU time.
    Payload {
        /// MiB sent for each row.
        #[arg(long, default_value_t = 256)]
        mib: u32,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Cut {
            seconds,
            loss,
            repeat,
        } => cut::run(&seconds, &loss, repeat),
        What::Payload { mib } => payload::run(mib),
    }
}
