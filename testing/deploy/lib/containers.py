"""A Docker Engine of the case's own, by testing/docker-local, in the network of the case; and our image."""

import os

from case import BINARY, ROOT, WORK, Keeper, fail, run, sh

IMAGE = "chronos:test"


def lent_root(name, *folders):
    """The root of an image whose programs are those of this machine, seen through /usr, which containers are lent."""
    root = WORK / f"root-of-{name}"
    for folder in ("usr", "etc", "tmp", *folders):
        (root / folder).mkdir(parents=True)
    for link in ("bin", "lib", "lib64", "sbin"):
        os.symlink(f"usr/{link}", root / link)
    os.chmod(root / "tmp", 0o1777)
    return root


class Engine:
    def __init__(self):
        self.keeper = Keeper("docker", ROOT / "testing" / "docker-local", WORK / "docker", "here")
        self.host = self.keeper.holds
        self.socket = self.host.removeprefix("unix://")

    def docker(self, *command):
        return sh("docker", "-H", self.host, *command)

    def fails(self, *command):
        """What a command says that has to fail."""
        done = run("docker", "-H", self.host, *command)
        if done.returncode == 0:
            fail(f"`docker {' '.join(command)}` was to fail, and said: {done.stdout}")
        return done.stdout

    def build(self):
        """Makes our image; what the script says."""
        return sh("env", f"DOCKER_HOST={self.host}", ROOT / "deploy" / "docker" / "build", BINARY, IMAGE)

    def inspect(self, name, form):
        return self.docker("inspect", "-f", form, name)

    def end(self):
        self.keeper.end()
