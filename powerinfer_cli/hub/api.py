"""What the hub says: the files of a repository, their bytes, and its refusals as one clear line each.

The one module that calls huggingface_hub. Its own downloads are not used: since 1.16 or so they write to a temporary
file of a random name that is deleted on failure, so that nothing can ever be resumed, and they check no sha256.
"""

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from powerinfer_cli import __version__
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.hub.choice import is_safe
from powerinfer_cli.printable import printable

__all__ = ["Hub", "HubUnreachable", "Listing", "RemoteFile"]

DEFAULT_REVISION = "main"
_ANSWER_SECONDS = 30.0
# Too busy, or a gateway's trouble: worth another try. The rest of 4xx and 5xx is an answer.
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}
_TOKEN_HELP = "give a token (`hf auth login`, HF_TOKEN or --token)"


class HubUnreachable(PowerInferError):
    """No answer, or half of one: trying again later may help, and files that are already here can still be used."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: `size` in bytes, `sha256` in hex (LFS files only), `blob_id` git's or the ETag."""

    path: str
    size: int | None
    sha256: str | None = None
    blob_id: str | None = None

    @property
    def identity(self) -> str:
        """Changes when the content does; "" when the hub tells nothing."""
        return self.sha256 or self.blob_id or ""


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. `unsafe`: names that were left out because they could point anywhere."""

    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    unsafe: tuple[str, ...] = ()


class Hub:
    """The hub at HF_ENDPOINT, asked with `token`, else with the saved login or HF_TOKEN."""

    def __init__(self, token: str | None = None) -> None:
        _check_endpoint(os.environ.get("HF_ENDPOINT"))
        try:
            from huggingface_hub import get_token
        except ValueError as error:
            raise PowerInferError(f"huggingface_hub does not take one of your HF_ variables: {error}") from error
        used = get_token() if token is None else token
        if used is not None and not re.fullmatch(r"[!-~]+", used):
            raise UsageError("the token (--token, HF_TOKEN or saved) holds characters that no token has: copy it again")
        self.token = token

    def listing(self, repo: str, revision: str | None) -> Listing:
        """The files of `repo` at `revision`, None being its default branch."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with self._errors(repo, revision):
            api = HfApi(token=self.token, library_name="powerinfer", library_version=__version__)
            info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS)
            commit = info.sha or revision or DEFAULT_REVISION
            # The hub cuts the siblings of very large repositories off; the tree is paged.
            files = [_remote(s.rfilename, s.size, s.lfs, s.blob_id) for s in info.siblings or ()]
            if not files:
                tree = api.list_repo_tree(repo, recursive=True, revision=commit)
                files = [_remote(f.path, f.size, f.lfs, f.blob_id) for f in tree if isinstance(f, RepoFile)]
            return Listing(
                repo,
                revision or DEFAULT_REVISION,
                str(commit),
                tuple(file for file in files if is_safe(file.path)),
                tuple(file.path for file in files if not is_safe(file.path)),
            )

    def described(self, listing: Listing, file: RemoteFile) -> RemoteFile:
        """`file` with its size, asked for by itself where the listing does not tell (mirrors of the hub)."""
        if file.size is not None:
            return file
        from huggingface_hub import get_hf_file_metadata

        with self._errors(listing.repo, listing.revision):
            url = self._url(listing, file)
            found = get_hf_file_metadata(url, token=self.token, timeout=_ANSWER_SECONDS)
        if _count(found.size) is None:
            raise PowerInferError(f"the hub does not tell how large {file.path} of {listing.repo} is")
        sha256 = _sha256(found.etag)
        return replace(file, size=found.size, sha256=sha256, blob_id=file.blob_id or found.etag)

    def read(
        self, listing: Listing, file: RemoteFile, start: int, stop: int
    ) -> Generator[tuple[int, bytes], None, None]:
        """(offset, bytes) pairs from `start` until `stop`, or from 0 again when the server knows no ranges."""
        from huggingface_hub import constants, get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # not in its stubs

        with self._errors(listing.repo, listing.revision):
            headers = build_hf_headers(token=self.token, library_name="powerinfer", library_version=__version__)
            headers["Accept-Encoding"] = "identity"
            if start or stop != file.size:
                headers["Range"] = f"bytes={start}-{stop - 1}"
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            with get_session().stream("GET", self._url(listing, file), headers=headers, timeout=timeout) as response:
                hf_raise_for_status(response)
                offset = _offset(response, start)
                for chunk in response.iter_bytes():
                    yield offset, chunk
                    offset += len(chunk)

    @staticmethod
    def _url(listing: Listing, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(listing.repo, file.path, revision=listing.commit)

    @contextmanager
    def _errors(self, repo: str, revision: str | None) -> Iterator[None]:
        try:
            yield
        except PowerInferError:
            raise
        except Exception as error:
            # Everything: what answers may be a hotel's login page, and the libraries below raise ValueError,
            # KeyError, AttributeError or their own exceptions on an answer that is no hub's.
            raise _explained(error, repo, revision, self.token) from error


def _check_endpoint(endpoint: str | None) -> None:
    # huggingface_hub takes any text, and fails at its import or in each request.
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise PowerInferError(f"HF_ENDPOINT is {endpoint!r}: it should be an address such as https://huggingface.co")


def _remote(path: Any, size: Any, lfs: Any, blob_id: Any) -> RemoteFile:
    if lfs:
        return RemoteFile(str(path), _count(lfs.size), _sha256(lfs.sha256), str(blob_id) if blob_id else None)
    return RemoteFile(str(path), _count(size), None, str(blob_id) if blob_id else None)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def _sha256(value: object) -> str | None:
    text = str(value).lower()
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _offset(response: Any, start: int) -> int:
    """Where the body of an answer begins in the file (RFC 9110: 206 names its range, 200 is the whole)."""
    if response.status_code != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not match or int(match[1]) != start:
        raise PowerInferError(f"the server answered with another range than bytes {start}- : try again later")
    return start


def _explained(error: Exception, repo: str, revision: str | None, token: str | None) -> PowerInferError:
    """One line that says what is wrong and what to do, for whatever a request to the hub raised."""
    from huggingface_hub import constants, errors, get_token

    hub = constants.ENDPOINT
    # huggingface_hub has changed its HTTP library between releases; its own error derives from that library's base.
    no_answer = (errors.HfHubHTTPError.__mro__[1], ConnectionError, TimeoutError)
    match error:
        case errors.OfflineModeIsEnabled():
            said: PowerInferError = HubUnreachable(f"cannot look up {repo}: offline mode is on (HF_HUB_OFFLINE)")
        case errors.HFValidationError():
            said = PowerInferError(f"{repo!r} is no repository name: it should read OWNER/NAME")
        case errors.GatedRepoError() if token or get_token():
            said = PowerInferError(f"{repo} is gated and your token has no access: accept its terms at {hub}/{repo}")
        case errors.GatedRepoError():
            said = PowerInferError(f"{repo} is gated: accept its terms at {hub}/{repo}, then {_TOKEN_HELP}")
        case errors.RepositoryNotFoundError():
            said = PowerInferError(f"{hub} has no {repo}, or it is private: check the name, or {_TOKEN_HELP}")
        case errors.RevisionNotFoundError():
            said = PowerInferError(f"{repo} has no revision {revision or DEFAULT_REVISION!r}: check --revision")
        case errors.HfHubHTTPError():
            said = _refused(error.response.status_code, error, repo)
        case _ if isinstance(error, no_answer):
            reason = _one_line(error) or type(error).__name__
            said = HubUnreachable(f"cannot reach {hub} ({reason}): check the connection")
        case _:
            what = type(error).__name__
            said = PowerInferError(f"{hub} does not answer as a hub does ({what}): check HF_ENDPOINT and the proxy")
    return said


def _refused(status: int, error: Any, repo: str) -> PowerInferError:
    if status in _TRY_AGAIN:
        return HubUnreachable(f"the hub is in trouble or busy (status {status}): try again later")
    if status == 401:
        return PowerInferError(f"the hub does not accept this token for {repo}: {_TOKEN_HELP}")
    said = _one_line(error.server_message or "")
    return PowerInferError(f"the hub refuses {repo} with status {status}" + (f": {said}" if said else ""))


def _one_line(error: object) -> str:
    text = re.sub(r"Bearer\s+\S+", "Bearer ***", str(error))
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    return printable(lines[0].strip()[:200])
