"""nftables rules through libnftables.

Owns: one libnftables context and the commands run in it (nft(8) syntax, a whole text is one transaction).
Does not own: what the rules say (`runtime.network_rules`), elements on a start's path (`linux.nfnetlink`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno


def preload() -> ctypes.CDLL:
    """Load the library (before a fork: its pages are shared). OSError ENOENT naming the package if it is not there.

    A context is not made here: it holds a netlink socket, which two processes must not share.
    """
    for name in ("libnftables.so.1", ctypes.util.find_library("nftables")):
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(errno.ENOENT, "libnftables.so.1 is not installed (Debian, Ubuntu: libnftables1; Fedora: nftables)")


class Nft:
    """A libnftables context. Bound to the network namespace in which it was made."""

    def __init__(self) -> None:
        library = preload()
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_output_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.ENOMEM, "nft_ctx_new failed")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Nft:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str, *, handles: bool = False) -> str:
        """Carry out nft commands as one transaction and return what they print.

        `handles`: lists show rule handles. OSError EINVAL with the library's own message when they are refused.
        """
        if self._context is None:
            raise OSError(errno.EBADF, "nftables context is closed")
        self._library.nft_ctx_output_set_flags(self._context, 1 << 3 if handles else 0)  # NFT_CTX_OUTPUT_HANDLE
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) != 0:
            message: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b"refused"
            self._library.nft_ctx_get_output_buffer(self._context)
            raise OSError(errno.EINVAL, f"nftables: {message.decode(errors='replace').strip()}")
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        return output.decode(errors="replace")
