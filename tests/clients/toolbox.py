"""All clients, in the order of the page."""

from .artifacts import Cosign, Helm
from .builders import Buildctl, Ko
from .daemons import Buildah, Containerd, Docker, Podman
from .tools import Crane, Oras, Regctl, Skopeo, Tool

TOOLS: list[type[Tool]] = [Docker, Podman, Buildah, Containerd, Skopeo, Crane, Regctl, Oras, Helm, Cosign, Buildctl, Ko]
