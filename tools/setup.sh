#!/bin/sh
# Sets up what a make target needs: `tools/setup.sh run|test|vm`. Costs nothing when it is there already.
#
#   run   the virtual environment with Dockyard itself, and the Debian packages that running needs
#   test  also the development tools and the packages that tests and benches need (Debian's dockerd as the peer)
#   vm    also what makes and runs the virtual machine of `make test-vm`
#
# Debian packages are installed when we are root on Debian or Ubuntu; elsewhere it prints what to install and stops.
set -eu
cd "$(dirname "$0")/.."
goal=${1:-test}

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# -- Debian packages ------------------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }
have_library() { ldconfig -p 2>/dev/null | grep -q "$1" || /sbin/ldconfig -p 2>/dev/null | grep -q "$1"; }

wanted=''
need() { wanted="$wanted $1"; }
have_library libnftables.so.1 || need libnftables1
have_library libseccomp.so.2 || need libseccomp2
[ -x /usr/bin/busybox ] && ! ldd /usr/bin/busybox >/dev/null 2>&1 || need busybox-static
have ip || need iproute2
have ps || need procps
have mount || need mount
if [ "$goal" != run ]; then
    have nft || need nftables
    have iptables || need iptables
    have skopeo || need skopeo
    have dockerd || need docker.io
    have runc || need runc
    have crun || need crun
    have podman && have conmon || need podman # with conmon: 11 MB, 6 s
    have catatonit || need catatonit # podman makes the first container of a pod of it
    have newuidmap || need uidmap
    have mkfs.btrfs || need btrfs-progs
    have mkfs.xfs || need xfsprogs
    have docker-registry || need docker-registry
    have mmdebstrap || need mmdebstrap
    have git || need git
    have ssh-add || need openssh-client
    have gcc && [ -e /usr/include/stdio.h ] || need "gcc libc6-dev" # static programs that tests run in containers
    [ -e /usr/lib/"$(uname -m)"-linux-gnu/rsyslog/lmnsd_gtls.so ] || need "rsyslog rsyslog-gnutls" # 3 MB
    [ -e /usr/libexec/qemu-binfmt ] || have qemu-aarch64-static || need qemu-user-static
fi
if [ "$goal" = vm ]; then
    have qemu-system-x86_64 || need qemu-system-x86
    have cpio || need cpio
    have depmod || need kmod
    have mkfs.ext4 || need e2fsprogs
    have checkpolicy || need checkpolicy
    goal=test # the Python packages are the same
fi

if [ -n "$wanted" ]; then
    if [ "$(id -u)" != 0 ] || ! have apt-get; then
        fail "please install these (names as in Debian), then try again:$wanted"
    fi
    say "apt-get install$wanted"
    # No daemon that comes along may start by itself: dockerd would change the firewall of this machine.
    policy=/usr/sbin/policy-rc.d
    made=''
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=1
        trap 'rm -f "$policy"' EXIT INT TERM
    fi
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $wanted; } >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        fail "apt-get failed (whole log: $log)"
    fi
    rm -f "$log"
    if [ -n "$made" ]; then rm -f "$policy"; trap - EXIT INT TERM; fi
fi

# -- Python ---------------------------------------------------------------------------------------------------------

# A virtual environment of a shim (pyenv, asdf) would break with the shim: take the interpreter behind it.
find_python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        real=$("$candidate" -c 'import sys, venv; sys.version_info >= (3, 11) or sys.exit(1)
print(sys._base_executable or sys.executable)' 2>/dev/null) && [ -x "$real" ] && { echo "$real"; return 0; }
    done
    return 1
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(find_python) || fail "no Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"
    say "virtual environment .venv with $python"
    "$python" -m venv --clear .venv || fail "cannot make .venv (Debian: apt-get install python3-venv)"
fi

stamp=.venv/.stamp-$goal
state="$(cat pyproject.toml tools/setup.sh | cksum) $(pwd)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
    say "Python packages for $goal"
    pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input -qq "$@"; }
    if [ "$goal" = test ]; then
        # --group came with pip 25.1
        .venv/bin/python -c 'import pip; v = pip.__version__.split("."); raise SystemExit((int(v[0]), int(v[1])) < (25, 1))' ||
            pip install --upgrade 'pip>=25.1'
        pip install -e . --group dev
        printf '%s' "$state" >.venv/.stamp-run
    else
        pip install -e .
    fi
    printf '%s' "$state" >"$stamp"
fi
