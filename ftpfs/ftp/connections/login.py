"""How a session connects, starts TLS, logs in, and sets the server up.

Owns the commands between the greeting and a caller's first command, the wording of a refused login,
and what the first session asks about the server. `control` connects and speaks TLS.

**At once.** After an ordinary login has worked, a further session sends USER, PASS, the settings
and the question for a port in one write: 1 round trip instead of 3, and under TLS 1 instead of 5.

Threading: the thread that makes the session.
"""

from __future__ import annotations

import ftplib
import logging
import re
import time

from ftpfs import errors
from ftpfs.ftp import foreign
from ftpfs.ftp.connections.channels import Channels
from ftpfs.ftp.connections.control import Control, Mapped, Reply, login_error, shown_fingerprint
from ftpfs.ftp.connections.conversation import Conversation
from ftpfs.ftp.connections.exchanges import Exchanges
from ftpfs.ftp.connections.replies import features_of, home_in
from ftpfs.ftp.profile import MAX_WELCOME, Profile, features_in
from ftpfs.settings.config import Network, Server, Tls
from ftpfs.settings.credentials import ANONYMOUS

log = logging.getLogger(__name__)

# Servers have no common code for it: 421 (pure-ftpd), 530 (vsftpd), 550 (proftpd, pyftpdlib).
_DEMANDS_TLS = re.compile(
    r"\b(?:TLS|SSL|encryption|cleartext|AUTH first|use AUTH)\b", re.IGNORECASE
)
# No code of its own either: most servers say 421 to that, some 530.
_IS_FULL = re.compile(
    r"\b(?:too many|maximum|max)\b.*\b(?:clients?|connections?|users?|sessions?|logins?)\b",
    re.IGNORECASE,
)
_TAKES_ANONYMOUS_ONLY = re.compile(r"\banonymous (?:logins? |access )?only\b", re.IGNORECASE)


