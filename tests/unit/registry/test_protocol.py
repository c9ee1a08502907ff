"""The distribution spec over HTTP, on each storage. Source: OCI distribution-spec 1.1."""

from __future__ import annotations

import json
import os
import socket
import time

import pytest

from tests.unit.registry.support import (
    CONFIG,
    LAYER,
    OCI_INDEX,
    OCI_MANIFEST,
    Client,
    Registry,
    descriptor,
    digest_of,
    image,
)  # fmt: skip


def put(client: Client, reference: str, manifest: bytes, kind: str = OCI_MANIFEST, repository: str = "a/b"):  # type: ignore[no-untyped-def]
    return client("PUT", f"/v2/{repository}/manifests/{reference}", manifest, Content_Type=kind)


def begin(client: Client, repository: str = "a/b") -> str:
    answer = client("POST", f"/v2/{repository}/blobs/uploads/")
    assert answer.status == 202 and answer.headers["range"] == "0-0"
    assert answer.headers["docker-upload-uuid"] in answer.headers["location"]
    return answer.headers["location"]


def test_version_health_and_unknown_paths(visitor: Client) -> None:
    answer = visitor("GET", "/v2/")
    assert answer.status == 200 and answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert visitor("GET", "/healthz").body == b"ok\n"
    assert visitor("GET", "/nowhere").status == 404
    assert visitor("POST", "/v2/").codes == ["UNSUPPORTED"]
    answer = visitor("PATCH", "/v2/a/b/manifests/x")
    assert answer.status == 405 and "PUT" in answer.headers["allow"]


