"""Every key in the bucket, in both directions. No other module writes or reads one.

Written by SR and by us, read the same::

    <name>/manifests/<digest>             the manifest's bytes, content type, R2 checksum
    <name>/manifests/<tag>                the same bytes again: one get answers a pull by tag;
                                          ours at either: an empty tombstone, where one was deleted
    <name>/blobs/<digest>                 a blob below LARGE_BLOB: its bytes, R2 checksum;
                                          a larger one: a link of ours (metadata target, ref, size);
                                          from SR also: any blob's bytes, or a link (metadata
                                          X-Serverless-Registry-Symlink: the repository that has the bytes)
    <name>/_referrers/<subject>/<digest>  descriptor JSON

Ours alone::

    <name>/_referrers/<subject>/<subject> a copy of an upstream's list (`registry.upstream.referrers`). No manifest is
                                          its own subject; it is collected when the subject is gone
    _data/<random id>                     a large blob's bytes: written once, never replaced, of no repository
    _refs/<random id>/<nonce>/<name>      "a link of <name> leads to _data/<random id>": written before that link;
                                          its metadata has the digest, by which the link is found
    _refs/<random id>/!condemned          "_data/<random id> is being deleted"
    <name>/uploads/<session>/<start>      an entry of an upload session's log (`registry.uploads.log`)
    _registry/session-secret              the secret behind every key that signs (`registry.access.signing_key`)
    _registry/format                      the bucket is in our format: nothing of SR's is left to migrate
    _registry/migration                   how far the migration is
    <name>/_gc                            the register of garbage collection (`registry.content.gc_register`)
    _registry/cron                        how far the clean-up that runs by itself is (`registry.upkeep.cron`)

No repository name begins with "_", and names may contain "blobs", "manifests" and "uploads" as segments: a key is
read as prefix and exactly one checked last part, never by splitting at a word.
"""

from registry.spec.errors import RegistryError
from registry.spec.names import Digest, Reference, RepositoryName, parse_digest, parse_name

SIGNING_KEY = "_registry/session-secret"
FORMAT = "_registry/format"
MIGRATION = "_registry/migration"
CRON = "_registry/cron"
DATA = "_data/"
REFS = "_refs/"
# Everything that belongs to no repository begins so, and no repository name does.
OURS = "_"
# The folders of a repository, and its register.
REPOSITORY_FOLDERS = frozenset({"_referrers", "blobs", "manifests", "uploads"})
REGISTER = "_gc"

# Digits of a start offset in a key, so that keys sort as numbers do: 10^16 bytes are more than an R2 object can have.
_OFFSET_DIGITS = 16


def folder(name: RepositoryName, kind: str) -> str:
    """The prefix of one of REPOSITORY_FOLDERS."""
    return f"{name}/{kind}/"


def blobs(name: RepositoryName) -> str:
    """The prefix of a repository's blobs."""
    return f"{name}/blobs/"


def just_before(key: str) -> str:
    """Where a listing starts that is to include `key`, which ends in a hex digit: no other key lies between."""
    return key[:-1] + chr(ord(key[-1]) - 1) + "~"


def behind(folder: str) -> str:
    """Where a listing starts that is to skip everything in `folder`, which ends with "/"."""
    return folder[:-1] + chr(ord("/") + 1)


def blob(name: RepositoryName, digest: Digest) -> str:
    """A repository's own blob: its bytes, or a link to them."""
    return f"{blobs(name)}{digest}"


def manifest(name: RepositoryName, reference: Reference) -> str:
    """A manifest under its digest, or its copy under a tag."""
    return f"{manifests(name)}{reference}"


def manifests(name: RepositoryName) -> str:
    """The prefix of a repository's manifests: tags and digests, which have a ":"."""
    return f"{name}/manifests/"


def referrers(name: RepositoryName, subject: Digest) -> str:
    """The prefix of the descriptors of all manifests that name `subject`."""
    return f"{name}/_referrers/{subject}/"


def referrer(name: RepositoryName, subject: Digest, digest: Digest) -> str:
    """The descriptor of manifest `digest`, which names `subject`."""
    return f"{referrers(name, subject)}{digest}"


def copied_referrers(name: RepositoryName, subject: Digest) -> str:
    """The copy of what an upstream has among the referrers of `subject`."""
    return referrer(name, subject, subject)


def data(data_id: str) -> str:
    """The bytes of a large blob."""
    return f"_data/{data_id}"


def ref(data_id: str, nonce: str, name: RepositoryName) -> str:
    """The mark that keeps `data(data_id)` alive for one link of `name`."""
    return f"{refs(data_id)}{nonce}/{name}"


def refs(data_id: str) -> str:
    """The prefix of everything that `ref` and `condemned` make for a data object."""
    return f"_refs/{data_id}/"


def condemned(data_id: str) -> str:
    """The marker of a data object that is being deleted; it sorts before every ref."""
    return f"{refs(data_id)}!condemned"


def gc_register(name: RepositoryName) -> str:
    """The register of a repository."""
    return f"{name}/{REGISTER}"


def log(name: RepositoryName, session: str) -> str:
    """The prefix of a session's log; `session` is the UUID within its id."""
    return f"{name}/uploads/{session}/"


def log_entry(name: RepositoryName, session: str, start: int) -> str:
    """The entry of the chunk that begins at offset `start` (bytes)."""
    return f"{log(name, session)}{start:0{_OFFSET_DIGITS}}"


def log_entry_start(prefix: str, key: str) -> int | None:
    """The offset in a key below `log(...)`, or None when the key is not ours (SR keeps its state beside it)."""
    rest = key.removeprefix(prefix)
    return int(rest) if len(rest) == _OFFSET_DIGITS and rest.isascii() and rest.isdigit() else None


def parse_blob(key: str) -> tuple[RepositoryName, Digest] | None:
    """The repository and digest of a key that `blob` makes; None for any other key."""
    return _parse(key, "/blobs")


def parse_manifest_digest(key: str) -> tuple[RepositoryName, Digest] | None:
    """The repository and digest of a key that `manifest` makes for a digest; None for any other key, tags too."""
    return _parse(key, "/manifests")


def _parse(key: str, kind: str) -> tuple[RepositoryName, Digest] | None:
    prefix, _, last = key.rpartition("/")
    if not prefix.endswith(kind):
        return None
    try:
        return parse_name(prefix.removesuffix(kind)), parse_digest(last)
    except RegistryError:
        return None
