#!/usr/bin/env python3
"""A Mesos cluster on this machine, from packages of the registries.

  cluster.py install            fetches and builds what it needs (once)
  cluster.py start [options]    starts masters and agents, waits for them
  cluster.py keep [options]     the same on free ports, until standard input ends; see `run`
  cluster.py stop               ends all of them, tasks too
  cluster.py kill NAME          SIGKILL to one (master-0, agent-1, zookeeper)
  cluster.py pause NAME         SIGSTOP to one; `resume NAME` goes on
  cluster.py restart NAME       starts it again, as before (ends it if running)
  cluster.py status             what runs, and who leads

See README.md beside this file.
"""
import argparse
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'testing', 'zookeeper-local'))

import zookeeper_versions  # noqa: E402 (found by the line above)

VERSION = '1.11.0'
LIBRARY = '84d7ee9af27e912636b139de40257df1ee4f56c201de6bba834278aa1e8fd64c'
CACHE = os.environ.get('MESOS_LOCAL_CACHE') or os.path.join(
    os.environ.get('CARGO_TARGET_DIR') or os.path.join(ROOT, 'target'), 'mesos-local')
# What the library and the build of the glue need. testing/deps installs them.
SHARED = ('libsvn_delta-1.so.1', 'libsvn_subr-1.so.1', 'libsasl2.so.2', 'libapr-1.so.0', 'libz.so.1')
TOOLS = ('gcc', 'g++', 'objdump')


