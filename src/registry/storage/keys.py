"""The keys of all objects in the bucket: this module alone builds and parses them.

Keys that serverless-registry (SR) and this registry (ours) have in common::

    <name>/manifests/<digest>             the manifest's bytes, content type, R2 checksum
    <name>/manifests/<tag>                a copy of the manifest: one get answers a pull by tag;
                                          only ours, at a digest or a tag: an empty tombstone after a deletion
    <name>/blobs/<digest>                 a blob below LARGE_BLOB: its bytes, R2 checksum;
                                          a larger blob: a link of ours (metadata target, ref, size);
                                          from SR also: any blob's bytes, or a link (metadata
                                          X-Serverless-Registry-Symlink: the repository that has the bytes)
    <name>/_referrers/<subject>/<digest>  descriptor JSON

Keys that only this registry has::

    <name>/_referrers/<subject>/<subject> a copy of an upstream's list (`registry.upstream.referrers`). No manifest is
                                          its own subject; it is collected when the subject is gone
    _data/<random id>                     a large blob's bytes: written once, never replaced, in no repository
    _refs/<random id>/<nonce>/<name>      a ref: "a link of <name> leads to _data/<random id>"; written before that
                                          link; its metadata has the digest, which gives the link's key
    _refs/<random id>/!condemned          "_data/<random id> is being deleted"
    <name>/uploads/<session>/<start>      an entry of an upload session's log (`registry.uploads.log`)
    _registry/session-secret              the secret that all signing keys derive from (`registry.access.signing_key`)
    _registry/format                      "the bucket is in this registry's format": nothing is left to migrate
    _registry/migration                   the progress of the migration
    <name>/_gc                            the register of garbage collection (`registry.content.gc_register`)
    _registry/cron                        the progress of the cron trigger's clean-up (`registry.upkeep.cron`)

No repository name begins with "_", but names may contain "blobs", "manifests" and "uploads" as segments. So a key is
parsed as a prefix and exactly one validated last part, never split at a word.
"""

from registry.spec.errors import RegistryError
from registry.spec.names import Digest, Reference, RepositoryName, parse_digest, parse_name

SIGNING_KEY = "_registry/session-secret"
FORMAT = "_registry/format"
MIGRATION = "_registry/migration"
CRON = "_registry/cron"
DATA = "_data/"
REFS = "_refs/"
# The start of all keys that belong to no repository; no repository name starts with it.
OURS = "_"
# The folders of a repository, and its register.
REPOSITORY_FOLDERS = frozenset({"_referrers", "blobs", "manifests", "uploads"})
REGISTER = "_gc"

# Digits of a start offset in a key, so that keys sort like numbers. An R2 object has far fewer than 10^16 bytes.
_OFFSET_DIGITS = 16


def folder(name: RepositoryName, kind: str) -> str:
    """The prefix of one of REPOSITORY_FOLDERS."""
    return f"{name}/{kind}/"


def blobs(name: RepositoryName) -> str:
    """The prefix of a repository's blobs."""
    return f"{name}/blobs/"


def just_before(key: str) -> str:
    """The `start_after` of a listing that begins with `key`, which ends in a hex digit. No key sorts between them."""
    return key[:-1] + chr(ord(key[-1]) - 1) + "~"


def behind(folder: str) -> str:
    """The `start_after` of a listing that skips all keys in `folder`, which ends with "/"."""
    return folder[:-1] + chr(ord("/") + 1)


def blob(name: RepositoryName, digest: Digest) -> str:
    """A blob of a repository: its bytes, or a link to them."""
    return f"{blobs(name)}{digest}"


def manifest(name: RepositoryName, reference: Reference) -> str:
    """A manifest at its digest, or its copy at a tag."""
    return f"{manifests(name)}{reference}"


def manifests(name: RepositoryName) -> str:
    """The prefix of a repository's manifests. Their last parts are tags, and digests, which contain a ":"."""
    return f"{name}/manifests/"


def referrers(name: RepositoryName, subject: Digest) -> str:
    """The prefix of the descriptors of all manifests whose subject is `subject`."""
    return f"{name}/_referrers/{subject}/"


def referrer(name: RepositoryName, subject: Digest, digest: Digest) -> str:
    """The descriptor of the manifest `digest`, whose subject is `subject`."""
    return f"{referrers(name, subject)}{digest}"


def copied_referrers(name: RepositoryName, subject: Digest) -> str:
    """The copy of what an upstream has among the referrers of `subject`."""
    return referrer(name, subject, subject)


def data(data_id: str) -> str:
    """The bytes of a large blob."""
    return f"_data/{data_id}"


def ref(data_id: str, nonce: str, name: RepositoryName) -> str:
    """The ref that keeps `data(data_id)` from deletion for one link of `name`."""
    return f"{refs(data_id)}{nonce}/{name}"


def refs(data_id: str) -> str:
    """The prefix of the refs and the condemned marker of a data object."""
    return f"_refs/{data_id}/"


def condemned(data_id: str) -> str:
    """The marker of a data object that is being deleted; it sorts before every ref."""
    return f"{refs(data_id)}!condemned"


def gc_register(name: RepositoryName) -> str:
    """The garbage collection register of a repository."""
    return f"{name}/{REGISTER}"


def log(name: RepositoryName, session: str) -> str:
    """The prefix of an upload session's log; `session` is the UUID in the session id."""
    return f"{name}/uploads/{session}/"


def log_entry(name: RepositoryName, session: str, start: int) -> str:
    """The entry of the chunk that begins at offset `start` (bytes)."""
    return f"{log(name, session)}{start:0{_OFFSET_DIGITS}}"


def log_entry_start(prefix: str, key: str) -> int | None:
    """The offset in a key below `log(...)`; None for the state of a session of serverless-registry."""
    rest = key.removeprefix(prefix)
    return int(rest) if len(rest) == _OFFSET_DIGITS and rest.isascii() and rest.isdigit() else None


def parse_blob(key: str) -> tuple[RepositoryName, Digest] | None:
    """The repository and digest of a key that `blob` makes; None for any other key."""
    return _parse(key, "/blobs")


def parse_manifest_digest(key: str) -> tuple[RepositoryName, Digest] | None:
    """The repository and digest of a key that `manifest` makes for a digest; None for any other key, tags included."""
    return _parse(key, "/manifests")


def _parse(key: str, kind: str) -> tuple[RepositoryName, Digest] | None:
    prefix, _, last = key.rpartition("/")
    if not prefix.endswith(kind):
        return None
    try:
        return parse_name(prefix.removesuffix(kind)), parse_digest(last)
    except RegistryError:
        return None
