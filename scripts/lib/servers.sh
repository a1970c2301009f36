# Puts the real FTP servers for the tests in place; sourced by scripts/test after setup.sh.
#
# Their packages conflict with one another, so each is unpacked into a folder of its own and runs
# from there; nothing of them is installed. Only the libraries they need are.
# shellcheck shell=bash

SERVERS=${FTPFS_TEST_SERVERS:-$CACHE/servers}
TEST_USER=ftpfstest
PAM_FILE=/etc/pam.d/ftpfs-test
# shellcheck disable=SC2016  # no variables
TEST_HASH='$6$rounds=1000$ftpfstest$3rSAqP2.nA1G.JEQPX4ZUgIXwTzGa2P/p8LHzSbzK8zsrYy7fg08e2wpflnvEY1uwT5yhQ6.ApfukdS7F.B4E/'

packages_of() {
  case $1 in
    vsftpd) echo vsftpd ;;
    proftpd) echo proftpd-core proftpd-mod-crypto ;;
    pure-ftpd) echo pure-ftpd pure-ftpd-common ;;
  esac
}

# libraries_of FILE...: the libraries that these packages depend on, whatever this release calls
# them; "a | b" becomes "a|b", as install_packages wants it.
libraries_of() {
  local file
  for file in "$@"; do
    dpkg-deb -f "$file" Depends
  done | tr ',' '\n' | sed -e 's/([^)]*)//g' -e 's/[[:space:]]//g' -e 's/:any//g' |
    grep '^lib' | sort -u
}

unpack_server() {
  local name=$1 work package
  work=$(mktemp -d)
  # apt fetches as the user _apt, who must be able to write here.
  chmod 755 "$work"
  [ "$(id -u)" != 0 ] || ! id _apt >/dev/null 2>&1 || chown _apt "$work"
  for package in $(packages_of "$name"); do
    if ! (cd "$work" && apt-get download -q "$package" >/dev/null 2>&1); then
      # No package list yet, or one older than the mirror.
      apt_refresh
      (cd "$work" && quietly "apt-get download $package" apt-get download -q "$package")
    fi
  done
  local -a libraries
  mapfile -t libraries < <(libraries_of "$work"/*.deb)
  install_packages "${libraries[@]}"
  rm -rf "${SERVERS:?}/$name" "${SERVERS:?}/$name.new"
  mkdir -p "$SERVERS/$name.new"
  for package in "$work"/*.deb; do
    dpkg-deb -x "$package" "$SERVERS/$name.new"
  done
  printf '%s\n' "${libraries[*]}" >"$SERVERS/$name.new/.libraries"
  # Last, so that a folder with the right name is a complete one.
  mv "$SERVERS/$name.new" "$SERVERS/$name"
  rm -rf "$work"
}

# The account has no shell and is expired, which keeps it out of everything that asks PAM whether
# an account is good; the service file for vsftpd does not ask. Password and hash are those of
# tests/support/servers.py, and serve on loopback only.
make_test_user() {
  local stamp="$SERVERS/.user"
  if id "$TEST_USER" >/dev/null 2>&1 && [ -e "$PAM_FILE" ] && [ -r "$stamp" ] &&
    [ "$(<"$stamp")" = "$TEST_HASH" ]; then
    return
  fi
  say "Making the user $TEST_USER for the test servers ..."
  if ! id "$TEST_USER" >/dev/null 2>&1; then
    quietly useradd as_root useradd --system --user-group --no-create-home --home-dir / \
      --shell /usr/sbin/nologin --expiredate 1970-01-02 "$TEST_USER"
  fi
  quietly usermod as_root usermod --password "$TEST_HASH" "$TEST_USER"
  printf '%s\n' '# Made by the tests of ftpfs.' 'auth required pam_unix.so nodelay' \
    'account required pam_permit.so' | as_root tee "$PAM_FILE" >/dev/null
  printf '%s\n' "$TEST_HASH" >"$stamp"
}

# The tests' certificates are for that name, and what debootstrap makes has no /etc/hosts.
require_localhost() {
  getent hosts localhost >/dev/null ||
    printf '127.0.0.1 localhost\n' | as_root tee -a /etc/hosts >/dev/null
}

install_servers() {
  local name
  local -a libraries
  mkdir -p "$SERVERS"
  require_localhost
  for name in vsftpd proftpd pure-ftpd; do
    if [ ! -x "$SERVERS/$name/usr/sbin/$name" ]; then
      say "Unpacking $name for the tests ..."
      unpack_server "$name"
    elif [ -r "$SERVERS/$name/.libraries" ]; then
      # A cache that came from another machine: the libraries may not have come along.
      read -ra libraries <"$SERVERS/$name/.libraries" || true
      install_packages "${libraries[@]}"
    fi
  done
  make_test_user
}
