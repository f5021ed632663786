"""Build `.venv` for the Makefile with nothing but the standard library.

Keeps the torch + torchvision of the base Python when the two fit together and are new enough, installs the
rest with uv (or pip where uv can't be had), and refuses to end with a torch and a torchvision of different
builds: such a pair installs without a word and fails at the first import.

It must run on any Python 3, old ones included, so that an old one gets a message instead of a SyntaxError.
"""

import os
import shutil
import subprocess
import sys
import tempfile

MINIMUM_PYTHON = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# An operator compiled in torchvision: it is the part that a torch of another build breaks.
PAIR_CHECK = """
import torch
major, minor = (int(part) for part in torch.__version__.split(".")[:2])
assert (major, minor) >= (2, 6), "torch " + torch.__version__ + " is older than 2.6"
import torchvision
from torchvision.ops import nms
kept = nms(torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]]), torch.tensor([0.9, 0.8]), 0.5)
assert kept.tolist() == [0], "torchvision.ops.nms gave " + str(kept.tolist())
print("torch " + torch.__version__ + ", torchvision " + torchvision.__version__)
"""
OTHER_PYTHON = "name another Python: make PYTHON=/path/to/python3.11"
UNFIT = """torch and torchvision in {0} don't fit together: {1}
They must be of one build (both from PyPI, or both from the same index of pytorch.org). Look for a local torch wheel in
`pip config list` (find-links), then either
  rm -rf {0} && PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= make test
or install a pair into the Python that you start from (https://pytorch.org/get-started/locally) and run make again:
it is kept."""


def _run(*command):
    print("+ " + " ".join(command), flush=True)
    return subprocess.call(command, cwd=ROOT) == 0


def check_pair(python):
    """Return (whether torch and torchvision of `python` work together, their versions or the reason)."""
    done = subprocess.run(
        [python, "-c", PAIR_CHECK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    lines = done.stdout.strip().splitlines() or ["no output"]
    return done.returncode == 0, lines[-1]


def create(venv, python):
    """Make an empty virtual environment, in place of what is there, that sees the base's pair if this is fit."""
    keeps, found = check_pair(sys.executable)
    # A base that is itself a virtual environment doesn't pass its packages on: then start from nothing.
    for options in [["--system-site-packages"], []] if keeps else [[]]:
        shutil.rmtree(venv, ignore_errors=True)
        if not _run(*([sys.executable, "-m", "venv"] + options + [venv])):
            shutil.rmtree(venv, ignore_errors=True)
            text = "error: {} can't make a virtual environment; apt-get install python3-venv (Debian, Ubuntu), or {}"
            sys.exit(text.format(sys.executable, OTHER_PYTHON))
        if options and check_pair(python)[0]:
            print("keeping {} of {}".format(found, sys.executable), flush=True)
            return


def is_usable(venv):
    """Whether `venv` is an environment of this very folder that can be updated instead of made again."""
    pip = os.path.join(venv, "bin", "pip")
    if not os.path.exists(pip) or subprocess.call([os.path.join(venv, "bin", "python"), "-c", ""]) != 0:
        return False
    # An environment that was moved still names its old folder in the first line of its scripts.
    with open(pip, encoding="utf-8") as script:
        return os.path.join(venv, "bin") in script.readline()


def keeps_base_packages(venv):
    """Whether `venv` sees the packages of the Python that it was made from."""
    with open(os.path.join(venv, "pyvenv.cfg"), encoding="utf-8") as file:
        return "include-system-site-packages = true" in file.read()


def install(python, installer, keep_torch):
    """Install the project and its test extra, editable, with `installer`: auto, uv or pip."""
    target = ["-e", ROOT + "[test]"]
    # uv reads no pip configuration, so a local wheel folder can't slip an unpaired torch in.
    if installer != "pip" and _run(python, "-m", "pip", "install", "--quiet", "uv"):
        with tempfile.TemporaryDirectory() as folder:
            overrides = os.path.join(folder, "overrides.txt")
            with open(overrides, "w", encoding="utf-8") as file:
                # uv doesn't see the base's pair: a condition that never holds keeps it from adding one.
                if keep_torch:
                    file.write("torch; python_version < '3'\ntorchvision; python_version < '3'\n")
            if _run(python, "-m", "uv", "pip", "install", "--python", python, "--override", overrides, *target):
                return
    if installer == "auto":
        print("uv could not be used: falling back to pip, which takes a few minutes.", flush=True)
    if installer == "uv" or not _run(python, "-m", "pip", "install", "--quiet", *target):
        sys.exit("error: could not install what pyproject.toml asks for (is there a network?): see the message above.")


def main(venv, installer="auto"):
    """Build the environment at `venv` and check it; what stops it is said with the way out."""
    if sys.version_info[:2] < MINIMUM_PYTHON:
        text = "error: Python >= 3.11 is needed; {} is {}.{}: {}"
        sys.exit(text.format(sys.executable, sys.version_info[0], sys.version_info[1], OTHER_PYTHON))
    venv = os.path.abspath(venv)
    python = os.path.join(venv, "bin", "python")
    for is_new in [False, True] if is_usable(venv) else [True]:
        if is_new:
            create(venv, python)
        install(python, installer, keeps_base_packages(venv))
        works, found = check_pair(python)
        if works:
            print("environment ready: " + found, flush=True)
            return
    sys.exit("error: " + UNFIT.format(venv, found))


if __name__ == "__main__":
    main(*sys.argv[1:])
