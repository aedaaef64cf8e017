#!/usr/bin/env python3
"""Runs the stand-in on a real cluster of mesos-local and shows what it does: selftest.py

Needs root, a Docker engine that runs, and busybox-static. Takes some eighty seconds on a quiet
machine, leaves nothing behind, and ends with `ok` or with what went wrong.
"""
import datetime
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
CLUSTER = os.path.join(HERE, '..', 'mesos-local', 'cluster.py')
MARATHON = os.path.join(HERE, 'marathon.py')
IMAGE = 'marathon-local-selftest:1'
FOLDER = tempfile.mkdtemp(prefix='marathon-selftest-')
# In place of the real program: serves its arguments at /ping and its environment at /env.
# It ends at once when told to: if it took its time, a restart that killed too many at once
# would not be seen, as those would still answer when the new ones do.
PROGRAM = b'''#!/bin/sh
mkdir /www; echo "$@" > /www/ping; env > /www/env
httpd -f -p 4400 -h /www & trap 'kill $!; exit 0' TERM; wait
'''
APP = json.loads('''
{"id":"chronos","instances":3,"cpus":0.1,"mem":256,"container":{"type":"DOCKER","docker":{
"image":"IMAGE:TAG","network":"BRIDGE","portMappings":[{"containerPort":4400,"hostPort":0,
"servicePort":0,"protocol":"tcp"}]}},"constraints":[["hostname","UNIQUE"]],
"cmd":"/usr/bin/chronos run_jar --master zk://z:2181/mesos --zk_hosts z:2181 --http_port 4400 --hostname $(hostname -i)",
"env":{"WEAVE_CIDR":"net:10.32.1.0/24"},"healthChecks":[{"protocol":"HTTP","portIndex":0,
"path":"/ping","gracePeriodSeconds":5,"intervalSeconds":20,"maxConsecutiveFailures":3}]}
'''.replace('IMAGE:TAG', IMAGE))


def free_ports():
    """A first port of masters, such that all that is started here finds its port free."""
    while True:
        first = random.randrange(12000, 24000)
        try:
            for port in [first + n for n in (0, 1, 2, 3, 100, 200, 1000, 1001)]:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(('127.0.0.1', port))
            return first
        except OSError:
            pass


MASTERS = free_ports()
PORT = MASTERS + 1001


