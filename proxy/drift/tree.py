"""The file list that an image's layers give (OCI image specification 1.1, "Image Layer Filesystem Changeset").

Each layer becomes a tree of its own, in which only its own links are followed; then it is laid over those below it, as overlayfs
does: what it deletes is deleted below, whatever the order of its entries, and never in itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from proxy.drift.model import Bounds, Facts, Kind
from proxy.drift.names import MAX_DEPTH, absolute
from proxy.drift.tar import Member
from proxy.drift.unpacking import Budget
from proxy.errors import LayerRefused

_WHITEOUT = b".wh."
_META = b".wh..wh."  #: AUFS' own; only the opaque one means something
_OPAQUE = b".wh..wh..opq"
_MAX_LINKS = 40
#: Components of links' targets that are followed in one layer: honest ones have few, though each entry may go through links.
_MAX_FOLLOWED = 4_000_000


@dataclass(slots=True)
class Inode:
    """A file under one or several names. ``modes`` are all that headers of its names state: runtimes differ in which counts."""

    facts: Facts
    modes: tuple[int, ...]
    layer: int  #: from 0

    def also(self, facts: Facts) -> None:
        """Another name's header: its owner counts from now on."""
        mine = self.facts
        capability = facts.capability if facts.capability is not None else mine.capability
        self.facts = Facts(
            mine.kind, mine.mode, facts.uid, facts.gid, mine.size, mine.sha256, mine.target, mine.device, capability
        )
        if facts.mode not in self.modes:
            self.modes = (*self.modes, facts.mode)


@dataclass(slots=True)
class Node:
    """A name. ``inode`` None: a directory that no entry describes, which runtimes make as they like."""

    inode: Inode | None = None
    children: dict[bytes, Node] = field(default_factory=dict)
    #: An upper layer goes through this directory without an entry for it: some runtimes make it anew then.
    remade: bool = False
    #: In a layer's own tree: names, or all names, that it deletes below.
    whiteouts: set[bytes] = field(default_factory=set)
    opaque: bool = False

    @property
    def is_directory(self) -> bool:
        """Whether it may have children."""
        return self.inode is None or self.inode.facts.kind is Kind.DIRECTORY


def find(root: Node, path: bytes) -> Node | None:
    """What stands at a path below a node, with no link followed on the way."""
    node: Node | None = root
    for name in path.split(b"/") if path else ():
        node = None if node is None else node.children.get(name)
    return node


@dataclass(frozen=True, slots=True)
class FileList:
    """What the layers of an image give: the merged tree, and every content that any of them holds, with a path that has it."""

    root: Node
    contents: dict[bytes, bytes]
    #: Links below which a later layer puts something: whether it replaces the link or follows it depends on the runtime.
    crossings: tuple[bytes, ...]

    def find(self, path: bytes) -> Node | None:
        """What stands at a path, with no link followed on the way."""
        return find(self.root, path)

    def __iter__(self) -> Iterator[tuple[bytes, Node]]:
        """Every path with its node, parents first; the root is not among them."""
        stack: list[tuple[bytes, Node]] = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            for name, child in node.children.items():
                entry = (path + b"/" + name if path else name, child)
                yield entry
                stack.append(entry)


