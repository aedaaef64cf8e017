"""A Docker Engine of the case's own, by testing/docker-local, in the network of the case; and our image."""

import subprocess

from case import BINARY, ROOT, WORK, fail, sh, skip

IMAGE = "chronos:test"


class Engine:
    def __init__(self):
        folder = WORK / "docker"
        # It ends when its standard input is closed, which the end of the case does.
        self.keeper = subprocess.Popen([ROOT / "testing" / "docker-local", folder, "here"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True, start_new_session=True)
        word, _, rest = self.keeper.stdout.readline().strip().partition(" ")
        if word != "listening":
            skip(rest or "no Docker Engine starts here")
        self.host = rest
        self.socket = rest.removeprefix("unix://")

    def docker(self, *command):
        return sh("docker", "-H", self.host, *command)

    def fails(self, *command):
        """What a command says that has to fail."""
        done = subprocess.run(["docker", "-H", self.host, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        if done.returncode == 0:
            fail(f"`docker {' '.join(command)}` was to fail, and said: {done.stdout}")
        return done.stdout

    def build(self):
        """Makes our image; what the script says."""
        return sh("env", f"DOCKER_HOST={self.host}", ROOT / "deploy" / "docker" / "build", BINARY, IMAGE)

    def inspect(self, name, form):
        return self.docker("inspect", "-f", form, name)

    def end(self):
        self.keeper.stdin.close()
        self.keeper.wait()
