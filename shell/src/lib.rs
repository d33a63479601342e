//! What every OxFS process needs around its core: links to other processes, configuration, state
//! directories, clocks, signals and logging.

pub mod link;