class Layer:
    """The tree of one layer, entry by entry. With ``lower``, links of the layers below are followed, too.

    Folders that no entry describes are counted in ``budget``: one entry may need hundreds of them.
    """

    def __init__(self, number: int, lower: Node | None = None, budget: Budget | None = None) -> None:
        self._number = number
        self._lower = lower
        self._budget = budget or Budget(Bounds())
        self.root = Node()
        self.contents: dict[bytes, bytes] = {}
        self._followed = 0

    def add(self, member: Member) -> None:
        """Apply one entry. Raises :class:`LayerRefused` where runtimes could not."""
        if not member.path:
            if member.link is None and member.facts.kind is Kind.DIRECTORY:
                self.root.inode = Inode(member.facts, (member.facts.mode,), self._number)
            return
        *above, name = member.path.split(b"/")
        if name.startswith(_WHITEOUT):
            self._whiteout(above, name)
            return
        if (above or [name])[0].startswith(_META):
            return
        parent = self._folder(above, member.path)
        existing = parent.children.get(name)
        if member.link is not None:
            parent.children[name] = Node(self._linked(member))
            return
        if member.facts.sha256 is not None:
            self.contents.setdefault(member.facts.sha256, member.path)
        inode = Inode(member.facts, (member.facts.mode,), self._number)
        if existing is not None and existing.is_directory and member.facts.kind is Kind.DIRECTORY:
            existing.inode = inode
        else:
            parent.children[name] = Node(inode)

    def _whiteout(self, above: list[bytes], name: bytes) -> None:
        if name == _OPAQUE:
            self._folder(above, name).opaque = True
        elif not name.startswith(_META):
            deleted = name[len(_WHITEOUT) :]
            if deleted in {b"", b".", b".."}:
                raise LayerRefused(f"{absolute(b'/'.join([*above, name]))} deletes what is no name")
            self._folder(above, name).whiteouts.add(deleted)

    def _linked(self, member: Member) -> Inode:
        """The inode that a hard link is a name of. Its last component is not followed."""
        target = member.link or b""
        if not target:
            raise LayerRefused(f"{absolute(member.path)} is a hard link to the root")
        *above, name = target.split(b"/")
        found = self._folder(above, member.path).children.get(name)
        if found is None and self._lower is not None:
            found = find(self._lower, target)
        if found is None:
            raise LayerRefused(f"{absolute(member.path)} is a hard link to {absolute(target)}, which is not there before it")
        if found.inode is None or found.inode.facts.kind is Kind.DIRECTORY:
            raise LayerRefused(f"{absolute(member.path)} is a hard link to the directory {absolute(target)}")
        found.inode.also(member.facts)
        return found.inode

    def _folder(self, names: Iterable[bytes], about: bytes) -> Node:
        """The directory at a path, made where it is missing; links on the way are followed, within the root."""
        todo = list(names)[::-1]
        here: list[tuple[Node, Node | None]] = [(self.root, self._lower)]  # each with what is below it
        links = 0
        while todo:
            name = todo.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                here = here[:-1] or here
                continue
            node, lower = here[-1]
            child = node.children.get(name)
            hidden = node.opaque or name in node.whiteouts
            below = None if lower is None or hidden else lower.children.get(name)
            seen = child or below
            if seen is not None and seen.inode is not None and seen.inode.facts.kind is Kind.SYMLINK:
                links += 1
                target = seen.inode.facts.target
                if links > _MAX_LINKS:
                    raise LayerRefused(f"{absolute(about)}: too many symbolic links on its way")
                if target.startswith(b"/"):
                    here = here[:1]
                parts = target.split(b"/")
                self._followed += len(parts)
                if self._followed > _MAX_FOLLOWED:
                    raise LayerRefused("its entries go through too many links")
                todo += parts[::-1]
                continue
            if seen is not None and not seen.is_directory:
                raise LayerRefused(f"{absolute(about)}: what is above it is no directory")
            if child is None:
                self._budget.enter()
                self._budget.name(name)
                child = node.children[name] = Node()
            here.append((child, below if below is not None and below.is_directory else None))
            if len(here) > MAX_DEPTH + 1:
                raise LayerRefused(f"{absolute(about)} is more than {MAX_DEPTH} folders deep")
        return here[-1][0]


class Image:
    """Layers laid one over the other, the lowest first."""

    def __init__(self) -> None:
        self.root = Node()
        self._contents: dict[bytes, bytes] = {}
        self._crossings: list[bytes] = []

    def lay(self, layer: Layer) -> None:
        """Lay a layer over what there is. It is used up by that."""
        for content, path in layer.contents.items():
            self._contents.setdefault(content, path)
        if layer.root.inode is not None:
            self.root.inode = layer.root.inode
        self._merge(self.root, layer.root, b"")

    def file_list(self) -> FileList:
        """What there is."""
        return FileList(self.root, self._contents, tuple(dict.fromkeys(self._crossings)))

    def _merge(self, lower: Node, upper: Node, path: bytes) -> None:
        if upper.opaque:
            lower.children.clear()
        for name in upper.whiteouts:
            lower.children.pop(name, None)
        for name, child in upper.children.items():
            below = lower.children.get(name)
            where = path + b"/" + name if path else name
            if child.is_directory and below is not None and below.is_directory:
                if child.inode is not None:
                    below.inode, below.remade = child.inode, False
                else:
                    below.remade = True
                self._merge(below, child, where)
                continue
            if child.inode is None and below is not None and below.inode is not None and below.inode.facts.kind is Kind.SYMLINK:
                self._crossings.append(where)
            lower.children[name] = child


def assemble(layers: Iterable[Iterable[Member]], *, follow: bool = False) -> FileList:
    """The file list of layers, the lowest first. Raises :class:`LayerRefused`.

    ``follow``: an entry below a link of a lower layer goes where the link leads, as where layers are unpacked one over the other;
    else it replaces the link by a directory, as where each is unpacked by itself (overlayfs).
    """
    image = Image()
    for number, entries in enumerate(layers):
        layer = Layer(number, image.root if follow else None)
        for member in entries:
            layer.add(member)
        image.lay(layer)
    return image.file_list()
