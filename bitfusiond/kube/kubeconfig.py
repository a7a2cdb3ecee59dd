"""Where the API server is and who we are to it: from a kubeconfig, or from what the kubelet gives every pod.

The reading is the kubernetes package's own; here is what it leaves out: errors that name the option and the file,
certificates looked at before the first request needs them, and no credential in any message.
"""

from __future__ import annotations

import os
import re
import ssl
import warnings
from collections.abc import Mapping
from urllib.parse import urlsplit

import urllib3
import yaml
from kubernetes.client.configuration import Configuration
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import SERVICE_CERT_FILENAME, SERVICE_TOKEN_FILENAME, InClusterConfigLoader
from kubernetes.config.kube_config import load_kube_config
from urllib3.util.ssl_ import create_urllib3_context

from bitfusiond import logs
from bitfusiond.core.text import one_line
from bitfusiond.errors import ConfigurationError

_log = logs.Log("kubeconfig")

# A file that has not the shape of a kubeconfig makes the kubernetes package fail in any of these ways.
_UNUSABLE = (
    ConfigException,
    yaml.YAMLError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    RecursionError,
)


def load(
    kubeconfig: str | None,
    environment: Mapping[str, str] = os.environ,
    token_file: str = SERVICE_TOKEN_FILENAME,
    ca_file: str = SERVICE_CERT_FILENAME,
) -> Configuration:
    """The client configuration of ``kubeconfig``; without it the pod's own, else that of ``$KUBECONFIG``.

    Makes no connection. Raises ConfigurationError that says what is wrong with which file.
    """
    if kubeconfig is not None:
        return _from_file(kubeconfig, f"--kubeconfig: {kubeconfig!r}")
    configuration = _new()
    try:
        loader = InClusterConfigLoader(token_file, ca_file, environ=environment)  # type: ignore[no-untyped-call]
        loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
        tls_context(configuration)
    except (ConfigException, OSError, ValueError) as error:
        variable = environment.get("KUBECONFIG")
        if variable:
            return _from_file(variable, f"KUBECONFIG: {variable!r}")
        raise ConfigurationError(
            f"--kubeconfig is not given, and neither is this a pod with a service account ({_words(error)}) nor is "
            "KUBECONFIG set: name a kubeconfig, or none to serve without a cluster"
        ) from None
    return configuration


def tls_context(configuration: Configuration) -> ssl.SSLContext:
    """For connections to the API server: its CA, and our client certificate where there is one.

    Raises OSError and ValueError for files that are no certificates.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE)
    # Python 3.13 began to refuse certificates without an authority key identifier, and with it the certificates that
    # many clusters made for their API servers.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.ssl_ca_cert:
        context.load_verify_locations(configuration.ssl_ca_cert)
    else:
        context.load_default_certs()
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _from_file(path: str, origin: str) -> Configuration:
    """The configuration of a kubeconfig; ``origin`` names it in messages. Raises ConfigurationError."""
    configuration = _new()
    # The kubernetes package passes over files that are not there, as kubectl does for a list of them.
    if not any(os.path.exists(os.path.expanduser(each)) for each in path.split(os.pathsep)):  # noqa: PTH110, PTH111
        raise ConfigurationError(f"{origin}: no such file")
    try:
        load_kube_config(  # type: ignore[no-untyped-call]
            path, client_configuration=configuration, persist_config=False
        )
    except _UNUSABLE as error:
        raise ConfigurationError(f"{origin} is not a usable kubeconfig: {_words(error)}") from None
    server = urlsplit(configuration.host or "")
    if server.scheme not in {"http", "https"} or not server.hostname:
        raise ConfigurationError(f"{origin}: clusters[].cluster.server is {configuration.host!r}, not an https:// URL")
    try:
        tls_context(configuration)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{origin}: its certificates cannot be used: {_words(error)}") from None
    if not configuration.verify_ssl:
        # urllib3 would say so for each request, in a form of its own.
        warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
        _log.warning("the API server's certificate is not checked", kubeconfig=path)
    return configuration


def _new() -> Configuration:
    """An empty configuration with our ways of retrying and of keeping connections."""
    configuration = Configuration(host="")
    # urllib3 would try again at once, three times, and log each: callers have a back-off of their own.
    configuration.retries = False
    # As many watches as there are, and urllib3 warns for each connection that it does not keep.
    configuration.connection_pool_maxsize = 64
    return configuration


def _words(error: BaseException) -> str:
    """One line. The kubernetes package quotes whole entries of a kubeconfig, tokens and keys among them: cut out."""
    return re.sub(r"\{.*\}", "...", one_line(str(error))) or type(error).__name__
