"""All clients, in the order of the page."""

from .artifacts import Cosign, Devcontainers, Dxf, Flux, Helm, Notation
from .builders import Buildctl, Ko
from .daemons import Buildah, Containerd, Containerd2, Docker, Docker29, Podman
from .mirrors import Buildx, Regsync
from .tools import ContainersImage, Crane, Oras, Regctl, Skopeo, Tool

TOOLS: list[type[Tool]] = [
    *(Docker, Docker29, Podman, Buildah, Containerd, Containerd2, Skopeo, ContainersImage),
    *(Crane, Regctl, Regsync, Oras, Helm, Flux, Cosign, Notation, Buildctl, Buildx, Ko, Devcontainers, Dxf),
]
