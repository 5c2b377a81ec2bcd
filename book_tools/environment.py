"""Create or reuse .venv, and say in one sentence what is missing when that cannot be done.

Run by make with whatever Python the machine has, so this file keeps to the syntax and library of Python 3.6:
an old Python must get far enough to say that it is too old.
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
NEEDED = (3, 11)
DOWNLOAD = re.compile(r"\s*(?:Downloading|Using cached) (\S+?)(?:-(?:py|cp)\d\S*)? \(([\d.]+) ([kMG]B)\)")
SPACE_GB = 4.0  # .venv takes 2 GB with the CPU build of torch, and pip unpacks before it copies


class Problem(Exception):
    """Something the user can mend; the message is one sentence with the remedy."""


def check_python(version, executable="python3"):
    """Raise Problem unless `version`, a tuple such as sys.version_info, is new enough."""
    if tuple(version[:2]) < NEEDED:
        found = ".".join(str(part) for part in version[:3])
        raise Problem(f"The book needs Python {NEEDED[0]}.{NEEDED[1]} or newer, and {executable} is {found}: "
                      "install a newer one and name it, as in `make book PYTHON=python3.12`.")


def check_tools(which=shutil.which, find_module=None):
    """Raise Problem if git, venv or ensurepip is missing."""
    if which("git") is None:
        raise Problem("The book needs git (it records the commit it was built from): install it, "
                      "for instance with `apt install git`, and run make again.")
    find_module = find_module or __import__
    for module in ("venv", "ensurepip"):
        try:
            find_module(module)
        except ImportError:
            name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            raise Problem(f"This Python comes without its `{module}` module, which makes environments: "
                          f"on Debian or Ubuntu `apt install {name}`, then run make again.") from None


def check_space(free_bytes, where=VENV):
    """Raise Problem if there are fewer than SPACE_GB gigabytes for the environment."""
    free = free_bytes / 1e9
    if free < SPACE_GB:
        raise Problem(f"There are {free:.1f} GB free for {where} and it needs about {SPACE_GB:.0f} GB: "
                      "free some space, or clone the book onto a larger disk.")


def explain(log):
    """Return the sentence for a failed installation, from the lines pip wrote."""
    text = "\n".join(log)
    if re.search(r"No space left|Errno 28|Disk quota exceeded", text):
        return (f"The disk filled up while installing: free about {SPACE_GB:.0f} GB "
                "(pip unpacks in $TMPDIR, so that may be the full one) and run make again.")
    if re.search(r"name resolution|NewConnectionError|Network is unreachable|ConnectTimeout|ReadTimeout|"
                 r"ConnectionError|getaddrinfo|ProxyError|Connection refused", text):
        return ("pip cannot reach its package index: connect to the network (or point PIP_INDEX_URL or "
                "PIP_FIND_LINKS to a mirror) and run make again; what has been downloaded is kept.")
    missing = re.search(r"No matching distribution found for (\S+)", text)
    if missing:
        return (f"pip finds no {missing.group(1)} for Python {sys.version_info[0]}.{sys.version_info[1]} on "
                "this machine: try another Python, as in `make book PYTHON=python3.12`.")
    if re.search(r"Permission denied|Errno 13|Read-only file system", text):
        return f"pip may not write to {VENV}: check who owns that directory and run make again."
    errors = [line for line in log if line.startswith("ERROR")]
    last = errors[0] if errors else (log[-1] if log else "no output")
    return f"pip failed ({last.strip()}); its full output is in {os.path.join('.venv', 'install.log')}."


def venv_version():
    """Return the (major, minor) of the Python in .venv, or None if there is no usable one."""
    if not os.path.exists(os.path.join(VENV, "bin", "python")):
        return None
    try:
        with open(os.path.join(VENV, "pyvenv.cfg")) as config:
            found = re.search(r"^version(?:_info)?\s*=\s*(\d+)\.(\d+)", config.read(), re.M)
    except OSError:
        return None
    return (int(found.group(1)), int(found.group(2))) if found else None


def requirement_files(version):
    """Return pip's arguments: pinned to the digit on Python 3.11, ranges elsewhere."""
    arguments = ["-r", os.path.join(ROOT, "requirements.txt")]
    if tuple(version) == (3, 11):
        arguments += ["-c", os.path.join(ROOT, "constraints-py311.txt")]
    return arguments


def stamp(version):
    """Return the fingerprint of what .venv should hold: requirements, their pins, the Python, the place."""
    digest = hashlib.sha256(repr((tuple(version), ROOT)).encode())
    for path in requirement_files(version)[1::2]:
        with open(path, "rb") as content:
            digest.update(content.read())
    return digest.hexdigest()


