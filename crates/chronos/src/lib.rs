//! The product: a node that schedules, the API and the command line around it.
//!
//! Start at [`node`], which drives the pure core of `scheduler`; [`api`] is its HTTP side, [`cli`] the command line,
//! [`cluster`] how nodes find each other,
//! [`config`] how a server is set up, [`notify`] how people are told, [`wire`] what travels between them, [`zoneinfo`]
//! the time zones of the machine.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod node;
pub mod notify;
mod systemd;
mod tls;
pub mod wire;
pub mod zoneinfo;
