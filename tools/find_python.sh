#!/bin/sh
# Prints the path of a Python 3.10, 3.11 or 3.12 that can make a virtual environment.
# Every candidate is really run: a name on the PATH (a pyenv shim, the Windows store's stub) may
# be there and not work. PYTHON=... in the environment is the only candidate then.
# Prints nothing and fails when there is none, after saying what was found and what to install.

probe='
import os, sys
name = "Python %d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    print("too", name, "is", "too old" if sys.version_info < (3, 10) else "too new")
elif sys.maxsize < 2**32:
    print("too", name, "is a 32-bit build")
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("too", name, "lacks venv (Debian, Ubuntu: apt install python3-venv)")
        sys.exit()
    # Inside an active environment its base is wanted: .venv itself may be about to be remade.
    base = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
    print("fit", base if sys.prefix != sys.base_prefix and os.path.exists(base) else sys.executable)
'

found=''
try() {
    command -v "$1" >/dev/null 2>&1 || return 1
    answer=$("$1" -I -c "$probe" 2>/dev/null </dev/null) || answer='too it does not run'
    case $answer in
        'fit '*) printf '%s\n' "${answer#fit }"; exit 0 ;;
        *) found="$found
  $1: ${answer#too }" ;;
    esac
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON" || found="$found
  $PYTHON: there is no such program"
else
    for candidate in python3.11 python3.12 python3.10 python3 python; do try "$candidate"; done
    if command -v uv >/dev/null 2>&1; then
        range='>=3.10,<3.13'
        python=$(uv python find --no-project "$range" 2>/dev/null) && try "$python"
        echo 'No Python 3.10 to 3.12 on the PATH: asking uv for Python 3.11.' >&2
        uv python install 3.11 >&2 &&
            python=$(uv python find --no-project "$range" 2>/dev/null) && try "$python"
    fi
fi

cat >&2 <<END
No fitting Python: the workshop needs Python 3.10, 3.11 or 3.12 (64 bit) with venv.
Found:${found:- nothing}
Install one, then run the same command again:
  Debian, Ubuntu   apt install python3 python3-venv
  Fedora           dnf install python3.12
  macOS            brew install python@3.12
  any system       uv python install 3.12, or conda: see environment.yml
Or name one: make setup PYTHON=/path/to/python3.11
END
exit 1
