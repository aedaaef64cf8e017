//! End to end: the real binary, port 0, SQLite in a temporary folder, a module per feature.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod alerts;
mod backfills;
mod backup;
mod bad_input;
mod chains;
mod clients;
mod clock_jumps;
mod cluster;
mod command_line;
mod compatibility;
mod crash_audit;
mod crontab;
mod data_folder;
mod docker;
mod doctor;
mod examples;
mod fleet;
mod golden;
mod http;
mod life;
mod limits;
mod line;
mod mail_server;
mod mesos;
mod moves;
mod moving;
mod old_chronos;
mod old_zookeeper;
mod port;
mod progress;
mod runs;
mod server;
mod skip;
mod store_trouble;
mod tasks;
mod wait;
