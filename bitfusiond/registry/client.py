"""An image's configuration, by the OCI distribution API: manifest, for our platform, configuration, each by its digest.

Source: the OCI distribution specification, and the token authentication of github.com/distribution/distribution.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from urllib.parse import urlencode, urljoin

from bitfusiond.core.fields import mapping
from bitfusiond.core.images import manifest
from bitfusiond.core.images.image import Image
from bitfusiond.core.images.pullsecrets import Credentials
from bitfusiond.core.images.reference import Reference, is_digest
from bitfusiond.core.images.registries import Registries
from bitfusiond.registry.wire import Answer, Session, TooLargeError

_TOKEN_LIMIT = 64 * 1024  # bytes of the answer that holds a token
_MOST_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LONGEST_CHALLENGE = 4096  # characters of a header WWW-Authenticate
_PARAMETER = re.compile(r'(?<![A-Za-z_])([A-Za-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_TOKEN = re.compile(r"[!-~]+")

KnownImage = Callable[[str], Image | None]


class DeniedError(Exception):
    """The registry does not show it to us: whether it is there, nobody knows."""


class AbsentError(Exception):
    """The registry has no such image."""


class RegistryError(Exception):
    """The registry answers, and not with what was asked for."""


async def read_image(
    session: Session,
    registries: Registries,
    image: Reference,
    credentials: Sequence[Credentials],
    known: KnownImage,
) -> tuple[str, Image]:
    """The digest of the manifest for our platform, and what its configuration says.

    ``known(digest)`` is what was read of the same repository before. Each of the ``credentials`` is tried, in their
    order; without any the registry is asked as nobody, as the kubelet does. Raises the errors above, those of the
    wire, WrongContentError and NotAllowedError.
    """
    denied = DeniedError()
    tried: Sequence[Credentials | None] = credentials or [None]
    for each in tried:
        try:
            return await _Reader(session, registries, image, each).read(known)
        except DeniedError as error:
            denied = error
    raise denied


class _Reader:
    """Requests about one repository, with the same credentials."""

    def __init__(
        self, session: Session, registries: Registries, image: Reference, credentials: Credentials | None
    ) -> None:
        self._session = session
        self._registries = registries
        self._image = image
        self._credentials = credentials
        self._origin = registries.origin(image.registry, image.api)
        self._authorization: str | None = None

    async def read(self, known: KnownImage) -> tuple[str, Image]:
        digest, data = await self._manifest(self._image.tag_or_digest)
        of_platform, configuration = manifest.chosen(data)
        if of_platform is not None:
            digest = of_platform
            if found := known(digest):
                return digest, found
            data = b""  # nothing of it is kept while another is waited for
            _, data = await self._manifest(digest)
            of_platform, configuration = manifest.chosen(data)
        data = b""
        if configuration is None:
            raise manifest.WrongContentError("the list of manifests leads to another list")
        return digest, known(digest) or manifest.read_config(await self._configuration(configuration))

    async def _manifest(self, asked: str) -> tuple[str, bytes]:
        """Its digest and its bytes, which are what the digest says."""
        answer = await self._get("manifests", asked, manifest.ACCEPT, manifest.MANIFEST_LIMIT, "the manifest")
        said = answer.header("docker-content-digest")
        expected = asked if is_digest(asked) else said if is_digest(said) else None
        if expected is None:
            return f"sha256:{hashlib.sha256(answer.body).hexdigest()}", answer.body
        manifest.check_digest(answer.body, expected, "the manifest")
        return expected, answer.body

    async def _configuration(self, digest: str) -> bytes:
        answer = await self._get("blobs", digest, "*/*", manifest.CONFIG_LIMIT, "the configuration")
        manifest.check_digest(answer.body, digest, "the configuration")
        return answer.body

    async def _get(self, kind: str, what: str, accept: str, limit: int, words: str) -> Answer:
        target = f"/v2/{self._image.repository}/{kind}/{what}"
        try:
            answer = await self._ask(target, accept, limit)
            if answer.status == 401 and self._authorization is None:
                self._authorization = await self._authorize(answer)
                answer = await self._ask(target, accept, limit)
            return self._checked(await self._redirected(answer, target, accept, limit))
        except TooLargeError:
            raise RegistryError(f"{words} has more than {limit} bytes") from None

    async def _ask(self, target: str, accept: str, limit: int) -> Answer:
        headers = {"Accept": accept}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        return await self._session.get(self._origin, target, headers, limit)

    async def _redirected(self, answer: Answer, target: str, accept: str, limit: int) -> Answer:
        """A blob mostly lies in another store. Our authorization is for the registry, and no other gets it."""
        origin, url = self._origin, f"{self._origin.scheme}://{self._origin.authority}{target}"
        for _ in range(_MOST_REDIRECTS):
            location = answer.header("location")
            if answer.status not in _REDIRECTS or location is None:
                return answer
            url = urljoin(url, location)
            origin, target = self._registries.follow(url)
            headers = {"Accept": accept}
            if origin == self._origin and self._authorization is not None:
                headers["Authorization"] = self._authorization
            answer = await self._session.get(origin, target, headers, limit)
        return answer

    def _checked(self, answer: Answer) -> Answer:
        if answer.status == 200:
            return answer
        if answer.status in {401, 403}:
            raise DeniedError
        if answer.status == 404:
            raise AbsentError
        if answer.status in _REDIRECTS:
            raise RegistryError(f"more than {_MOST_REDIRECTS} redirects")
        raise RegistryError(f"HTTP status {answer.status}")

    async def _authorize(self, refusal: Answer) -> str:
        """The value of the header Authorization that the registry wants. Raises DeniedError where we have none."""
        challenges = [value for name, value in refusal.headers if name == "www-authenticate"]
        found = {each.partition(" ")[0].lower(): each for each in reversed(challenges)}
        if "bearer" in found:
            return f"Bearer {await self._token(found['bearer'])}"
        if "basic" in found and self._credentials is not None:
            return f"Basic {self._credentials.basic}"
        raise DeniedError

    async def _token(self, challenge: str) -> str:
        parameters: dict[str, str] = {}
        for name, quoted, plain in _PARAMETER.findall(challenge[:_LONGEST_CHALLENGE]):
            parameters.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
        scope = parameters.get("scope") or f"repository:{self._image.repository}:pull"
        query = {"scope": scope} | ({"service": parameters["service"]} if "service" in parameters else {})
        realm = parameters.get("realm", "")
        origin, target = self._registries.follow(f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}")
        headers = {"Accept": "application/json"}
        if self._credentials is not None:
            headers["Authorization"] = f"Basic {self._credentials.basic}"
        try:
            answer = await self._session.get(origin, target, headers, _TOKEN_LIMIT)
        except TooLargeError:
            raise RegistryError(f"the token of {origin.authority} has more than {_TOKEN_LIMIT} bytes") from None
        if answer.status in {400, 401, 403}:
            raise DeniedError
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            document = None
        for key in ("token", "access_token"):
            token = mapping(document).get(key)
            if isinstance(token, str) and _TOKEN.fullmatch(token):
                return token
        raise RegistryError(f"{origin.authority} gave no token (HTTP status {answer.status})")
