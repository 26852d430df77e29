# What bin/test and bin/quickstart do first, on a fresh Debian or Ubuntu: install the packages of
# playbooks/hosts/DISTRIBUTION.yaml that are missing, make .venv, install requirements.txt.
# Sourced, from the top of the clone: `set_up` does all of it and nothing that is done already;
# `set_up requirements-test.txt` installs that, too.

set_up() {
    install_packages && make_environment requirements.txt "$@"
}

# The names under `packages:` in the list of this distribution, one a line.
wanted_packages() {
    local id=debian
    [ -r /etc/os-release ] && id=$(. /etc/os-release && echo "$ID")
    [ -r "playbooks/hosts/$id.yaml" ] || id=debian
    packages_in "playbooks/hosts/$id.yaml"
}

packages_in() {
    awk '/^[a-z]/ { listed = ($1 == "packages:") } listed && $1 == "-" { print $2 }' "$1" | sort -u
}

missing_packages() {
    local installed
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
    wanted_packages | grep -vxF "$installed"
}

install_packages() {
    local missing
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "Error: these packages are missing: $missing" >&2
        echo "Try: as root: apt-get install --no-install-recommends $missing" >&2
        return 1
    fi
    echo "== installing $missing"
    (
        without_systemd && keep_services_down
        # The lists of packages are fetched only when what is there will not do.
        # shellcheck disable=SC2086
        apt_get install $missing || { apt_get update && apt_get install $missing; }
    ) || {
        echo "Error: apt-get could not install $missing" >&2
        return 1
    }
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@" >&2
}

without_systemd() {
    ! [ -d /run/systemd/system ]
}

# Without systemd, what a package starts stays for ever and may fail: let none start meanwhile.
keep_services_down() {
    [ -e /usr/sbin/policy-rc.d ] && return
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# .venv with the packages of these files, by the distribution's own Python: another one that is
# first on PATH (pyenv, conda) lacks what apt installed for it.
make_environment() {
    local file stamp wanted
    for file in "$@"; do
        stamp=.venv/$(basename "$file" .txt).sha256
        wanted=$({ /usr/bin/python3 --version && cat "$file"; } | sha256sum)
        [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && continue
        echo "== installing $file into .venv (once; about a minute)"
        if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
            /usr/bin/python3 -m venv --clear .venv || return
        fi
        .venv/bin/python -m pip install -qq --disable-pip-version-check -r "$file" || return
        echo "$wanted" >"$stamp"
    done
}