class Login:
    """Brings a new session to the point where it takes commands."""

    def __init__(
        self,
        server: Server,
        network: Network,
        conversation: Conversation,
        channels: Channels,
        exchanges: Exchanges,
    ) -> None:
        self._server = server
        self._network = network
        self._conversation = conversation
        self._channels = channels
        self._exchanges = exchanges
        self._control: Control = conversation.control
        self._profile: Profile = conversation.profile

    def run(self) -> None:
        """Connect, log in, and learn what the server can do.

        Raises UnknownHost, ConnectionRefused, DeadlineExceeded, ConnectionLost, TlsError,
        ServerBusy (421: too many connections), LoginFailed.
        """
        try:
            self._connect()
        except errors.Untrusted as error:
            self._conversation.drop()
            raise errors.Untrusted(f"{error}{self._told_of_certificate()}") from error
        # The greeting tells the server's software, and so its limit.
        self._conversation.line_limit = self._profile.identity.longest_line
        self._conversation.alive = True

    def _connect(self) -> None:
        server, profile = self._server, self._profile
        with Mapped(lambda: self._control.step):
            self._control.open()
        profile.wire.saw_handshake(self._control.handshake)
        if profile.wire.telnet is not None:
            self._control.telnet = profile.wire.telnet
        with Mapped(lambda: f"logging in at {server.host}:{server.port}{self._control.after}"):
            if server.tls in (Tls.EXPLICIT, Tls.OPTIONAL):
                self._control.secure()
            at_once = self._may_log_in_at_once()
            if not at_once:
                self._log_in()
        if at_once:
            self._log_in_at_once()
        else:
            self._look_around()

    # User and password.

    def _log_in(self) -> None:
        name, password = self._credentials()
        self._control.deadline = time.monotonic() + self._network.reply_timeout
        try:
            self._control.login(name, password, secure=False)
        except ftplib.Error as error:
            # A server may quote what we sent; hence `from None`, as a traceback would quote it too.
            reply = str(error).replace(password, "***") if password else str(error)
            if self._server.tls is Tls.OFF and _DEMANDS_TLS.search(reply):
                raise errors.TlsError(
                    f"the server demands TLS (use ftpes:// or ftps://): {errors.printable(reply)}"
                ) from None
            raise self._refused_login(reply) from None
        if self._control.protected:
            self._control.protect_data()
            if self._server.tls_ccc:
                self._end_tls()

    def _end_tls(self) -> None:
        """Send CCC, unless the server is known not to answer it.

        Raises Retreat if it does not: the next login leaves TLS on after a second failure.
        """
        manners = self._profile.wire.manners
        if "CCC" in manners.avoided:
            return
        timeout = self._network.reply_timeout
        if manners.may_be_unknown("CCC"):
            timeout = self._conversation.hearing.optional_timeout()
        try:
            self._control.end_tls(timeout)
        except (OSError, EOFError, ftplib.Error) as error:
            if not manners.may_be_unknown("CCC"):
                raise
            if manners.suspect("CCC"):
                manners.avoid("CCC")
            raise errors.Retreat(f"no answer to CCC: {errors.printable(str(error))}") from error
        manners.saw_answer("CCC")

    def _credentials(self) -> tuple[str, str]:
        """User and password in the server's encoding, as latin-1 text, which ftplib sends as is.

        Replies that quote them come in the same form.
        """
        user, password = self._server.user, self._server.password.reveal()
        if any(c in user + password for c in "\r\n\0"):
            raise errors.InvalidArgument("a user name or password with CR, LF or NUL in it")
        codec = self._server.encoding
        try:
            name = user.encode(codec, "surrogateescape").decode("latin-1")
            return name, password.encode(codec, "surrogateescape").decode("latin-1")
        except UnicodeEncodeError:
            raise errors.InvalidArgument(
                f"a user name or password that {codec} cannot write"
            ) from None

    def _refused_login(self, reply: str) -> errors.FtpfsError:
        """The error for a refused login, with a hint."""
        error = login_error(reply)
        if not isinstance(error, errors.LoginFailed):
            return error
        user, host = errors.printable(self._server.user), self._server.host
        if _IS_FULL.search(reply):
            hint = "the server takes no more connections now: try later, or end others"
            return errors.LoginFailed(f"{error} ({hint})")
        if user in (ANONYMOUS, "ftp"):
            return errors.LoginFailed(
                f"{error} (no anonymous login there: name a user, ftp://NAME@{host})"
            )
        if _TAKES_ANONYMOUS_ONLY.search(reply):
            hint = f"only anonymous logins there: ftp://{ANONYMOUS}@{host}"
            return errors.LoginFailed(f"{error} ({hint})")
        return errors.LoginFailed(f"{error} (logging in as {user}: is the password right?)")

    def _told_of_certificate(self) -> str:
        """The untrusted certificate's fingerprint and how to trust it; at first contact only."""
        if self._profile.known:
            return ""
        shown = shown_fingerprint(self._server, self._network)
        if not shown:
            return ""
        return f"; its SHA-256 is {shown}. If that is the server's own: --tls-fingerprint {shown}"

    # All in one write.

    def _may_log_in_at_once(self) -> bool:
        profile = self._profile
        tried = profile.known and profile.wire.pipelining and profile.wire.takes_login_at_once
        return tried and not self._server.tls_ccc

    def _log_in_at_once(self) -> None:
        """Log in and arm in one write. By then it is known whether the server has TLS.

        Raises as `_log_in` does. Other failures are counted: a firewall may take such a write for
        an attack.
        """
        name, password = self._credentials()
        login = [f"{line}\r\n".encode("latin-1") for line in (f"USER {name}", f"PASS {password}")]
        protection = ["PBSZ 0", "PROT P"] if self._control.protected else []
        way = self._channels.way_to_arm()
        lines = [*protection, *self._settings(), *([way.value] if way else [])]
        wire = [*login, *map(self._conversation.encode, lines)]
        try:
            with self._conversation.talking():
                self._control.send(b"".join(wire))
                replies = self._login_replies(len(wire), len(protection), password)
        except (errors.DeadlineExceeded, errors.ConnectionLost, errors.ProtocolError) as error:
            self._profile.wire.saw_login_at_once_fail(str(error))
            raise errors.ConnectionLost(f"logging in at once: {error}") from error
        self._profile.wire.failed_logins_at_once = 0
        self._conversation.hearing.text_mode = not replies[2 + len(protection)].ok
        if way:
            self._channels.dial_ahead(way, replies[-1])

    def _login_replies(self, count: int, protection: int, password: str) -> list[Reply]:
        """The replies to USER, PASS, the `protection` commands about TLS, and the rest."""
        replies: list[Reply] = []
        for number in range(count):
            reply = self._control.reply(self._network.reply_timeout)
            # If USER alone logs in, servers answer the PASS with all sorts of codes. PROT has to
            # succeed; PBSZ ahead of it, a formality with TLS (RFC 4217, 9), does not.
            wanted = number == 1 and not 200 <= replies[0].code < 300
            wanted = wanted or (protection > 0 and number == 1 + protection)
            if reply.code == 421 or (wanted and not 200 <= reply.code < 300):
                refused = next((r for r in replies if not r.ok), reply)
                quoted = f"{refused.code} {refused.text}"
                # A server may quote what we sent.
                quoted = quoted.replace(password, "***") if password else quoted
                raise self._refused_login(quoted)
            replies.append(reply)
        return replies

    # The settings of a session, and what the server can do.

    def _look_around(self) -> None:
        """Set the session up; a server's first session also asks what the server can do.

        If an earlier mount has learned that, the session only asks FEAT again, together with the
        rest, and compares: two round trips less.
        """
        profile = self._profile
        welcome = self._decode(self._control.welcome or "")
        if profile.known:
            self._set_up()
        elif profile.is_recalled_for(welcome):
            feat, *_ = self._set_up("FEAT")
            if features_in(features_of(feat)) != profile.identity.features:
                log.info("the server's features have changed; asking for all of them again")
                profile.forget()
                self._look_around()
                return
        else:
            if profile.recalled:
                profile.forget()
            profile.identity.welcome = welcome[:MAX_WELCOME]
            (feat,) = self._exchanges.exchange(["FEAT"])
            profile.read_features(features_of(feat))
            (system,) = self._exchanges.exchange(["SYST"])
            profile.identity.system = errors.shortened(system.text) if system.ok else ""
            self._set_up()
        profile.known = True

    def _set_up(self, *first: str) -> list[Reply]:
        """Send the settings of each session after the commands `first`; return all replies.

        The first session also asks for the login folder. A further session was most likely logged
        in for a transfer, so it is armed by the same exchange.
        """
        replies = self._exchanges.exchange([*first, *self._settings()], arm=self._profile.known)
        self._conversation.hearing.text_mode = not replies[len(first)].ok
        if not self._profile.names.home:
            home = self._read_home(replies[-1])
            self._profile.names.foreign = foreign.told_by(home)
            self._profile.names.home = "/" if self._profile.names.foreign else home
        return replies

    def _settings(self) -> list[str]:
        profile = self._profile
        settings = ["TYPE I"]
        if profile.identity.utf8 and self._server.encoding == "utf-8":
            settings.append("OPTS UTF8 ON")
        if profile.identity.mlst_options:
            settings.append(profile.identity.mlst_options)
        if not profile.names.home:
            settings.append("PWD")
        return settings

    def _read_home(self, reply: Reply) -> str:
        if not 200 <= reply.code < 300:
            log.info("no answer to PWD, so the mount begins at the server's root: %s", reply.code)
            return "/"
        text = "\n".join(line[4:] if line[:3].isdigit() else line for line in reply.lines)
        if "vsftpd" in self._profile.identity.welcome.lower():
            # vsftpd doubles byte 255 (Telnet's IAC) in this reply, but in no other reply or
            # command.
            text = text.replace("\xff\xff", "\xff")
        home = home_in(text)
        if not home:
            log.warning(
                "the reply to PWD has no folder, so the mount begins at the server's root: %s",
                errors.printable(text[:200]),
            )
        return self._decode(home) or "/"

    def _decode(self, text: str) -> str:
        return self._conversation.decode(text.encode("latin-1"))