class Cannot(Exception):
    """Why there can be no cluster here."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def quiet(command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, **more)
    if done.returncode:
        raise Cannot('%s failed: %s' % (' '.join(command), done.stdout[-4000:].strip()))


# ---- install ----------------------------------------------------------------

def missing():
    """Why nothing can be built or started here; None if all is there."""
    if sys.platform != 'linux' or os.uname().machine != 'x86_64':
        return 'its library is for Linux on x86-64'
    known = subprocess.run(['/sbin/ldconfig', '-p'], stdout=subprocess.PIPE, text=True).stdout
    names = [n for n in SHARED if n + ' ' not in known] + [n for n in TOOLS if not shutil.which(n)]
    return '%s not here; testing/deps installs it' % ', '.join(names) if names else None


def fetch(into):
    """The library out of the PyPI package. It is a packed install tree, which pip fetches and unpacks but then refuses
    as no project: --no-clean keeps what it unpacked, and a pip before 24.1 still takes such version names."""
    say('fetching mesos.scheduler ' + VERSION)
    quiet([os.path.join(ROOT, 'testing', 'pypi'), CACHE + '/pip', 'pip==24.0'])
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        subprocess.run(
            [CACHE + '/pip/bin/python', '-m', 'pip', 'download', '--disable-pip-version-check', '--no-clean',
             '--no-deps', '-d', scratch, 'mesos.scheduler===%s.linux-x86_64' % VERSION],
            env=dict(os.environ, TMPDIR=scratch), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = glob.glob(scratch + '/**/_scheduler.so', recursive=True)
        if not found:
            raise Cannot('mesos.scheduler %s cannot be had from PyPI' % VERSION)
        with open(found[0], 'rb') as f:
            if hashlib.sha256(f.read()).hexdigest() != LIBRARY:
                raise Cannot('mesos.scheduler %s is not the one this glue is made for' % VERSION)
        shutil.move(found[0], into)


def stubs(lib):
    """OpenSSL 1.0 and an old libcurl are wanted by name. With TLS off nothing
    calls them, so each of their functions says so and aborts."""
    names = []
    listing = subprocess.run(['objdump', '-T', lib + '/_scheduler.so'], check=True,
                             stdout=subprocess.PIPE, text=True).stdout
    for line in listing.splitlines():
        fields = line.split()
        if '*UND*' in fields and len(fields) > 2:
            version = fields[-2].strip('()')
            if version.startswith(('OPENSSL_', 'CURL_OPENSSL_')):
                names.append((version, fields[-1]))
    versions = {}
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        with open(scratch + '/stubs.c', 'w') as f:
            f.write('#include <stdio.h>\n#include <stdlib.h>\n')
            for version, name in names:
                versions.setdefault(version, []).append(name)
                if name in ('curl_global_init', 'curl_easy_init'):
                    f.write('void *%s() { return 0; }\n' % name)
                else:
                    f.write('void %s() { fputs("stub called: %s\\n", stderr); abort(); }\n'
                            % (name, name))
        with open(scratch + '/stubs.map', 'w') as f:
            for version, members in versions.items():
                f.write('%s { global: %s; };\n' % (version, '; '.join(members)))
        quiet(['gcc', '-shared', '-fPIC', '-w', '-fno-builtin', scratch + '/stubs.c',
               '-Wl,--version-script=' + scratch + '/stubs.map', '-o', lib + '/stubs.so'])
    for name in ('libssl.so.1.0.0', 'libcrypto.so.1.0.0', 'libcurl.so.4'):
        if not os.path.islink(lib + '/' + name):
            os.symlink('stubs.so', lib + '/' + name)


def install():
    """The folder with the programs. Quick when nothing changed; who runs those of before keeps them."""
    reason = missing()
    if reason:
        raise Cannot(reason)
    os.makedirs(CACHE, exist_ok=True)
    digest = hashlib.sha256(LIBRARY.encode())
    for name in ('cluster.py', 'mesosd.cpp', 'executor.py', 'fetcher.py'):
        with open(os.path.join(HERE, name), 'rb') as f:
            digest.update(f.read())
    programs = os.path.join(CACHE, 'libexec-' + digest.hexdigest()[:16])
    with open(os.path.join(CACHE, 'lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(programs):
            return programs
        lib = os.path.join(CACHE, 'lib')
        os.makedirs(lib, exist_ok=True)
        if not os.path.exists(lib + '/_scheduler.so'):
            fetch(lib + '/_scheduler.so')
        say('building')
        stubs(lib)
        fresh = tempfile.mkdtemp(dir=CACHE)
        # The search path is the program's own, so the stubs never reach what tasks run.
        quiet(['g++', '-std=c++17', '-O1', '-rdynamic', '-o', fresh + '/mesosd',
               HERE + '/mesosd.cpp', '-L' + lib, '-l:_scheduler.so',
               '-Wl,--allow-shlib-undefined',
               '-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib'])
        for name in ('mesos-master', 'mesos-agent', 'mesos-containerizer'):
            os.symlink('mesosd', fresh + '/' + name)
        for source, names in (('executor.py', ('mesos-executor', 'mesos-default-executor',
                                               'mesos-docker-executor')),
                              ('fetcher.py', ('mesos-fetcher',))):
            with open(os.path.join(HERE, source)) as f:
                text = f.read().partition('\n')[2]
            for name in names:
                with open(fresh + '/' + name, 'w') as f:
                    # Without what is not of the language itself, which takes longer to load than most tasks run.
                    f.write('#!%s -IS\n' % os.path.realpath(sys.executable) + text)
                os.chmod(fresh + '/' + name, 0o755)
        os.chmod(fresh, 0o755)
        os.rename(fresh, programs)
    return programs


# ---- the daemons ------------------------------------------------------------

class Cluster:
    def __init__(self, folder, bound=False):
        """`bound`: its daemons end with the process that started them."""
        self.folder = os.path.abspath(folder)
        self.bound = bound
        self.file = os.path.join(self.folder, 'cluster.json')
        self.state = {'daemons': {}}
        if os.path.exists(self.file):
            with open(self.file) as f:
                self.state = json.load(f)
        self.daemons = self.state['daemons']

    def save(self):
        with open(self.file + '.new', 'w') as f:
            json.dump(self.state, f, indent=1)
        os.rename(self.file + '.new', self.file)

    def launch(self, name):
        daemon = self.daemons[name]
        logs = os.path.join(self.folder, 'log')
        os.makedirs(logs, exist_ok=True)
        environment = {k: v for k, v in os.environ.items()
                       if not k.startswith(('MESOS_', 'LIBPROCESS_'))}
        with open(os.path.join(logs, name + '.log'), 'ab') as log:
            process = subprocess.Popen(daemon['command'], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, cwd=self.folder, env=environment,
                                       start_new_session=True,
                                       preexec_fn=end_with_parent if self.bound else None)
        daemon['pid'] = process.pid
        daemon['since'] = began(process.pid)
        self.save()

    def alive(self, name):
        daemon = self.daemons[name]
        return bool(daemon.get('pid')) and began(daemon['pid']) == daemon['since']

    def signal(self, name, number):
        if self.alive(name):
            os.kill(self.daemons[name]['pid'], number)

    def end(self, name, *signals):
        """One signal after the other, each with some time, until it's gone."""
        for number in signals + (signal.SIGKILL,):
            self.signal(name, signal.SIGCONT)
            self.signal(name, number)
            until = time.time() + 10
            while self.alive(name) and time.time() < until:
                time.sleep(0.05)

    def stop(self):
        for name in sorted(self.daemons):
            if name.startswith('agent'):
                # Asks it to end its tasks and leave, as an operator would.
                self.signal(name, signal.SIGCONT)
                self.signal(name, signal.SIGUSR1)
        for name in sorted(self.daemons):
            if name.startswith('agent'):
                self.end(name, signal.SIGUSR1)
        for name in sorted(self.daemons, key=lambda n: n == 'zookeeper'):
            self.end(name, signal.SIGTERM)
        self.sweep()

    def stop_at_once(self):
        """Without a word to anybody."""
        for name in self.daemons:
            self.signal(name, signal.SIGKILL)
        self.sweep()

    def sweep(self):
        """Executors that outlived a killed agent, what they run, and containers that the Docker containerizer would
        keep for hours."""
        marker = ('MESOS_DIRECTORY=' + self.folder + '/').encode()
        found = True
        while found:  # one may have started another meanwhile
            found = False
            for pid in filter(str.isdigit, os.listdir('/proc')):
                try:
                    with open('/proc/%s/environ' % pid, 'rb') as f:
                        if any(v.startswith(marker) for v in f.read().split(b'\0')):
                            os.kill(int(pid), signal.SIGKILL)
                            found = True
                except OSError:
                    pass
        # The Linux launcher mounts work folders onto themselves.
        with open('/proc/mounts') as f:
            for place in sorted((line.split()[1] for line in f), reverse=True):
                if place.startswith(self.folder + '/'):
                    subprocess.run(['umount', '-l', place])
        docker = next((word.partition('=')[2] for daemon in self.daemons.values() for word in daemon['command']
                       if word.startswith('--docker_socket=')), '/var/run/docker.sock')
        if any('--containerizers=docker' in word for d in self.daemons.values() for word in d['command']):
            docker = ['docker', '-H', 'unix://' + docker]
            listing = subprocess.run(
                docker + ['ps', '-a', '--no-trunc', '--filter', 'name=mesos-', '--format', '{{.ID}} {{.Mounts}}'],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
            mine = [line.split()[0] for line in listing.splitlines() if self.folder + '/' in line]
            if mine:
                quiet(docker + ['rm', '-f'] + mine)


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def began(pid):
    """When a process started; None if there is none (a zombie counts as none)."""
    try:
        with open('/proc/%d/stat' % pid) as f:
            fields = f.read().rpartition(')')[2].split()
        return None if fields[0] in 'ZX' else int(fields[19])
    except OSError:
        return None


def get(address, path):
    try:
        with urllib.request.urlopen('http://%s%s' % (address, path), timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def wait(what, condition, cluster, seconds=180):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        result = condition()
        if result:
            return result
        for name in cluster.daemons:
            if not cluster.alive(name):
                with open(os.path.join(cluster.folder, 'log', name + '.log')) as f:
                    text = f.read()
                # Fatal lines of Mesos's log begin so; a daemon that refuses its flags says why last.
                fatal = [line for line in text.splitlines() if line.startswith('F')] or text.splitlines()[-1:]
                raise Cannot('%s ended: %s\n%s' % (name, ' '.join(fatal[:1]), text[-3000:]))
        time.sleep(0.05)
    raise Cannot('%s: not within %d seconds; see %s/log' % (what, seconds, cluster.folder))


def merged(command, flags):
    """A given flag takes the place of one of the same name."""
    names = {f.partition('=')[0] for f in flags}
    return [c for c in command if c.partition('=')[0] not in names] + flags


def leader(cluster):
    for address in cluster.state['masters']:
        state = get(address, '/master/state')  # one that doesn't lead redirects
        if state and state.get('leader'):
            return state
    return None


def accepts(ip, port):
    try:
        socket.create_connection((ip, port), 1).close()
        return True
    except OSError:
        return False


def start(options, bound=False):
    """Starts a cluster and waits for it. Where one was before in this folder, that is ended first."""
    if os.path.exists(os.path.join(options.dir, 'cluster.json')):
        Cluster(options.dir).stop()
        shutil.rmtree(options.dir)
    zk = options.zk or options.masters > 1
    if zk and (reason := zookeeper_versions.missing(zookeeper_versions.DEBIAN)):
        raise Cannot(reason)
    if options.masters % 2 == 0:
        raise Cannot('%d masters never agree on an empty registry: take an odd number' % options.masters)
    programs = install()
    os.makedirs(options.dir, exist_ok=True)
    cluster = Cluster(options.dir, bound)
    try:
        launch_all(cluster, options, programs, zk)
    except BaseException:
        cluster.stop_at_once()
        raise
    return cluster


def launch_all(cluster, options, programs, zk):
    folder, ip = cluster.folder, options.ip
    masters = ['%s:%d' % (ip, options.port + 100 * i) for i in range(options.masters)]
    cluster.state.update(masters=masters, agents=options.agents)
    where = masters[0]
    # A master whose session is over ends itself. One that nobody is to follow has more time: a busy machine may keep it from
    # its ZooKeeper for a while.
    session = '--zk_session_timeout=' + ('6secs' if options.masters > 1 else '20secs')
    if zk:
        port = options.zk_port or options.port + 1000
        config = folder + '/zookeeper.cfg'
        with open(config, 'w') as f:
            f.write('tickTime=500\nminSessionTimeout=1000\nmaxSessionTimeout=30000\nmaxClientCnxns=0\nadmin.enableServer=false\n'
                    'dataDir=%s/zookeeper\nclientPort=%d\nclientPortAddress=%s\n'
                    % (folder, port, ip))
        cluster.daemons['zookeeper'] = {'command': zookeeper_versions.command(
            zookeeper_versions.DEBIAN, ['-Xmx128m'], 'ZooKeeperServerMain', config)}
        cluster.launch('zookeeper')
        wait('ZooKeeper', lambda: accepts(ip, port), cluster)
        where = 'zk://%s:%d/mesos' % (ip, port)
        cluster.state['zk'] = where
    for i, address in enumerate(masters):
        command = [programs + '/mesos-master', '--ip=' + ip, '--port=' + address.split(':')[1],
                   '--no-hostname_lookup', '--work_dir=%s/master-%d' % (folder, i),
                   # An agent that doesn't answer is unreachable after 5 seconds.
                   # Without ZooKeeper it also takes an agent that long to look
                   # for a master that was restarted.
                   '--agent_ping_timeout=1secs', '--max_agent_ping_timeouts=5']
        if zk:
            command += ['--zk=' + where, '--quorum=%d' % (options.masters // 2 + 1), session]
        cluster.daemons['master-%d' % i] = {'command': merged(command, options.master_flag)}
        cluster.launch('master-%d' % i)
    if not zk:
        # An agent that finds no master yet waits a second before it asks again.
        wait('the master', lambda: leader(cluster), cluster)
    for i in range(options.agents):
        # Downwards: from 32768 on the kernel takes ports for outgoing connections,
        # and a task would at times find an offered one in use.
        first = 31000 - 1000 * i
        work = '%s/agent-%d' % (folder, i)
        command = [programs + '/mesos-agent', '--ip=' + ip,
                   '--port=%d' % (options.port + 1 + i), '--no-hostname_lookup',
                   '--master=' + where, '--work_dir=' + work, '--runtime_dir=' + work + '-run',
                   '--fetcher_cache_dir=' + work + '-fetch',
                   '--launcher_dir=' + programs, '--launcher=posix',
                   '--isolation=posix/cpu,posix/mem,disk/du', '--no-systemd_enable_support',
                   '--containerizers=' + options.containerizers,
                   '--registration_backoff_factor=50ms', '--executor_reregistration_timeout=5secs',
                   '--resources=%s;ports:[%d-%d]' % (options.resources, first, first + 999)]
        if zk:
            command.append(session)
        if options.agent_hostname:
            command.append('--hostname=' + options.agent_hostname.replace('{}', str(i)))
        flags = [flag.replace('{}', str(i)) for flag in options.agent_flag]
        cluster.daemons['agent-%d' % i] = {'command': merged(command, flags)}
        cluster.launch('agent-%d' % i)

    def ready():
        state = leader(cluster)
        return state and state['activated_slaves'] >= options.agents and state
    state = wait('the agents', ready, cluster)
    cluster.save()
    say('leading master %s, %d agents, logs in %s/log' % (
        state['leader'], state['activated_slaves'], folder))
    if zk:
        say('masters %s, %s' % (' '.join(masters), where))


# ---- for tests --------------------------------------------------------------

def span_of_ports(options):
    """A first port such that all that the cluster listens on is free. Below the ports that the kernel takes for outgoing
    connections, and those that agents offer."""
    while True:
        first = random.randrange(12000, 24000)
        wanted = [first + 100 * i for i in range(options.masters)] + [first + 1 + i for i in range(options.agents)]
        for port in wanted + [first + 1000]:
            with socket.socket() as probe:
                # As the daemons bind, whom those that wait for the last packet of a connection do not disturb.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((options.ip, port))
                except OSError:
                    break
        else:
            return first


def order(cluster, words):
    if words == ['leader']:
        state = leader(cluster)
        address = state['leader'].rpartition('@')[2] if state else None
        return 'done master-%d' % cluster.state['masters'].index(address) if state else 'failed nobody leads'
    what, name = words
    if name not in cluster.daemons:
        return 'failed which of %s?' % ', '.join(sorted(cluster.daemons))
    if what == 'kill':
        cluster.end(name)
    elif what == 'pause':
        cluster.signal(name, signal.SIGSTOP)
    elif what == 'resume':
        cluster.signal(name, signal.SIGCONT)
    elif what == 'start':
        cluster.end(name)
        cluster.launch(name)
    elif what == 'unclean':
        # The agent comes again as another one: a machine whose disk was replaced.
        cluster.end(name)
        shutil.rmtree('%s/%s' % (cluster.folder, name), ignore_errors=True)
        cluster.launch(name)
    else:
        return 'failed unknown order'
    return 'done'


def keep(options):
    """Holds a cluster until standard input ends, as the README says of `run`."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    cluster = None
    try:
        try:
            for _ in range(3):
                options.port = span_of_ports(options)
                try:
                    cluster = start(options, bound=True)
                    break
                except Cannot as reason:
                    # Somebody else was faster.
                    if 'Address already in use' not in str(reason):
                        raise
                    shutil.rmtree(options.dir)
            else:
                raise Cannot('no free ports')
        except Cannot as reason:
            say(str(reason))
            return print('cannot ' + str(reason).splitlines()[0], flush=True)
        print('listening %s %s' % (','.join(cluster.state['masters']), cluster.state.get('zk', '')), flush=True)
        for line in sys.stdin:
            try:
                answer = order(cluster, line.split())
            except (IndexError, ValueError, OSError) as wrong:
                answer = 'failed %r' % wrong
            print(answer, flush=True)
    finally:
        if cluster:
            cluster.stop_at_once()
        shutil.rmtree(options.dir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('do', choices=['install', 'start', 'keep', 'stop', 'kill', 'pause', 'resume',
                                       'restart', 'status'])
    parser.add_argument('name', nargs='?')
    add = parser.add_argument
    add('--dir', default=os.path.join(tempfile.gettempdir(), 'mesos-local'),
        help="the cluster's own folder; `start` empties one that a cluster had before")
    add('--ip', default='127.0.0.1')
    add('--port', type=int, default=5050,
        help='of the first master; further ones at +100, +200, agents at +1, +2, ...')
    add('--agents', type=int, default=1)
    add('--masters', type=int, default=1, help='more than one brings a ZooKeeper')
    add('--zk', action='store_true', help='a ZooKeeper also for one master')
    add('--zk-port', type=int, help='(default: port + 1000)')
    add('--resources', default='cpus:4;mem:4096;disk:8192', help='of each agent')
    add('--agent-hostname', metavar='PATTERN',
        help="name of each agent, {} being its number, as in agent-{}.local (default: the --ip)")
    add('--containerizers', default='mesos', help='docker,mesos where a Docker engine runs')
    add('--master-flag', action='append', default=[], metavar='--FLAG=VALUE')
    add('--agent-flag', action='append', default=[], metavar='--FLAG=VALUE', help='{} in it is the number of the agent')
    options = parser.parse_args()
    if options.do == 'install':
        return print(install())
    if options.do == 'start':
        return start(options)
    if options.do == 'keep':
        return keep(options)
    cluster = Cluster(options.dir)
    if options.do == 'stop':
        return cluster.stop()
    if options.do == 'status':
        for name in sorted(cluster.daemons):
            print('%s: %s' % (name, cluster.daemons[name]['pid'] if cluster.alive(name) else 'not running'))
        state = leader(cluster)
        return print('leader: %s' % (state['leader'] if state else 'none'))
    if options.name not in cluster.daemons:
        sys.exit('which of %s?' % ', '.join(sorted(cluster.daemons)))
    if options.do == 'kill':
        cluster.end(options.name)
    elif options.do == 'restart':
        cluster.end(options.name, signal.SIGTERM)
        cluster.launch(options.name)
    else:
        cluster.signal(options.name, {'pause': signal.SIGSTOP, 'resume': signal.SIGCONT}[options.do])


try:
    main()
except Cannot as reason:
    sys.exit('mesos-local: %s' % reason)