def test_push_and_pull(client: Client) -> None:
    layer = os.urandom(300_000)
    digest = client.push("a/b", "v1", layer)
    for reference in ("v1", digest):
        answer = client("GET", f"/v2/a/b/manifests/{reference}")
        assert digest_of(answer.body) == digest == answer.headers["docker-content-digest"]
        assert answer.headers["content-type"] == OCI_MANIFEST
        head = client("HEAD", f"/v2/a/b/manifests/{reference}")
        assert (head.status, head.headers["content-length"]) == (200, str(len(answer.body)))
    answer = client("GET", f"/v2/a/b/blobs/{digest_of(layer)}")
    assert answer.body == layer and answer.headers["docker-content-digest"] == digest_of(layer)
    head = client("HEAD", f"/v2/a/b/blobs/{digest_of(layer)}")
    assert (head.status, head.headers["content-length"]) == (200, "300000")
    answer = client("GET", f"/v2/a/b/blobs/{digest_of(layer)}", If_None_Match=f'"{digest_of(layer)}"')
    assert (answer.status, answer.body) == (304, b"")
    assert client("GET", f"/v2/other/blobs/{digest_of(layer)}").codes == ["BLOB_UNKNOWN"]
    assert client("GET", "/v2/a/b/manifests/none").codes == ["MANIFEST_UNKNOWN"]
    assert client("GET", f"/v2/a/b/manifests/{digest_of(b'')}").codes == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=5-", 5, 100), ("bytes=-7", 93, 100), ("bytes=90-999", 90, 100)],
)  # fmt: skip
def test_ranges(visitor: Client, asked: str, start: int, end: int) -> None:
    content = bytes(range(100))
    visitor.push_blob("a/b", content)
    answer = visitor("GET", f"/v2/a/b/blobs/{digest_of(content)}", Range=asked)
    assert (answer.status, answer.body) == (206, content[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100"


def test_a_range_beyond_the_end(visitor: Client) -> None:
    visitor.push_blob("a/b", b"abc")
    answer = visitor("GET", f"/v2/a/b/blobs/{digest_of(b'abc')}", Range="bytes=3-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */3")
    assert visitor("GET", f"/v2/a/b/blobs/{digest_of(b'abc')}", Range="pages=1").body == b"abc"


def test_upload_in_chunks(visitor: Client) -> None:
    content = os.urandom(1000)
    location = begin(visitor)
    answer = visitor("PATCH", location, content[:400], Content_Range="0-399")
    assert (answer.status, answer.headers["range"]) == (202, "0-399")
    for wrong in ("0-399", "500-899", "401-800"):
        answer = visitor("PATCH", location, content[:400], Content_Range=wrong)
        assert (answer.status, answer.headers["range"]) == (416, "0-399"), wrong
        assert answer.headers["location"] == location
    assert visitor("PATCH", location, b"abc", Content_Range="400-500").codes == ["SIZE_INVALID"]
    assert visitor("PATCH", location, b"abc", Content_Range="bytes").codes == ["BLOB_UPLOAD_INVALID"]
    answer = visitor("GET", location)
    assert (answer.status, answer.headers["range"]) == (204, "0-399")
    answer = visitor("PUT", f"{location}?digest={digest_of(content)}", content[400:], Content_Range="400-999")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{digest_of(content)}")
    assert visitor("GET", f"/v2/a/b/blobs/{digest_of(content)}").body == content
    assert visitor("GET", location).codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_an_upload_as_docker_does_it(visitor: Client) -> None:
    content = os.urandom(2_000_000)
    location = begin(visitor)
    parts = iter([content[:900_000], content[900_000:]])
    assert visitor("PATCH", location, parts).status == 202
    assert visitor("PUT", f"{location}?digest={digest_of(content)}").status == 201
    assert visitor("GET", f"/v2/a/b/blobs/{digest_of(content)}").body == content


def test_an_upload_can_be_cancelled_and_belongs_to_its_repository(visitor: Client) -> None:
    location = begin(visitor)
    assert visitor("GET", location.replace("a/b", "c/d")).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert visitor("DELETE", location).status == 204
    assert visitor("PATCH", location, b"x").codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert visitor("GET", "/v2/a/b/blobs/uploads/nonsense").codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_a_broken_upload_goes_on_where_it_ended(lasting: Registry, visitor: Client) -> None:
    content = os.urandom(5_000_000)
    location = begin(visitor)
    host, port = lasting.address.split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode())
        raw.sendall(content[:3_000_000])
    for _ in range(100):
        answer = visitor("GET", location)
        size = int(answer.headers["range"].split("-")[1]) + 1 if answer.headers["range"] != "0-0" else 0
        # without a Content-Range, bytes of the broken request that still arrive would come before these
        asked = f"{size}-{len(content) - 1}"
        if visitor("PATCH", location, content[size:], Content_Range=asked).status == 202:
            break
        time.sleep(0.02)
    assert visitor("PUT", f"{location}?digest={digest_of(content)}").status == 201
    assert visitor("GET", f"/v2/a/b/blobs/{digest_of(content)}").body == content


def test_s31_wrong_and_malformed_digests_leave_nothing(visitor: Client) -> None:
    wrong = digest_of(b"other")
    assert visitor("POST", f"/v2/a/b/blobs/uploads/?digest={wrong}", b"content").codes == ["DIGEST_INVALID"]
    assert visitor("HEAD", f"/v2/a/b/blobs/{wrong}").status == 404
    location = begin(visitor)
    for bad in ("sha256:abc", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:" + "../" * 21 + "a", ""):
        assert visitor("PUT", f"{location}?digest={bad}", b"x").codes == ["DIGEST_INVALID"], bad
        if bad:
            assert visitor("GET", f"/v2/a/b/blobs/{bad.replace('/', '%2f')}").status in (400, 404), bad


@pytest.mark.parametrize("name", ["A/b", "a//b", "a/_refs", "..", "a/../b", "a" * 256, "-a", "a%2f..%2fb"])
def test_names_that_are_none(visitor: Client, name: str) -> None:
    answer = visitor("POST", f"/v2/{name}/blobs/uploads/")
    assert answer.status in (400, 404), answer.body
    assert visitor("PUT", "/v2/a/b/manifests/-tag", b"{}").status == 400


def test_mount(visitor: Client) -> None:
    digest = visitor.push_blob("a/b", b"shared")
    answer = visitor("POST", f"/v2/c/d/blobs/uploads/?mount={digest}&from=a/b")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/c/d/blobs/{digest}")
    assert visitor("GET", f"/v2/c/d/blobs/{digest}").body == b"shared"
    assert visitor("POST", f"/v2/e/f/blobs/uploads/?mount={digest}").status == 201  # found without from
    for query in (f"mount={digest_of(b'x')}&from=a/b", f"mount={digest}&from=no/where", f"mount={digest_of(b'x')}"):
        assert visitor("POST", f"/v2/g/h/blobs/uploads/?{query}").status == 202, query


def test_s32_manifests_that_are_refused(client: Client) -> None:
    config, layer = b"{}", b"layer"
    for content in (config, layer):
        client.push_blob("a/b", content)
    good = json.loads(image(config, layer))
    assert put(client, "t", json.dumps(good).encode()).status == 201
    both = json.dumps(good | {"manifests": []}).encode()
    assert put(client, "t2", both).codes == ["MANIFEST_INVALID"]
    assert put(client, "t2", json.dumps(good).encode(), OCI_INDEX).codes == ["MANIFEST_INVALID"]
    index = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    assert put(client, "t2", index, OCI_MANIFEST).codes == ["MANIFEST_INVALID"]
    assert put(client, "t2", b"{", OCI_MANIFEST).codes == ["MANIFEST_INVALID"]
    assert put(client, "t2", json.dumps(good).encode(), "text/plain").codes == ["MANIFEST_INVALID"]
    assert put(client, digest_of(b"x"), json.dumps(good).encode()).codes == ["DIGEST_INVALID"]
    lying = good | {"layers": [descriptor(LAYER, layer) | {"size": 4}]}
    assert put(client, "t2", json.dumps(lying).encode()).codes == ["MANIFEST_INVALID"]
    escaping = good | {"layers": [descriptor(LAYER, layer) | {"digest": "sha256:../../../../etc/passwd"}]}
    assert put(client, "t2", json.dumps(escaping).encode()).codes == ["DIGEST_INVALID"]
    missing = image(config, b"not there", b"nor this")
    answer = put(client, "t2", missing)
    assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"] * 2
    assert answer.json()["errors"][0]["detail"] == {"digest": digest_of(b"not there")}
    assert put(client, "t2", b" " * (5 << 20)).status == 413
    assert client("GET", "/v2/a/b/manifests/t2").status == 404


def test_an_index_needs_its_manifests(client: Client) -> None:
    digest = client.push("a/b", "", b"one")
    raw = client("GET", f"/v2/a/b/manifests/{digest}").body
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST, raw)]}
    assert put(client, "multi", json.dumps(index).encode(), OCI_INDEX).status == 201
    index["manifests"] = [descriptor(OCI_MANIFEST, b"unknown")]
    assert put(client, "bad", json.dumps(index).encode(), OCI_INDEX).codes == ["MANIFEST_BLOB_UNKNOWN"]


