//! What both benchmarks need: processes and directories that end with them, and processor time.

pub mod process;