def sh(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def cluster(*arguments):
    return sh(sys.executable, CLUSTER, *arguments, '--dir', FOLDER + '/mesos')


def marathon(*arguments):
    return sh(sys.executable, MARATHON, *arguments, '--dir', FOLDER + '/marathon')


def call(method, path, body=None, port=PORT, host='127.0.0.1'):
    request = urllib.request.Request('http://%s:%d%s' % (host, port, path), method=method, headers={
        'Content-Type': 'application/json'}, data=json.dumps(body).encode() if body is not None else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def app(path='chronos'):
    return call('GET', '/v2/apps/' + path)[1].get('app', {})


def ids(path='chronos'):
    return {t['id'] for t in app(path).get('tasks', [])}


def containers(task=''):
    return sh('docker', 'ps', '-q', '--filter', 'label=MESOS_TASK_ID' + (task and '=' + task),
              '--filter', 'ancestor=' + IMAGE).split()


def until(what, condition, seconds=90):
    began = time.time()
    while not condition():
        if time.time() - began > seconds:
            sys.exit('NOT WITHIN %d s: %s\n%s' % (seconds, what, json.dumps(
                [app(), call('GET', '/v2/queue'), call('GET', '/v2/deployments')], indent=1)))
        time.sleep(0.2)
    print('%5.1f s  %s' % (time.time() - began, what), flush=True)


def settled(count=3, path='chronos', gone=(), a=None):
    """No deployment, so many healthy, each on a host of its own, none of those `gone`.
    All from one answer: two would show two moments."""
    a = a or app(path)
    return a['tasksHealthy'] == a['tasksRunning'] == count == len(a['tasks']) and not a['deployments'] \
        and len({t['host'] for t in a['tasks']}) == count and not {t['id'] for t in a['tasks']} & set(gone)


def rolls(what, *request):
    """Everything is replaced while never fewer than three are healthy."""
    assert settled()
    before, seen = ids(), []
    answer = call(*request)
    assert answer[0] == 200 and set(answer[1]) == {'version', 'deploymentId'}, answer
    assert call('POST', '/v2/apps/chronos/restart')[0] == 409

    def done():
        a = app()
        seen.append((a['tasksHealthy'], len(a['tasks'])))
        return settled(gone=before, a=a)
    until(what, done)
    assert min(seen)[0] == 3 and max(n for _, n in seen) == 6, seen


def image():
    if not os.path.exists('/bin/busybox'):
        sys.exit('busybox is not here; testing/deps installs it')
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w') as tar:
        tar.add('/bin/busybox', 'bin/busybox')
        for name in ('sh', 'httpd', 'cat', 'env', 'hostname', 'mkdir', 'rm'):
            link = tarfile.TarInfo('bin/' + name)
            link.type, link.linkname = tarfile.SYMTYPE, 'busybox'
            tar.addfile(link)
        program = tarfile.TarInfo('usr/bin/chronos')
        program.size, program.mode = len(PROGRAM), 0o755
        tar.addfile(program, io.BytesIO(PROGRAM))
    subprocess.run(['docker', 'import', '-', IMAGE], input=packed.getvalue(), check=True,
                   stdout=subprocess.DEVNULL)


def scenario():
    status, answer = call('POST', '/v2/apps', APP)
    assert status == 201 and answer['id'] == '/chronos' and answer['deployments'], answer
    assert call('POST', '/v2/apps', APP)[0] == 409
    until('the definition runs: 3 instances on 3 hostnames, healthy', settled)
    task = app()['tasks'][0]
    ping = call('GET', '/ping', None, task['ports'][0], task['host'])[1]
    env = call('GET', '/env', None, task['ports'][0], task['host'])[1].split('\n')
    assert ping.startswith('run_jar --master zk://') and '--hostname 172.' in ping, ping
    for line in ('WEAVE_CIDR=net:10.32.1.0/24', 'PORT_4400=%d' % task['ports'][0], 'MARATHON_APP_ID=/chronos',
                 'MARATHON_APP_DOCKER_IMAGE=' + IMAGE, 'HOST=' + task['host'], 'MESOS_TASK_ID=' + task['id']):
        assert line in env, (line, env)
    assert call('PUT', '/v2/apps/chronos', APP)[0] == 200 and settled()  # nothing changed

    sh('docker', 'kill', *containers(task['id']))
    until('a killed container is replaced', lambda: settled(gone=[task['id']]))
    assert app()['lastTaskFailure']['taskId'] == task['id']

    checks = [dict(APP['healthChecks'][0], intervalSeconds=1)]
    rolls('PUT rolls over to the new definition', 'PUT', '/v2/apps/chronos', {'healthChecks': checks})
    rolls('restart rolls', 'POST', '/v2/apps/chronos/restart')

    task = app()['tasks'][0]
    sh('docker', 'exec', containers(task['id'])[0], '/bin/rm', '/www/ping')
    until('a failing health check is seen', lambda: app()['tasksUnhealthy'] == 1)
    until('and the instance killed and replaced', lambda: settled(gone=[task['id']]))
    assert not containers(task['id'])

    task = next(t for t in app()['tasks'] if t['host'] == '127.0.0.12')
    cluster('kill', 'agent-2')
    reasons = lambda: [r for q in call('GET', '/v2/queue')[1]['queue'] if q['count'] == 1 for r in
                       q['processedOffersSummary']['rejectSummaryLastOffers']]
    until('an agent dies: 2 go on, 1 waits for the constraint', lambda: app()['tasksRunning'] == 2 and any(
        r['reason'] == 'UnfulfilledConstraint' and r['declined'] == 2 for r in reasons()))
    cluster('restart', 'agent-2')
    until('the agent is back: replaced, and the old container killed',
          lambda: settled(gone=[task['id']]) and not containers(task['id']) and len(containers()) == 3)

    before = ids()
    leader = [n for n in range(3) if ':%d/' % (MASTERS + 100 * n) in str(
        call('GET', '/v2/info')[1]['marathon_config']['mesos_leader_ui_url'])][0]
    cluster('kill', 'master-%d' % leader)
    until('the leading master dies: subscribed at the next', lambda: call('GET', '/v2/info')[1][
        'marathon_config']['mesos_leader_ui_url'] not in (None, 'http://127.0.0.1:%d/' % (MASTERS + 100 * leader)))
    cluster('restart', 'master-%d' % leader)
    task = app()['tasks'][0]
    with open(FOLDER + '/marathon/running.json') as f:
        os.kill(json.load(f)['pid'], 9)
    sh('docker', 'kill', *containers(task['id']))
    begin()
    until('killed and started again: 2 kept, the one that died meanwhile replaced',
          lambda: settled(gone=[task['id']]))
    assert before - {task['id']} < ids()
    with open(FOLDER + '/marathon/marathon.log') as f:
        assert any('TASK_RUNNING REASON_RECONCILIATION' in line for line in f)

    status, answer = call('DELETE', '/v2/apps/chronos/tasks/%s?scale=true' % sorted(ids())[0])
    assert status == 200 and 'deploymentId' in answer, answer
    until('kill and scale: 2 are left', lambda: settled(2) and app()['instances'] == 2)

    call('POST', '/v2/apps', {'id': '/plain/fails', 'cmd': 'exit 3', 'mem': 32, 'cpus': 0.1})
    call('POST', '/v2/apps', {'id': '/plain/serves', 'cmd': 'exec python3 -m http.server $PORT0', 'instances': 2,
                              'mem': 64, 'cpus': 0.1, 'constraints': [['hostname', 'LIKE', '127.0.0.1[01]'],
                                                                      ['hostname', 'MAX_PER', '1']],
                              'healthChecks': [{'protocol': 'TCP', 'intervalSeconds': 1}, {
                                  'protocol': 'COMMAND', 'command': {'value': 'true'}, 'delaySeconds': 0}]})
    until('commands without a container, TCP and COMMAND checks', lambda: settled(2, 'plain/serves'))
    assert {t['host'] for t in app('plain/serves')['tasks']} == {'127.0.0.10', '127.0.0.11'}
    waits = lambda: [q['delay'] for q in call('GET', '/v2/queue')[1]['queue'] if q['app']['id'] == '/plain/fails']
    failed = {}

    def backs_off():
        last = app('plain/fails').get('lastTaskFailure', {'state': None})
        if last['state'] == 'TASK_FAILED':
            failed[last['taskId']] = datetime.datetime.fromisoformat(last['timestamp']).timestamp()
        return len(failed) > 4 and any(not d['overdue'] for d in waits())
    until('one that fails is started again, with back-off', backs_off)
    times = list(failed.values())
    assert all(b - a > 1 for a, b in zip(times, times[1:])), times

    for path in ('chronos', 'plain/fails', 'plain/serves'):
        status, answer = call('DELETE', '/v2/apps/' + path)
        assert status == 200 and 'deploymentId' in answer, answer
        assert call('GET', '/v2/apps/' + path)[0] == 404
    until('DELETE: all is gone', lambda: not call('GET', '/v2/deployments')[1] and not containers())
    assert call('GET', '/v2/apps')[1] == {'apps': []} and call('GET', '/v2/tasks')[1] == {'tasks': []}


def begin():
    marathon('start', '--master', 'zk://127.0.0.1:%d/mesos' % (MASTERS + 1000), '--port', str(PORT))


try:
    image()
    cluster('start', '--masters', '3', '--agents', '3', '--port', str(MASTERS), '--containerizers', 'docker,mesos',
            '--agent-hostname', '127.0.0.1{}')
    begin()
    scenario()
    marathon('stop', '--teardown')
    print('ok')
finally:
    marathon('stop')
    cluster('stop')
    subprocess.run(['docker', 'rmi', IMAGE], stdout=subprocess.DEVNULL)
    if sys.exc_info()[0] and os.path.exists(FOLDER + '/marathon/marathon.log'):
        print('log kept: %s/marathon/marathon.log' % FOLDER)
    else:
        shutil.rmtree(FOLDER)
