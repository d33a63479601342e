//! The nine rules of the protocol, and the mistakes of earlier systems, one test each or more.

mod epochs;
mod exclusion;
mod extension;
mod host;
mod newborn;
mod noise;
mod quarantine;
mod quorum;
mod release;
mod table;
mod views;
