# Functions of the scripts in this folder, to be sourced from the project folder. Bash 3.2, for
# macOS.

say() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# usable PYTHON: whether it runs (a pyenv shim may not) and is 3.10 or newer
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# minor PYTHON: prints 3.11
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# interpreter MINOR: prints a working interpreter of that version, from PATH or pyenv; empty without
# one
interpreter() {
    local candidate root
    for candidate in "$(command -v "python$1" || true)" python3 python; do
        if [ -n "$candidate" ] && usable "$candidate" && [ "$(minor "$candidate")" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
    root=$(pyenv root 2>/dev/null) || return 0
    for candidate in $(printf '%s\n' "$root"/versions/"$1".*/bin/python | sort -t. -k3 -rn); do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

# any_interpreter: prints the default python3, or the newest interpreter found
any_interpreter() {
    local candidate version
    for candidate in python3 python; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    for version in 3.13 3.12 3.11 3.10; do
        candidate=$(interpreter "$version")
        if [ -n "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.10 or newer was not found. Install it as python3 on the PATH."
}

# make_venv FOLDER PYTHON: creates a virtual environment whose pip supports dependency groups; a
# working one is reused
make_venv() {
    if ! usable "$1/bin/python" || ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$1"
        # Without python3-venv, Debian has venv but not ensurepip. Then the existing pip installs
        # pip.
        if ! "$2" -m venv "$1" >/dev/null 2>&1; then
            rm -rf "$1"
            "$2" -m venv --without-pip "$1" && "$2" -m pip --python "$1/bin/python" install --quiet pip ||
                die "$2 cannot create a virtual environment. Install its venv module (Debian: apt-get install python3-venv)."
        fi
    fi
    "$1/bin/python" -m pip --version | grep -Eq '^pip (2[6-9]|25\.[1-9]|[3-9][0-9])' || pip_in "$1" install --upgrade 'pip>=25.1'
}

# pip_in VENV ARGUMENTS...: runs pip of an environment
pip_in() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip -qq --disable-pip-version-check "$@"
}

# digest FILE...: prints a hash of the contents of the files
digest() { "$VENV/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' "$@"; }

# fresh VENV DIGEST: whether the environment was installed for this state of the requirements
fresh() { [ "$(cat "$1/.installed-for" 2>/dev/null)" = "$2" ]; }
# mark VENV DIGEST: records that state
mark() { echo "$2" >"$1/.installed-for"; }
