"""Stand-ins for images that no registry gives here: PostgreSQL and ZooKeeper of this machine's Debian, under the names of the
official ones and set up by the same variables, as far as deploy/compose needs them. What is in them is seen through /usr."""

import glob
import os
import shutil

from case import WORK, skip
from containers import lent_root

POSTGRES = """#!/bin/sh
set -eu
data=/var/lib/postgresql/data
mkdir -p "$data" /var/run/postgresql
chown -R 999:999 "$data" /var/run/postgresql
as() { setpriv --reuid=999 --regid=999 --clear-groups "$@"; }
if [ ! -e "$data/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    as BIN/initdb -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password -A scram-sha-256 -E UTF8 --locale=C.UTF-8 >/dev/null
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    echo "local all all trust" | cat - "$data/pg_hba.conf" >/tmp/hba
    cat /tmp/hba >"$data/pg_hba.conf"
    as BIN/pg_ctl -D "$data" -o "-c listen_addresses= -k /var/run/postgresql" -w start >/dev/null
    as BIN/createdb -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
    as BIN/pg_ctl -D "$data" -w stop >/dev/null
fi
exec setpriv --reuid=999 --regid=999 --clear-groups BIN/postgres -D "$data" -c listen_addresses='*' -k /var/run/postgresql
"""

ZOOKEEPER = """#!/bin/sh
set -eu
mkdir -p /data /datalog
printf 'tickTime=2000\\ndataDir=/data\\ndataLogDir=/datalog\\nclientPort=2181\\nadmin.enableServer=false\\n' >/tmp/zoo.cfg
exec JAVA -Xmx128m -XX:+UseSerialGC -cp JAR org.apache.zookeeper.server.ZooKeeperServerMain /tmp/zoo.cfg
"""


def postgres():
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not programs:
        skip("no PostgreSQL is here")
    return POSTGRES.replace("BIN", programs[-1]), []


def zookeeper():
    java, jar = shutil.which("java"), "/usr/share/java/zookeeper.jar"
    if not java or not os.path.exists(jar):
        skip("ZooKeeper is not here")
    # Its settings are links to /etc.
    return ZOOKEEPER.replace("JAVA", os.path.realpath(java)).replace("JAR", jar), glob.glob("/etc/java-*")


def make(engine, name, service, what):
    """The image, and the lines of a compose file that lend it this machine's /usr."""
    script, more = what
    root = lent_root(service, "var/run", "var/lib")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:999:\n")
    (root / "entry").write_text(script)
    os.chmod(root / "entry", 0o755)
    archive = WORK / f"{service}.tar"
    shutil.make_archive(str(archive.with_suffix("")), "tar", root)
    engine.docker("import", "--change", 'ENTRYPOINT ["/entry"]', archive, name)
    lent = ", ".join(f'"{place}:{place}:ro"' for place in ["/usr", *more])
    return f"services:\n  {service}:\n    volumes: [{lent}]\n"
