# Unpacks the real FTP servers for the tests; sourced by scripts/test after setup.sh.
#
# Their packages conflict with one another, so each is unpacked into a folder of its own and runs
# from there. Only the libraries that they need are installed.
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

# libraries_of FILE...: the libraries that these packages depend on, by their names in this release;
# "a | b" becomes "a|b", the form that install_packages takes.
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
  # apt downloads as the user _apt, which must be able to write here.
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
  # Last, so that a folder with this name is always complete.
  mv "$SERVERS/$name.new" "$SERVERS/$name"
  rm -rf "$work"
}

# The account has no shell and is expired, so every service that asks PAM about the account refuses
# it; the service file for vsftpd does not ask. Password and hash are those of
# tests/support/servers.py, and are used on loopback only.
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

# The tests' certificates are for this name, and a system made by debootstrap has no /etc/hosts.
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
      # The cache may come from another machine, and the libraries may be missing here.
      read -ra libraries <"$SERVERS/$name/.libraries" || true
      install_packages "${libraries[@]}"
    fi
  done
  make_test_user
}
