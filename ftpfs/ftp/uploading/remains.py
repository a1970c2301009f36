"""What an upload that was given up has left under the final name.

The answer to its rename was lost, and the file has other content by now, so the upload is not
resumed. Its temporary file may have the final name; and a small file is measured only after the
rename, so that it may be a torn one. If it were taken for the work of another client, the next
upload would become a conflict copy, and the torn file would keep the name.

Threading: the thread of the next upload of that name only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpfs.ftp.connections.session import Session
from ftpfs.ftp.uploading.checks import Seen, seen_in, size_in
from ftpfs.ftp.uploading.target import Target


@dataclass(frozen=True)
class Remains:
    """A temporary file that may have been renamed, and its size and time (`content`)."""

    temporary: str
    content: Seen

    def look(self, session: Session, target: Target) -> None:
        """See whether a part of that file is under the final name, and note it as torn.

        The temporary name is gone after the rename. A file that is shorter and has its time is a
        part of it, and no work of another client.
        """
        context, ours = target.context, self.content
        reply, *rest = session.exchange([f"SIZE {self.temporary}", *target.questions()])
        if size_in(reply) is not None or reply.code < 500:
            context.temporaries.delete_later(self.temporary)
            return
        context.temporaries.forget(self.temporary)
        seen = seen_in(session, rest)
        if seen.size is None or seen.mtime is None or ours.size is None or ours.mtime is None:
            return
        if seen.size < ours.size and context.profile.setting.is_same_time(seen.mtime, ours.mtime):
            context.torn.note(target.path, seen)
