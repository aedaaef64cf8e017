//! Examples below `--help`, of commands that need no more.

pub(super) const SHOW_HELP: &str = "\
Examples:
  chronos show nightly
  chronos show nightly > nightly.json && $EDITOR nightly.json && chronos apply nightly.json";
pub(super) const RUN_HELP: &str = "\
Examples:
  chronos run nightly
  chronos run nightly --arguments '--day 2030-01-01'
  chronos run nightly --output json | jq -r .run";
pub(super) const KILL_HELP: &str = "\
Examples:
  chronos kill nightly
  chronos kill 17-t5";
pub(super) const DELETE_HELP: &str = "\
Examples:
  chronos delete nightly
  chronos delete old-1 old-2";
pub(super) const RESUME_HELP: &str = "\
Examples:
  chronos resume nightly";
pub(super) const WHY_HELP: &str = "\
Examples:
  chronos why nightly
  chronos why 17-t5";
pub(super) const MARK_SUCCESS_HELP: &str = "\
Examples:
  chronos mark-success extract";
pub(super) const BACKFILLS_HELP: &str = "\
Examples:
  chronos backfills
  chronos backfills --output json";
pub(super) const NOTIFY_LIST_HELP: &str = "\
Examples:
  chronos notify list --state givenUp
  chronos notify list --job nightly";
pub(super) const NOTIFY_RETRY_HELP: &str = "\
Examples:
  chronos notify retry 17";
