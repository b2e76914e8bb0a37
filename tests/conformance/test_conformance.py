"""The official suite of opencontainers/distribution-spec against the local registry (make conformance).

Its reports stay in build/conformance/<run>/: report.html, junit.xml and results.yaml. "stable" is the newest release of
the specification, "dev" its main branch.
"""

import os
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.processes import Server
from tests.clients.target import ROOT, WRITER, Registry, local_runtime

PROGRAM = ROOT / "build/go/bin/conformance"
REPORTS = ROOT / "build/conformance"
SECONDS = 300  # a run takes 20
# The one test that may be skipped: mounting without a source repository, which the specification lets a registry answer
# with 202, as ours does.
ANONYMOUS_MOUNT = "/blob-mount-anonymous"
SETTINGS = {"stable": {}, "dev": {}, "sparse": {"SPARSE_MANIFESTS": "true"}}


@pytest.fixture(params=SETTINGS)
def run(request: pytest.FixtureRequest) -> str:
    """Return each run's name."""
    return str(request.param)


@pytest.fixture
def registry(run: str, tmp_path: Path) -> Iterator[tuple[Server, Registry]]:
    """Return a registry with an empty bucket and the settings of the run."""
    with local_runtime(tmp_path / "bucket", **SETTINGS[run]) as started:
        yield started


def test_conformance(run: str, registry: tuple[Server, Registry]) -> None:
    """Nothing fails; nothing is skipped but what is named above."""
    server, where = registry
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OCI_")},
        "OCI_VERSION": "stable" if run == "stable" else "dev",
        "OCI_DATA_SPARSE": str(run == "sparse").lower(),
        # What is off by default for the stable version: all workflows are on.
        "OCI_API_BLOBS_UPLOAD_CANCEL": "true",
        "OCI_API_BLOBS_DIGEST_HEADER": "true",
        "OCI_API_MANIFESTS_DIGEST_HEADER": "true",
        "OCI_API_MANIFESTS_TAG_PARAM": "true",
        "OCI_REGISTRY": where.host,
        "OCI_TLS": "disabled",
        "OCI_USERNAME": WRITER.name,
        "OCI_PASSWORD": WRITER.password,
        "OCI_RESULTS_DIR": str(REPORTS / run),
        "OCI_LOG": "error",
    }
    assert PROGRAM.exists(), f"{PROGRAM} is missing: make conformance builds it"
    result = subprocess.run(
        [str(PROGRAM)], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    cases = list(ET.parse(REPORTS / run / "junit.xml").getroot().iter("testcase"))
    outcomes = Counter(case.get("status") for case in cases)
    print(f"{run}: {len(cases)} tests, {dict(outcomes)}")
    assert result.returncode == 0, result.stdout[-5_000:] + result.stderr + server.output()
    assert outcomes["passed"] > 500
    assert set(outcomes) <= {"passed", "skipped"}
    skipped = [str(case.get("name")) for case in cases if case.get("status") == "skipped"]
    assert [name for name in skipped if not name.endswith(ANONYMOUS_MOUNT)] == []
