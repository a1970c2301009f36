"""Private files: they get their mode before their content.

Otherwise a file that others may not read would be readable under its temporary name until its mode
is set. So it is made empty, given its mode, and then written over, because servers keep the mode of
a file that is written over. That costs a second STOR. If a server refuses a step, the file is sent
like any other, and the log warns once.
"""

from __future__ import annotations

from ftpfs import errors
from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.connections.transfers import Upload
from ftpfs.ftp.uploading.attributes import chmod_line
from ftpfs.ftp.uploading.target import Target

# Most servers make files that all users may read. A file whose mode lacks one of these bits is
# private.
PUBLIC = 0o044


def private_mode(target: Target) -> int | None:
    """The mode that the file gets before its content.

    None if the file is not private, or if this folder cannot keep it private.
    """
    mode = target.content.mode()
    if mode is None or mode & PUBLIC == PUBLIC or target.content.whole() == 0:
        return None
    # The file is written once more, so it needs `w` until then.
    return (mode & 0o777) | 0o600 if target.context.folders.keeps_private(target.folder) else None


def upload_privately(
    session: Session, target: Target, path: str, mode: int, ahead: bytes | None = None
) -> Upload:
    """Give the empty file at `path` its mode, and start to send over it.

    If the server reads pipelined commands, both leave together. If not, the data connection is made
    while the server sets the mode.
    """
    profile = target.context.profile
    line = chmod_line(profile, path, mode)
    if profile.identity.in_order or not session.on_long_link:
        upload = session.upload(path, before=[line], ahead=ahead)
        (reply,) = upload.before
    else:
        (reply,) = session.exchange([line], arm=True)
        upload = session.upload(path, ahead=ahead)
    profile.setting.saw_chmod(reply.code, ours=True)
    if not reply.ok:
        why = f"{reply.code} {errors.printable(reply.text)}"
        target.context.folders.cannot_keep_private(target.folder, why)
    return upload
