# Prepares a Debian or Ubuntu machine for ftpfs; sourced by scripts/demo, scripts/test and others.
#
# Quick when nothing is missing: apt runs only for packages that dpkg does not list as installed,
# pip only after pyproject.toml has changed.
# shellcheck shell=bash
# shellcheck disable=SC2034  # used by the scripts that source this

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE="$REPO/.cache"
VENV="$REPO/.venv"

# Each word is a package, or alternatives with "|" if releases name it differently.
RUN_PACKAGES="libfuse2t64|libfuse2 fuse3"
TEST_PACKAGES="libfuse3-3|libfuse3-4 rsync git vim-tiny|vim sqlite3 openssl iproute2 systemd man-db procps zsh fish curl"

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# quietly WHAT COMMAND...: run the command, and show its output only if it fails.
quietly() {
  local what=$1 log
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1 </dev/null; then
    rm -f "$log"
  else
    cat "$log" >&2
    rm -f "$log"
    die "$what failed; what it said is above"
  fi
}

# as_root COMMAND...: run the command as root, through sudo if needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "this needs root for \"$1\", and there is no sudo: run it as root, or install sudo"
  fi
}

# missing_packages WORD...: print each word of which no alternative is installed.
missing_packages() {
  local word alternative found known
  # One query for all: each costs 10 ms. A removed package still has a record, hence the status.
  # shellcheck disable=SC2016,SC2048,SC2086  # dpkg's own variables; a list
  known=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' ${*//|/ } 2>/dev/null || true)
  for word in "$@"; do
    found=
    for alternative in ${word//|/ }; do
      case $'\n'"$known"$'\n' in
        *$'\n'"$alternative installed"$'\n'*) found=1 ;;
      esac
    done
    [ -n "$found" ] || printf '%s\n' "$word"
  done
}

APT_FRESH=
apt_refresh() {
  [ -z "$APT_FRESH" ] || return 0
  quietly "apt-get update" as_root apt-get update -q
  APT_FRESH=1
}

# available PACKAGE: whether apt could install it now.
available() {
  # Not through a pipe to `grep -q`: grep closes it early, and with pipefail the pipe then "fails".
  local policy
  policy=$(apt-cache policy "$1" 2>/dev/null)
  [[ $policy == *"Candidate: "[!\(]* ]]
}

need_apt() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "this machine has no apt, and the scripts know no other package manager; wanted: $*"
  fi
}

# install_packages WORD...: install one alternative of each word, if none is installed.
install_packages() {
  local words word alternative choice
  local -a chosen=()
  command -v dpkg-query >/dev/null || need_apt "$@"
  mapfile -t words < <(missing_packages "$@")
  [ "${#words[@]}" -gt 0 ] || return 0
  need_apt "${words[@]}"
  # If sudo asks for a password, let it do so before the progress lines.
  as_root true
  for word in "${words[@]}"; do
    choice=
    for _ in once again; do
      for alternative in ${word//|/ }; do
        if available "$alternative"; then
          choice=$alternative
          break 2
        fi
      done
      apt_refresh
    done
    [ -n "$choice" ] || die "apt knows no package ${word//|/ or }: enable the distribution's main (Ubuntu: and universe) section"
    chosen+=("$choice")
  done
  local list=${chosen[*]}
  say "Installing ${list// /, } ..."
  if ! apt_install "${chosen[@]}" >/dev/null 2>&1; then
    # The usual cause is a package list older than the mirror.
    apt_refresh
    quietly "apt-get install" apt_install "${chosen[@]}"
  fi
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "$@" </dev/null
}

require_fuse_device() {
  [ -e /dev/fuse ] ||
    die "there is no /dev/fuse: load it with \"modprobe fuse\", or start the container with --device /dev/fuse --cap-add SYS_ADMIN"
  # fusermount reads it to see what it may unmount; the smallest Debian images lack it.
  [ -e /etc/mtab ] || as_root ln -s ../proc/self/mounts /etc/mtab
}

# find_python: print the first Python that is new enough, or end with an error.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  die "no Python 3.10 or newer: install it (apt-get install python3), or name one in PYTHON=..."
}

# make_venv EXTRA: make .venv with ftpfs in it; EXTRA is "" for use, "dev" for development.
make_venv() {
  local extra=$1 stamp="$VENV/.ftpfs-setup" now have=
  now=$(sha256sum <"$REPO/pyproject.toml")
  [ ! -r "$stamp" ] || have=$(<"$stamp")
  # A .venv for development also has everything that the demo needs.
  if [ -x "$VENV/bin/ftpfs" ] && "$VENV/bin/python" -c '' 2>/dev/null; then
    case $have in
      "$now $extra" | "$now dev") return ;;
    esac
    # After a change of requirements, a .venv for development must keep its tools.
    case $have in
      *" dev") extra=dev ;;
    esac
  fi
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    local python version
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
      install_packages "$version-venv|python3-venv"
    fi
    say "Making .venv ..."
    # Clears the remains of a removed interpreter.
    quietly "python -m venv" "$python" -m venv --clear "$VENV"
  fi
  say "Installing ftpfs into .venv ..."
  quietly "pip install" env PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$VENV/bin/python" -m pip install -q -e "$REPO${extra:+[$extra]}"
  printf '%s\n' "$now $extra" >"$stamp"
}
