"""WWW-Authenticate headers of other registries: `registry.spec.challenges`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.spec.challenges import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="here"', [("basic", {"realm": "here"})]),
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"',
            [("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"})],
        ),
        (
            'BEARER Realm = "https://a/t?x=1,2&y" , scope=""',
            [("bearer", {"realm": "https://a/t?x=1,2&y", "scope": ""})],
        ),
        ("Bearer realm=https://a/t?x=1,service=plain", [("bearer", {"realm": "https://a/t?x=1", "service": "plain"})]),
        (r'Basic realm="a \"quoted\" \\ word"', [("basic", {"realm": r'a "quoted" \ word'})]),
        (
            'Negotiate, Basic realm="a", Bearer realm="b",error="invalid_token"',
            [("negotiate", {}), ("basic", {"realm": "a"}), ("bearer", {"realm": "b", "error": "invalid_token"})],
        ),
        ('Bearer realm="first",realm="second"', [("bearer", {"realm": "first"})]),
        ('Bearer realm="never ends', [("bearer", {})]),
        ("realm=nobody's", []),
        ('=, Bearer realm="a"', []),
    ],
)
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Quoted and unquoted values, one challenge and several, well-formed and malformed."""
    assert parse_challenges(header) == [Challenge(scheme, parameters) for scheme, parameters in expected]


@given(st.text(alphabet='aB=," \\\t1-é', max_size=30))
def test_any_header(header: str) -> None:
    """No header raises an error."""
    parse_challenges(header)


@given(st.dictionaries(st.sampled_from(["realm", "service", "scope", "error"]), st.text(max_size=10), min_size=1))
def test_quoted_values_are_read_back(parameters: dict[str, str]) -> None:
    """Values quoted as in the RFC are parsed to the original values."""
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in parameters.items()}
    header = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in quoted.items())
    assert parse_challenges(header) == [Challenge("bearer", parameters)]
