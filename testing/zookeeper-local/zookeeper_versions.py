"""The versions of ZooKeeper that tests start, and where each comes from.

  debian   3.8.0 from Debian's package, installed by testing/deps
  3.9.5    from PyPI, where PySpark brings it and the libraries it needs; fetched once (456 MB, of which 12 are kept)

Servers of 3.8.0 lose what they have acknowledged when a leader falls while another server is brought up to date
(ZOOKEEPER-4643, 4646, 4712, 4785). No client can make up for that, so the faults are put to the newer version, and
everything else to Debian's.
"""
import os
import shutil
import subprocess
import tarfile
import tempfile

DEBIAN, NEWER = 'debian', '3.9.5'
VERSIONS = (DEBIAN, NEWER)
PYSPARK = '4.3.0'
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(os.environ.get('CARGO_TARGET_DIR') or os.path.join(ROOT, 'target'), 'zookeeper-local', NEWER)
# What the server loads, by the beginning of the file's name.
LIBRARIES = ('zookeeper-', 'netty-', 'slf4j-api-', 'log4j-', 'metrics-core-', 'snappy-java-', 'audience-annotations-',
             'commons-cli-', 'commons-io-')
JARS = {DEBIAN: '/usr/share/java/zookeeper.jar', NEWER: os.path.join(CACHE, '*')}
# Elections and what followers are given tell most of what one asks after a fault.
LOGGING = '''status = error
rootLogger.level = info
rootLogger.appenderRef.all.ref = all
appender.all.type = Console
appender.all.name = all
appender.all.layout.type = PatternLayout
appender.all.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
'''


def missing(version):
    """Why servers of this version cannot be started here; None if they can. Fetches what can be fetched."""
    if version not in VERSIONS:
        return 'no ZooKeeper %s is known; there are %s' % (version, ', '.join(VERSIONS))
    if not shutil.which('java'):
        return 'java is not here; testing/deps installs it'
    if version == DEBIAN:
        return None if os.path.exists(JARS[DEBIAN]) else "Debian's zookeeper is not here; testing/deps installs it"
    return None if os.path.isdir(CACHE) else fetch()


def fetch():
    """Takes the libraries out of the package. Returns why that cannot be done, or None. Two at once do no harm."""
    os.makedirs(os.path.dirname(CACHE), exist_ok=True)
    pip = os.path.join(os.path.dirname(CACHE), 'pip')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(CACHE)) as scratch:
        for words in ([os.path.join(ROOT, 'testing', 'pypi'), pip, 'pip==24.0'],
                      [pip + '/bin/python', '-m', 'pip', 'download', '-q', '--disable-pip-version-check', '--no-deps',
                       '--no-binary', ':all:', '-d', scratch, 'pyspark==' + PYSPARK]):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, env=dict(os.environ, TMPDIR=scratch))
            if done.returncode:
                return 'ZooKeeper %s cannot be had from PyPI: %s' % (NEWER, done.stdout.strip()[-300:])
        jars = os.path.join(scratch, 'jars')
        os.mkdir(jars)
        with tarfile.open(os.path.join(scratch, 'pyspark-%s.tar.gz' % PYSPARK)) as package:
            for member in package:
                folder, name = os.path.split(member.name)
                if folder.endswith('/deps/jars') and name.startswith(LIBRARIES) and 'native' not in name:
                    with open(os.path.join(jars, name), 'wb') as file:
                        shutil.copyfileobj(package.extractfile(member), file)
        if not os.path.exists(os.path.join(jars, 'zookeeper-%s.jar' % NEWER)):
            return 'PySpark %s does not bring ZooKeeper %s' % (PYSPARK, NEWER)
        with open(os.path.join(jars, 'log4j2.properties'), 'w') as file:
            file.write(LOGGING)
        try:
            os.rename(jars, CACHE)
        except OSError:
            if not os.path.isdir(CACHE):
                raise
    return None


def command(version, flags, main, config):
    """The words that start a server: `main` is QuorumPeerMain or ZooKeeperServerMain. Servers do not wait for the disk
    unless the flags say so, as a killed process loses nothing by that."""
    words = ['java', '-XX:+UseSerialGC', '-XX:-UsePerfData', '-Dzookeeper.forceSync=no']
    if version != DEBIAN:
        words.append('-Dlog4j2.configurationFile=' + os.path.join(CACHE, 'log4j2.properties'))
    main = 'org.apache.zookeeper.server.' + main
    return words + list(flags) + ['-cp', JARS[version], main, config]
