"""Finds the repositories in the bucket by its keys, in few R2 calls even if there are many repositories.

The keys form a tree of folders. A listing with a delimiter returns the child folders, a thousand a call. A page without
a delimiter, from the first child on, then shows all objects of small folders. A larger folder is listed by itself,
which shows what it contains and which repositories are in it. A folder that is named like a repository's own (`blobs`,
`manifests`, ...) is not searched: docs/adr/0018.
"""

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from registry.ports.platform import Platform
from registry.ports.storage import Listing, StoredObject
from registry.spec.names import RepositoryName, is_name
from registry.storage import keys
from registry.storage.calls import Calls

# After a folder that does not fit on a page, this number of folders is listed without trying: large ones come together.
_LARGE_ONES = 8
# A key of a repository: the repository's name, and which of its folders has the key.
_OWN_KEY = re.compile(rf"(.+?)/(?:({'|'.join(sorted(keys.REPOSITORY_FOLDERS))})/.+|{keys.REGISTER})", re.DOTALL)
_key_of = attrgetter("key")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: `has` names its REPOSITORY_FOLDERS and REGISTER that exist; `objects` is None if it is large."""

    name: RepositoryName
    has: frozenset[str]
    objects: Sequence[StoredObject] | None


@dataclass(slots=True)
class _Folder:
    """A folder whose children are being visited."""

    name: str  # ends with "/"; the root is ""
    start_after: str | None  # for its listing
    is_new: bool  # not yet checked for being a repository
    cursor: str | None = None
    is_listed: bool = False  # the listing reached its end
    children: deque[str] = field(default_factory=deque)


class Walk:
    """Iterates over the repositories after `position`, ordered by `<name>/` as the keys are."""

    def __init__(
        self,
        platform: Platform,
        calls: Calls,
        position: str,
        may_enter: Callable[[str], bool] = lambda _: True,
        *,
        with_metadata: bool = False,
    ) -> None:
        """`may_enter` tells whether to search a folder; its argument is the folder's name without the last "/"."""
        self._platform = platform
        self._calls = calls
        self._may_enter = may_enter
        self._with_metadata = with_metadata
        self.position = position  # all keys up to here were visited or left out
        self._found: deque[Repository] = deque()
        self._folders = [_Folder("", *self._beside("", position))]
        for at in (at for at, letter in enumerate(position, 1) if letter == "/"):
            if not self._is_open(position[:at]):
                break
            self._folders.append(_Folder(position[:at], *self._beside(position[:at], position)))
        # The last page without a delimiter, and the range of keys that it covers.
        self._page: Sequence[StoredObject] = ()
        self._start, self._stop = "", ""
        self._large_ones = 0

    async def next(self) -> Repository | None:
        """The next repository; None after the last. Raises OutOfCalls; another walk can then continue at `position`."""
        while not self._found:
            if not self._folders:
                return None
            await self._advance()
        repository = self._found.popleft()
        self._reach(f"{repository.name}/")
        return repository

    def skip(self) -> None:
        """After a failed listing: leave out that folder and continue with the next. The root is never left out."""
        folder = self._folders[-1]
        if folder.children:
            self._reach(keys.behind(folder.children.popleft()))
        elif folder.name:
            self._reach(keys.behind(self._folders.pop().name))

    # ------------------------------------------------------------------ steps
    async def _advance(self) -> None:
        folder = self._folders[-1]
        if folder.children:
            await self._visit(folder)
        elif not folder.is_listed:
            await self._list(folder)
        else:
            self._folders.pop()
            if folder.name:
                self._reach(keys.behind(folder.name))

    async def _visit(self, folder: _Folder) -> None:
        child = folder.children[0]
        objects = await self._all_of(folder.name, child)
        folder.children.popleft()
        if objects is None:
            self._folders.append(_Folder(child, None, is_new=True))
        else:
            self._found.extend(_repositories(objects))

    async def _list(self, folder: _Folder) -> None:
        """List the next page of a folder's children."""
        self._calls.take()
        page = await self._platform.storage.list(
            folder.name, start_after=folder.start_after, delimiter="/", cursor=folder.cursor
        )
        if folder.is_new:
            has = await self._own(folder.name, page)
            self._reach(folder.name)
            if has:
                self._found.append(Repository(RepositoryName(folder.name[:-1]), has, None))
        folder.is_new, folder.start_after = False, None
        folder.cursor, folder.is_listed = page.cursor, page.cursor is None
        folder.children.extend(child for child in page.prefixes if self._is_open(child))
        if not folder.children:
            self._reach(_last(page))

    async def _own(self, folder: str, page: Listing) -> frozenset[str]:
        """The `has` of a Repository, from the first page of its folder; single listings find what comes after it."""
        has = {kind for kind in keys.REPOSITORY_FOLDERS if f"{folder}{kind}/" in page.prefixes}
        has |= {keys.REGISTER for found in page.objects if found.key == folder + keys.REGISTER}
        for kind in sorted(keys.REPOSITORY_FOLDERS) if page.cursor is not None else ():
            if f"{folder}{kind}/" > _last(page):
                self._calls.take()
                if (await self._platform.storage.list(f"{folder}{kind}/", limit=1)).objects:
                    has.add(kind)
        return frozenset(has)

    async def _all_of(self, folder: str, child: str) -> Sequence[StoredObject] | None:
        """All objects below `child` if they fit on a page; otherwise None."""
        if not self._start <= child <= keys.behind(child) <= self._stop:
            if self._large_ones:
                self._large_ones -= 1
                return None
            self._calls.take()
            page = await self._platform.storage.list(folder, start_after=child, with_metadata=self._with_metadata)
            self._page, self._start = page.objects, child
            if page.cursor is None:
                self._stop = keys.behind(folder or "~/")
            else:
                self._stop = page.objects[-1].key if page.objects else child
            if self._stop < keys.behind(child):
                self._large_ones = _LARGE_ONES
                return None
        first = bisect_left(self._page, child, key=_key_of)
        return self._page[first : bisect_left(self._page, keys.behind(child), key=_key_of)]

    # ------------------------------------------------------------------ positions and folders
    def _reach(self, position: str) -> None:
        self.position = max(self.position, position)

    def _beside(self, folder: str, position: str) -> tuple[str | None, bool]:
        """The `start_after` and `is_new` of a folder whose children up to `position` were visited."""
        child, slash, _ = position[len(folder) :].partition("/")
        if slash:
            return keys.behind(f"{folder}{child}/"), False
        return (folder + child if child else None), False

    def _is_open(self, folder: str) -> bool:
        """Whether there may be repositories at or below `folder`."""
        parent, _, segment = folder[:-1].rpartition("/")
        if segment.startswith(keys.OURS) or (parent and segment in keys.REPOSITORY_FOLDERS):
            return False
        return is_name(folder[:-1]) and self._may_enter(folder[:-1])


def _last(page: Listing) -> str:
    """The last key or prefix of a page."""
    return max(*(found.key for found in page.objects[-1:]), *page.prefixes[-1:], "", "")


def _repositories(objects: Sequence[StoredObject]) -> list[Repository]:
    """Group objects by the repositories that they belong to."""
    own: dict[str, list[StoredObject]] = {}
    has: dict[str, set[str]] = {}
    for found in objects:
        match = _OWN_KEY.fullmatch(found.key)
        if match is not None:
            own.setdefault(match[1], []).append(found)
            has.setdefault(match[1], set()).add(match[2] or keys.REGISTER)
    return [
        Repository(RepositoryName(name), frozenset(has[name]), own[name])
        for name in sorted(own, key=lambda name: f"{name}/")
        if is_name(name)
    ]
