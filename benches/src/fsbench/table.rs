//! Numbers for people and for programs.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::measure::Measured;
use crate::rows::Unit;

/// Prints the newest row as it is measured, so that a long run shows where it is.
pub(crate) fn print_row(results: &[Measured], mounts: usize) {
    for result in results.iter().skip(results.len().saturating_sub(mounts)) {
        eprintln!(
            "{:<26} {:>12.1} {:<8} {}",
            result.row,
            result.value,
            unit(result.unit),
            result.mount.display()
        );
    }
}

/// Prints one line per row: value of each directory, ratio to the first, latency and CPU of the last.
pub(crate) fn print(mounts: &[PathBuf], results: &[Measured]) {
    print!("{:<26} {:<8}", "row", "unit");
    for mount in mounts {
        print!(" {:>24}", mount.display().to_string());
    }
    println!(
        " {:>7} {:>9} {:>9} {:>9} {:>10} {:>8} {:>8}",
        "ratio", "p50 us", "p99 us", "max us", "cpu us/op", "msgs/op", "syncs/op"
    );
    for row in results.chunks(mounts.len()) {
        let (Some(first), Some(last)) = (row.first(), row.last()) else {
            continue;
        };
        print!("{:<26} {:<8}", first.row, unit(first.unit));
        for result in row {
            print!(" {:>24.1}", result.value);
        }
        println!(
            " {:>7.3} {:>9.0} {:>9.0} {:>9.0} {:>10.0} {:>8} {:>8}",
            last.value / first.value,
            last.p50_us,
            last.p99_us,
            last.max_us,
            last.cpu_us,
            counted(last.messages),
            counted(last.syncs)
        );
    }
}

fn counted(count: Option<f64>) -> String {
    count.map_or_else(|| "-".to_owned(), |count| format!("{count:.2}"))
}

/// The same as JSON.
pub(crate) fn report(mounts: &[PathBuf], results: &[Measured]) -> Value {
    let rows: Vec<Value> = results
        .iter()
        .map(|result| {
            json!({
                "row": result.row, "unit": unit(result.unit), "mount": result.mount, "value": result.value,
                "p50_us": result.p50_us, "p99_us": result.p99_us, "max_us": result.max_us,
                "cpu_us_per_operation": result.cpu_us, "messages_per_operation": result.messages,
                "syncs_per_operation": result.syncs,
            })
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "machine": { "cores": cores }, "mounts": mounts, "rows": rows })
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::PerSecond => "/s",
        Unit::MegabytesPerSecond => "MB/s",
        Unit::Seconds => "s",
    }
}