def is_current(asked):
    """Say whether .venv can be reused: complete, for these requirements and, if `asked` for, this Python."""
    version = venv_version()
    if version is None or version < NEEDED or (asked and version != tuple(sys.version_info[:2])):
        return False
    try:
        with open(os.path.join(VENV, "stamp")) as written:
            return written.read() == stamp(version)
    except OSError:
        return False


def size_of(folder):
    """Return the size in bytes of the files below a folder."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # pip has moved it meanwhile
                pass
    return size


class Progress:
    """Turns pip's output into a line now and then, so that a wait is never silent and never noisy."""

    def __init__(self, out=sys.stdout, every=15.0):
        self.out, self.every = out, every
        self.start = time.time()
        self.said, self.doing, self.count, self.grows = self.start, "asking pip what is needed", 0, False
        self.stop = threading.Event()
        self.beat = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self):
        self.beat.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.beat.join()

    def say(self, text):
        self.said = time.time()
        self.out.write(f"  {self.said - self.start:4.0f} s  {text}\n")
        self.out.flush()

    def _beat(self):
        while not self.stop.wait(1.0):
            if time.time() - self.said > self.every:
                self.say(self.doing + (f": {size_of(VENV) / 1e6:.0f} MB so far" if self.grows else ""))

    def read(self, line):
        """Take one line of pip's output; say so if it begins a long step."""
        download = DOWNLOAD.match(line)
        if re.match(r"(Collecting|Processing|Looking in|Requirement already)", line):
            self.count += line.startswith(("Collecting", "Processing"))
            self.doing = f"finding packages ({self.count} so far)"
        elif download:
            name, size, unit = download.groups()
            self.doing = f"downloading {name.split('/')[-1]} ({size} {unit})"
            if unit == "GB" or (unit == "MB" and float(size) >= 25):
                self.say(self.doing)
        elif line.startswith("Installing collected packages"):
            self.doing, self.grows = f"installing {line.count(',') + 1} packages", True
            self.say(self.doing)
        elif "Retrying (Retry(" in line and not self.doing.startswith("the package index"):
            self.doing = "the package index does not answer; trying again"
            self.say(self.doing)


def run_pip(arguments, progress):
    """Run pip in .venv, feeding `progress`; raise Problem with its sentence if it fails."""
    command = [os.path.join(VENV, "bin", "python"), "-m", "pip", "install", "--progress-bar", "off",
               "--no-input", "--disable-pip-version-check"] + arguments
    log = []
    process = subprocess.Popen(command, env=dict(os.environ, PYTHONUNBUFFERED="1"),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    for line in process.stdout:
        log.append(line.rstrip())
        progress.read(line)
    failed = process.wait()
    try:
        with open(os.path.join(VENV, "install.log"), "w") as written:
            written.write("\n".join(log) + "\n")
    except OSError as error:
        log.append(str(error))
    if failed:
        raise Problem(explain(log))


def create():
    """Make .venv afresh with the running Python."""
    if os.path.lexists(VENV) and not os.path.isdir(VENV):
        raise Problem(f"{VENV} is not a directory: move it away and run make again.")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if made.returncode:
        raise Problem(explain(made.stdout.splitlines() or ["venv failed without a word"]))


def add_root():
    """Let the Python of .venv import the book's own packages from this checkout."""
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    python = os.path.join(VENV, "bin", "python")
    packages = subprocess.check_output([python, "-c", ask], universal_newlines=True).strip()
    with open(os.path.join(packages, "this_book.pth"), "w") as path:
        path.write(ROOT + "\n")


def prepare(asked=False):
    """Create .venv or bring it up to date; return at once if it is."""
    if is_current(asked):
        return
    check_python(sys.version_info, sys.executable)
    check_tools()
    check_space(shutil.disk_usage(ROOT).free)
    version = tuple(sys.version_info[:2])
    reuse = venv_version() == version
    print(f"Setting up Python {version[0]}.{version[1]} with PyTorch and the book's tools in .venv "
          f"({'updating the one that is there' if reuse else 'once; some minutes'}).", flush=True)
    with Progress() as progress:
        if not reuse:
            create()
        if os.path.exists(os.path.join(VENV, "stamp")):
            os.remove(os.path.join(VENV, "stamp"))
        run_pip(requirement_files(version), progress)
        add_root()
        with open(os.path.join(VENV, "stamp"), "w") as written:
            written.write(stamp(version))
        progress.say("the environment is ready")


def main(arguments):
    try:
        prepare(asked="--asked" in arguments)
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; run make again to go on where it was.\n")
        return 130
    except OSError as error:
        sys.stderr.write(explain([f"[Errno {error.errno}] {error.strerror}"]) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
