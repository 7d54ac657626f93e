# Shared by the scripts beside it; to be sourced, from the project's folder. Plain bash 3.2, so that it runs on macOS too.

say() { printf '\n== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# usable PYTHON: does it run (a pyenv shim may not), is it 3.10 or newer?
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# minor PYTHON: prints 3.11
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# interpreter MINOR: prints a working interpreter of that version: from the PATH, else from pyenv's folder; nothing when there is none.
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

# any_interpreter: prints the python3 to use by default, or else the newest that is found.
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
    die "no Python 3.10 or newer was found. Install one and put it on the PATH as python3."
}

# make_venv FOLDER PYTHON: a virtual environment with a pip that knows dependency groups; one that works already is kept.
make_venv() {
    if ! usable "$1/bin/python" || ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$1"
        # Debian has venv without ensurepip unless python3-venv is installed; then the pip that is there puts one in.
        if ! "$2" -m venv "$1" >/dev/null 2>&1; then
            rm -rf "$1"
            "$2" -m venv --without-pip "$1" && "$2" -m pip --python "$1/bin/python" install --quiet pip ||
                die "$2 cannot make a virtual environment. Install its venv module (Debian: apt-get install python3-venv)."
        fi
    fi
    "$1/bin/python" -m pip --version | grep -Eq '^pip (2[6-9]|25\.[1-9]|[3-9][0-9])' || pip_in "$1" install --upgrade 'pip>=25.1'
}

# pip_in VENV ARGUMENTS...
pip_in() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip -qq --disable-pip-version-check "$@"
}

# digest FILE...: one number for what the files contain
digest() { "$VENV/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' "$@"; }

# fresh VENV DIGEST: was the environment filled for just this state of the requirements?
fresh() { [ "$(cat "$1/.installed-for" 2>/dev/null)" = "$2" ]; }
mark() { echo "$2" >"$1/.installed-for"; }
