#!/bin/sh
# Restarts all instances of Chronos, or lets them begin anew with none of their state. It only spells `chronos cluster`.
set -eu

usage() {
    cat >&2 <<'END'
usage: restart_chronos.sh --maintain [OPTION..]
       restart_chronos.sh --purge FRAMEWORK_ID [OPTION..]

  --maintain             new processes, the same state: jobs, history and framework stay
  --purge FRAMEWORK_ID   a backup is written, the framework ends with all its tasks, all state is removed

Instances are tasks of Marathon's app /chronos, unless CHRONOS_LAUNCHER or --launcher says systemd. Options are those
of `chronos cluster restart` and `chronos cluster purge`, whose --help lists them; most of them can be variables:
CHRONOS_MARATHON, CHRONOS_MASTER, CHRONOS_ZK_HOSTS, CHRONOS_ZK_PATH. CHRONOS names the program, if it is not `chronos`.
END
    exit 2
}

case "${1:-}" in
    --maintain)
        shift
        exec "${CHRONOS:-chronos}" cluster restart "$@"
        ;;
    --purge)
        [ $# -ge 2 ] || usage
        case "$2" in '' | -*) usage ;; esac
        shift
        exec "${CHRONOS:-chronos}" cluster purge "$@"
        ;;
    *) usage ;;
esac
