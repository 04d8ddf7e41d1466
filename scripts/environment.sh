# Sourced by the scripts here: makes and fills the virtual environment .venv (or $POWERINFER_VENV), once.
#   environment EXTRA    EXTRA is "" or an extra of pyproject.toml, or several, as in "test,cluster"

environment() {
    extra=$1
    venv=${POWERINFER_VENV:-.venv}
    stamp=$venv/.installed${extra:+-$extra}
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ ! -x "$venv/bin/python" ]; then
        python=$(suitable_python) || exit 1
        echo "making the virtual environment $venv" >&2
        # Debian's bare Python has venv but not the pip to put into it: the pip outside fills in.
        "$python" -m venv "$venv" >/dev/null 2>&1 || {
            rm -rf "$venv"
            "$python" -m venv --without-pip "$venv" && "$python" -m pip -q --python "$venv/bin/python" install pip
        } || { echo "error: $python cannot make a virtual environment in $venv" >&2; exit 1; }
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing (once) ..." >&2
        # torch first, pinned, and from where its build for this machine is: PyPI's brings gigabytes for a GPU.
        torch_source=$("$venv/bin/python" scripts/torch_source.py) &&
            "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt $torch_source torch >&2 &&
            "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}" >&2 ||
            { echo "error: installation failed; run the script again to go on" >&2; exit 1; }
        echo "$wanted" >"$stamp"
    fi
}

suitable_python() {
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found; set PYTHON to one" >&2
    return 1
}