def test_referrers(client: Client) -> None:
    subject = client.push("a/b", "v1", b"one")
    described = {"mediaType": OCI_MANIFEST, "digest": subject, "size": 5}
    blob = client.push_blob("a/b", b"{}")
    assert blob
    found = {}
    for kind in ("application/x.signature", "application/x.sbom", ""):
        document = json.loads(image(b"{}")) | {"subject": described, "annotations": {"kind": kind}}
        if kind:
            document["artifactType"] = kind
        raw = json.dumps(document).encode()
        answer = put(client, digest_of(raw), raw)
        assert (answer.status, answer.headers["oci-subject"]) == (201, subject)
        found[digest_of(raw)] = kind or CONFIG
    answer = client("GET", f"/v2/a/b/referrers/{subject}")
    assert answer.headers["content-type"] == OCI_INDEX and answer.json()["mediaType"] == OCI_INDEX
    assert {each["digest"]: each["artifactType"] for each in answer.json()["manifests"]} == found
    assert all("kind" in each["annotations"] for each in answer.json()["manifests"])
    answer = client("GET", f"/v2/a/b/referrers/{subject}?artifactType=application/x.sbom")
    assert [each["artifactType"] for each in answer.json()["manifests"]] == ["application/x.sbom"]
    assert answer.headers["oci-filters-applied"] == "artifactType"
    answer = client("GET", f"/v2/a/b/referrers/{subject}?n=2")
    more = client("GET", answer.headers["link"].split(">")[0][1:])
    assert len(answer.json()["manifests"] + more.json()["manifests"]) == 3 and "link" not in more.headers
    assert client("GET", f"/v2/nowhere/referrers/{subject}").json()["manifests"] == []
    assert client("GET", "/v2/a/b/referrers/nonsense").codes == ["DIGEST_INVALID"]
    for digest in found:
        assert client("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
    assert client("GET", f"/v2/a/b/referrers/{subject}").json()["manifests"] == []


def test_tags_and_catalog_in_pages(client: Client) -> None:
    for tag in ("b", "A", "c", "B2", "a1"):
        client.push("a/b", tag, b"one")
    client.push("a", "x", b"one")
    client.push("z/y/x", "x", b"one")
    assert client("GET", "/v2/a/b/tags/list").json() == {"name": "a/b", "tags": ["A", "a1", "b", "B2", "c"]}
    answer = client("GET", "/v2/a/b/tags/list?n=2")
    assert answer.json()["tags"] == ["A", "a1"]
    following = answer.headers["link"].split(">")[0][1:]
    assert client("GET", following).json()["tags"] == ["b", "B2"]
    last = client("GET", "/v2/a/b/tags/list?n=2&last=B2")
    assert last.json()["tags"] == ["c"] and "link" not in last.headers
    assert client("GET", "/v2/a/b/tags/list?n=0").json()["tags"] == []
    assert client("GET", "/v2/a/b/tags/list?n=-1").codes == ["PAGINATION_NUMBER_INVALID"]
    assert client("GET", "/v2/no/where/tags/list").codes == ["NAME_UNKNOWN"]
    assert client("GET", "/v2/_catalog").json() == {"repositories": ["a", "a/b", "z/y/x"]}
    answer = client("GET", "/v2/_catalog?n=1")
    assert client("GET", answer.headers["link"].split(">")[0][1:]).json()["repositories"] == ["a/b"]
    found = client("GET", "/v1/search?q=y%2Fx&n=25").json()
    assert found["num_results"] == 1 and found["results"][0]["name"] == "z/y/x"


def test_deletions(client: Client) -> None:
    layer = b"one layer"
    digest = client.push("a/b", "v1", layer)
    client.push("a/b", "v2", layer)
    assert client("DELETE", "/v2/a/b/manifests/v1").status == 202
    assert client("DELETE", "/v2/a/b/manifests/v1").codes == ["MANIFEST_UNKNOWN"]
    assert client("GET", "/v2/a/b/manifests/v2").status == 200
    answer = client("DELETE", f"/v2/a/b/blobs/{digest_of(layer)}")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])  # the image would be broken
    assert client("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
    assert client("GET", "/v2/a/b/manifests/v2").codes == ["MANIFEST_UNKNOWN"]
    assert client("DELETE", f"/v2/a/b/manifests/{digest}").codes == ["MANIFEST_UNKNOWN"]
    assert client("DELETE", f"/v2/a/b/blobs/{digest_of(layer)}").status == 202
    assert client("DELETE", f"/v2/a/b/blobs/{digest_of(layer)}").codes == ["BLOB_UNKNOWN"]
    assert client("GET", f"/v2/a/b/blobs/{digest_of(layer)}").codes == ["BLOB_UNKNOWN"]
    assert client.push("a/b", "v3", layer) == digest


def test_check_finds_nothing_wrong(registry: Registry, client: Client) -> None:
    client.push("a/b", "v1", b"one", b"two")
    done = registry.run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "1 tags, 1 manifests, 3 blobs: all verify\n"


# --- what the suite of the distribution spec asks beyond that ---------------------------------------------------------


def test_conformance_pull(visitor: Client) -> None:
    """end-2, end-3: what is not there, and the form of an error."""
    for path in (f"/v2/a/b/blobs/{digest_of(b'x')}", "/v2/a/b/manifests/x", f"/v2/a/b/manifests/{digest_of(b'x')}"):
        head = visitor("HEAD", path)
        assert (head.status, head.body) == (404, b"")
        answer = visitor("GET", path)
        assert answer.status == 404 and answer.headers["content-type"].startswith("application/json")
        (error,) = answer.json()["errors"]
        assert error["code"] and error["message"]


def test_conformance_push(client: Client) -> None:
    """end-4a, 4b, 5, 6, 7, 11, 13: each way in, and manifests of every shape."""
    content = os.urandom(500)
    digest = digest_of(content)
    answer = client("POST", f"/v2/a/b/blobs/uploads/?digest={digest}", content, Content_Type="application/octet-stream")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/a/b/blobs/{digest}")
    assert client("PUT", f"{begin(client)}?digest={digest}", content).headers["docker-content-digest"] == digest
    location = begin(client)
    assert client("PATCH", location, content[250:], Content_Range="250-499").status == 416  # the first is missing
    assert client("PATCH", location, content[:250], Content_Range="0-249").status == 202
    assert client("PUT", f"{location}?digest={digest}", content[250:], Content_Range="250-499").status == 201
    assert client("PUT", f"{begin(client)}?digest={digest}", content[:-1]).codes == ["DIGEST_INVALID"]
    client.push_blob("a/b", b"{}")
    bare = image(b"{}")  # no layers
    answer = put(client, "bare", bare)
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/a/b/manifests/{digest_of(bare)}")
    odd = json.dumps(json.loads(bare) | {"something": ["unknown", {"to": "us"}]}, indent=7).encode()
    assert put(client, "odd", odd).status == 201
    assert client("GET", "/v2/a/b/manifests/odd").body == odd  # byte for byte
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    artifact = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/x", "config": empty,
                "layers": [empty]}  # fmt: skip
    assert put(client, "artifact", json.dumps(artifact).encode()).status == 201
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    schema2 = json.dumps(json.loads(bare) | {"mediaType": docker}).encode()
    assert put(client, "schema2", schema2, docker).status == 201
    assert client("HEAD", "/v2/a/b/manifests/schema2").headers["content-type"] == docker


