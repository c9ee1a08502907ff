"""The image that everything here runs: Debian's busybox-static and the few files around it.

Owns: the tars (root filesystem, docker-archive, OCI layout). No registry is needed, nothing is downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

PAGE = b"<!doctype html><title>Dockyard</title><h1>It works</h1>\n"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/www:/bin/sh\ndock:x:1000:1000:dock:/home/dock:/bin/sh\n"
GROUP = b"root:x:0:\nwww:x:33:\nstaff:x:50:dock\ndock:x:1000:\n"
DIRECTORIES = ("bin", "dev", "etc", "home/dock", "proc", "root", "sys", "tmp", "usr/bin", "var/log", "www", "data")
MTIME = 1_700_000_000
DEFAULT_ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


def find_busybox() -> Path:
    """The statically linked busybox of this machine. Raises FileNotFoundError saying what to install."""
    for candidate in (shutil.which("busybox.static"), shutil.which("busybox")):
        if candidate and b"/lib64/ld-linux" not in (data := Path(candidate).read_bytes()) and b"ld-musl" not in data:
            return Path(candidate).resolve()
    raise FileNotFoundError("no static busybox: apt-get install busybox-static")


def _add(tar: tarfile.TarFile, name: str, data: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = mode, MTIME
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    elif data is None:
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = len(data)
    if name.startswith("home/dock"):
        entry.uid = entry.gid = 1000
    tar.addfile(entry, io.BytesIO(data) if data is not None else None)


def rootfs_tar(extra: dict[str, bytes] | None = None) -> bytes:
    """The root filesystem as a tar: `extra` adds files (name → content, mode 0755)."""
    busybox = find_busybox()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in DIRECTORIES:
            _add(tar, directory, mode=0o1777 if directory == "tmp" else 0o755)
        _add(tar, "bin/busybox", busybox.read_bytes())
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", link="busybox")
        _add(tar, "etc/passwd", PASSWD, 0o644)
        _add(tar, "etc/group", GROUP, 0o644)
        _add(tar, "www/index.html", PAGE, 0o644)
        for name, data in (extra or {}).items():
            _add(tar, name, data)
    return out.getvalue()


def layer_tar(files: dict[str, bytes]) -> bytes:
    """A small layer: name → content. A name `.wh.NAME` is a whiteout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            _add(tar, name, data, 0o644)
    return out.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image_config(layers: list[bytes], config: dict[str, Any]) -> bytes:
    """An image's JSON for uncompressed `layers`."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09.123456789Z",
            "config": {"Env": DEFAULT_ENV, **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}" for layer in layers]},
            "history": [
                {"created": "2024-05-06T07:08:09Z", "created_by": f"layer {number}", "comment": "made by the tests"}
                for number, _ in enumerate(layers)
            ],
        }
    ).encode()


def archive(members: dict[str, bytes]) -> bytes:
    """A tar of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(data), MTIME, 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def docker_archive(names: list[str], layers: list[bytes], config: dict[str, Any]) -> bytes:
    """What `docker save` of old writes and `docker load` reads."""
    settings = image_config(layers, config)
    manifest = [
        {
            "Config": f"{sha256(settings)}.json",
            "RepoTags": names,
            "Layers": [f"{sha256(layer)}/layer.tar" for layer in layers],
        }
    ]
    members = {f"{sha256(settings)}.json": settings}
    members |= {f"{sha256(layer)}/layer.tar": layer for layer in layers}
    return archive({**members, "manifest.json": json.dumps(manifest).encode()})


def oci_archive(name: str, layers: list[bytes], config: dict[str, Any], compress: bool = True) -> bytes:
    """An OCI image layout as a tar, its layers gzipped or plain."""
    settings = image_config(layers, config)
    blobs = [gzip.compress(layer, 1, mtime=0) if compress else layer for layer in layers]
    layer_type = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")

    def descriptor(media: str, data: bytes, **more: Any) -> dict[str, Any]:
        return {"mediaType": media, "digest": f"sha256:{sha256(data)}", "size": len(data), **more}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", settings),
            "layers": [descriptor(layer_type, blob) for blob in blobs],
        }
    ).encode()
    annotations = {
        "io.containerd.image.name": f"docker.io/library/{name}",
        "org.opencontainers.image.ref.name": name.partition(":")[2],
    }
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", manifest, annotations=annotations)],
    }
    members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    members |= {f"blobs/sha256/{sha256(data)}": data for data in (*blobs, settings, manifest)}
    return archive(members)
