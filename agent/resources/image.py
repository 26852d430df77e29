"""Images that the disks of this host are made from: present in the cache, or fetched now."""

from __future__ import annotations

from collections.abc import Iterator

from agent import images
from agent.faults import StepFailed
from agent.resources.base import Host, Step
from agent.spec import HostSpec, Image
from agent.wire import Fault


class ImageKind:
    """Cached images. They are never removed here: see the action ``prune-images``."""

    name = "image"

    def removals(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """Nothing: an image may serve the next disk."""
        return iter(())

    def changes(self, host: Host, spec: HostSpec) -> Iterator[Step]:
        """A fetch for what the exchange did not find in the cache when it began."""
        return (self._step(host, image) for image in spec.images)

    def _step(self, host: Host, image: Image) -> Step:
        sidecar = images.cached(host.data, image.sha256)
        if sidecar is None:
            return self._missing(host, image)
        if sidecar.format != image.disk_format:
            words = f"image {image.id} is {sidecar.format} here, not {image.disk_format}"
            return Step(self.name, image.id, "failed", fault=Fault(words))
        return Step(self.name, image.id, "unchanged", facts={"sha256": image.sha256})

    def _missing(self, host: Host, image: Image) -> Step:
        def fetch() -> dict[str, str]:
            if host.fetch_image is None:
                raise StepFailed(f"image {image.id} is not in the cache")
            host.fetch_image(image)
            return {"sha256": image.sha256}

        return Step(self.name, image.id, "made", why="not in the cache", apply=fetch)


KIND = ImageKind()
