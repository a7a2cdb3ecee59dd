"""What is imported first, which from Python 3.12 on decides whether grpclib finds the loop that runs under trio."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["service", "session", "servicer", "v1beta1.api_grpc", "dra.service", "dra.v1.api_grpc"]
)
def test_trio_asyncio_comes_before_grpclib_whichever_module_is_asked_for(module: str) -> None:
    seen = "[name for name in sys.modules if name in {'grpclib', 'trio_asyncio'}]"
    program = f"import bitfusiond.plugin.{module}, sys; print({seen})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['trio_asyncio', 'grpclib']\n"