def test_conformance_content_discovery(client: Client) -> None:
    """end-8, end-12: a subject that comes later or never, an index as a referrer, tags around every limit."""
    client.push_blob("a/b", b"{}")
    later = image(b"{}", annotations={"later": "yes"})
    subject = descriptor(OCI_MANIFEST, later)
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "subject": subject,
                        "artifactType": "application/x.list", "annotations": {"a": "b"}}).encode()  # fmt: skip
    answer = put(client, digest_of(index), index, OCI_INDEX)
    assert (answer.status, answer.headers["oci-subject"]) == (201, subject["digest"])

    def referrers() -> list[dict[str, object]]:
        found = client("GET", f"/v2/a/b/referrers/{subject['digest']}")
        assert found.status == 200 and found.json()["schemaVersion"] == 2
        return list(found.json()["manifests"])

    expected = [{"mediaType": OCI_INDEX, "digest": digest_of(index), "size": len(index),
                 "artifactType": "application/x.list", "annotations": {"a": "b"}}]  # fmt: skip
    assert referrers() == expected
    assert put(client, "later", later).status == 201
    assert referrers() == expected
    assert client("DELETE", "/v2/a/b/manifests/later").status == 202
    assert referrers() == expected
    assert client("GET", f"/v2/a/b/referrers/{digest_of(b'none')}").json()["manifests"] == []
    for tag in ("t0", "t1", "t2"):
        put(client, tag, later)
    assert client("GET", "/v2/a/b/tags/list?n=3").json()["tags"] == ["t0", "t1", "t2"]
    assert client("GET", "/v2/a/b/tags/list?n=100&last=t0").json()["tags"] == ["t1", "t2"]
    assert client("GET", "/v2/a/b/tags/list?last=t9").json()["tags"] == []


def test_conformance_content_management(client: Client) -> None:
    """end-9, end-10: what is deleted is gone by each of its names, and what never was is told so."""
    digest = client.push("a/b", "one", b"layer")
    assert client("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
    for reference in ("one", digest):
        assert client("HEAD", f"/v2/a/b/manifests/{reference}").status == 404
    assert client("GET", "/v2/a/b/tags/list").json().get("tags") in ([], None)
    for path in (f"/v2/a/b/blobs/{digest_of(b'never')}", "/v2/a/b/manifests/never", f"/v2/none/manifests/{digest}"):
        assert client("DELETE", path).status == 404
