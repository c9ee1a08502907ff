"""Images and their names in memory."""

from __future__ import annotations

from dockyard.engine.images.catalogue import Catalogue
from dockyard.model.oci import ImageConfig
from dockyard.store.images import ImageRecord


def test_an_image_goes_from_one_index_to_another() -> None:
    """Its record is changed in place before it is put again, as builds and loads do it."""
    catalogue = Catalogue()
    first, second = (ImageRecord(f"sha256:{letter * 64}", ImageConfig()) for letter in "ab")
    catalogue.put(first, ["docker.io/library/app:1"])
    catalogue.put(second)
    for index in ("sha256:" + "1" * 64, "sha256:" + "2" * 64, ""):
        first.index = index
        catalogue.put(first)
        second.index = index
        catalogue.put(second)
        image = catalogue.by_id(first.id)
        assert image is not None
        assert [other.id for other in catalogue.siblings(image)] == ([second.id] if index else [])
    catalogue.remove(first.id)
    catalogue.remove(second.id)
    assert catalogue._of_index == {}
