# shellcheck shell=bash
# For sourcing by deploy/quickstart, tests/run and .ci/run: finds the toolchain and what else a build and its tests need.

# need COMMAND PACKAGE...: installs Debian's packages when the command is not there.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    command -v apt-get >/dev/null || { echo "$command is needed; please install it" >&2; return 1; }
    ((EUID == 0)) || { echo "$command is needed: sudo apt-get install $*" >&2; return 1; }
    echo "installing $*" >&2
    # The lists may be old, or were deleted to make an image small.
    apt_install "$@" >/dev/null 2>&1 && return
    apt-get -qq -o DPkg::Lock::Timeout=300 update >&2
    apt_install "$@" >/dev/null
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends "$@"
}

# Puts a cargo that works on PATH. With HOME somewhere else than where Rust was installed, cargo is not on PATH, or is
# rustup's and finds no toolchain.
find_rust() {
    local home dir
    cargo --version >/dev/null 2>&1 && return
    home=$(getent passwd "$(id -u)" | cut -d: -f6)
    for dir in ${CARGO_HOME:+"$CARGO_HOME/bin"} "${HOME:-$home}/.cargo/bin" "$home/.cargo/bin" /usr/local/cargo/bin; do
        [[ -x $dir/cargo ]] || continue
        PATH=$dir:$PATH
        cargo --version >/dev/null 2>&1 && return
        for rustup in "${dir%/.cargo/bin}/.rustup" /usr/local/rustup; do
            if [[ -d $rustup ]] && RUSTUP_HOME=$rustup cargo --version >/dev/null 2>&1; then
                export RUSTUP_HOME=$rustup
                return
            fi
        done
    done
    echo "there is no cargo on PATH, in CARGO_HOME or in $home/.cargo; install Rust 1.95 or newer" >&2
    return 1
}

# What every build needs beside Rust: a linker, and a C compiler for SQLite.
prepare_build() {
    find_rust
    need cc gcc libc6-dev
    export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
}
