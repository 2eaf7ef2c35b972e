"""Attacks on the server: other hosts and origins, missing tokens, paths, uploads that are no CT."""

import io
import zipfile

import pytest

from carm_env.cockpit.access import Access, new_token
from carm_env.cockpit.settings import CockpitSettings, is_loopback
from tests.carm_env.cockpit.page_client import OWN, Page, connect
from tests.carm_env.ct.dicom_series import write_series


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[::1", "evil.example:8765"])
def test_another_host_is_refused(client, host):
    assert client.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8765", "[::1]:8765"])
def test_the_own_names_are_not(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "http://localhost:8765.evil.example", "http://["]
)
def test_requests_from_other_pages_are_refused(client, origin, caplog):
    assert client.post("/api/patients/x", headers={"origin": origin}, content=b"").status_code == 403
    with pytest.raises(Exception), connect(client, origin=origin) as socket:  # noqa: B017
        socket.receive_json()
    assert "another page" in caplog.text


def test_the_own_page_may_connect(client):
    with connect(client, origin=OWN) as socket:
        assert Page(socket).hello()


def test_a_token_is_asked_for_once_and_then_kept_in_a_cookie(make_client):
    token = new_token()
    with make_client(Access(token)) as client:
        assert client.get("/").status_code == 403 and client.get("/study").status_code == 403
        assert client.get("/?token=wrong").status_code == 403
        assert client.get("/api/offers").status_code == 403
        with pytest.raises(Exception), connect(client) as socket:  # noqa: B017
            socket.receive_json()
        answer = client.get(f"/study?token={token}", follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/study"
        client.cookies.clear()
        answer = client.get(f"/?token={token}", follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert client.get("/").status_code == 200 and client.get("/api/offers").status_code == 200
        with connect(client) as socket:
            assert Page(socket).hello()


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("pc", True)])
def test_other_addresses_than_loopback_need_a_token(host, expected):
    assert CockpitSettings(host=host).needs_token is expected and is_loopback(host) is not expected


@pytest.mark.parametrize(
    "path",
    ["/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/settings.py", "/page//etc/passwd", "/page/server.py",
     "/page/main.js%00.html", "/../pyproject.toml", "/api/sessions/../../x/transcripts.zip", "/docs", "/openapi.json"],
)  # fmt: skip
def test_nothing_but_the_page_is_served(client, path):
    assert client.get(path).status_code in (404, 405)


@pytest.mark.parametrize("path", ["/", "/annotate", "/agreement", "/study"])
def test_a_page_runs_no_foreign_script_and_asks_for_nothing_else(client, path):
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "<script>" not in answer.text and "http://" not in answer.text and "https://" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    for name in ("main.js", "cockpit.css", "icon.svg"):
        assert client.get(f"/page/{name}").headers["content-type"].startswith(("text/", "image/svg"))


def test_the_page_is_small():
    from carm_env.cockpit.server import page_files

    files = page_files()
    assert {"index.html", "main.js", "cockpit.css"} <= set(files)
    assert sum(map(len, files.values())) < 400_000
    assert not any(b"innerHTML" in data or b"eval(" in data for data in files.values())


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def upload(client, data, name="mine", kind="application/zip"):
    return client.post(f"/api/patients/{name}", content=data, headers={"content-type": kind, "origin": OWN})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a zip"),
        (b"no archive at all" * 100, "not a zip"),
        (zipped(**{"readme.txt": b"hello"}), "no CT"),
        (zipped(**{"../../evil.dcm": b"DICM"}), "outside its folder"),
        (zipped(**{"/etc/evil.dcm": b"DICM"}), "outside its folder"),
        (zipped(**{"inner.zip": b"PK"}), "archive"),
    ],
)
def test_an_upload_that_is_no_ct_is_refused(client, data, said, caplog):
    answer = upload(client, data)
    assert answer.status_code == 422 and said in answer.json()["text"] and "/tmp" not in answer.json()["text"]
    assert "upload refused" in caplog.text


def test_uploads_are_bounded(make_client):
    with make_client(max_upload_mb=1) as client:
        answer = upload(client, b"\0" * (2 << 20))
        assert answer.status_code == 422 and "more than 1 MB" in answer.json()["text"]


@pytest.mark.parametrize("name", ["virtual", "..", "a b", ".hidden", "one", "x" * 65, "%2e%2e%2fevil"])
def test_a_name_that_is_none_or_taken_is_refused(client, name):
    assert upload(client, b"", name).status_code in (404, 422)


def test_a_form_of_another_page_cannot_upload(client):
    # Forms can send these types without asking the server first.
    for kind in ("multipart/form-data", "text/plain", "application/x-www-form-urlencoded"):
        assert upload(client, b"", kind=kind).status_code == 415


def test_a_ct_is_imported_and_seen(client, tmp_path):
    write_series(tmp_path / "series")
    data = zipped(**{path.name: path.read_bytes() for path in (tmp_path / "series").iterdir()})
    answer = upload(client, data)
    assert answer.status_code == 200 and answer.json()["patient"] == "imported:mine"
    assert answer.json()["landmarks"] == "0/14" and "Doe" not in answer.text and "P-77" not in answer.text
    listed = client.get("/api/offers").json()["patients"]
    assert listed[0]["id"].startswith("imported:") and "imported:mine" in [row["id"] for row in listed]
    with connect(client) as socket:
        page = Page(socket)
        page.hello()
        page.send("start", patient="imported:mine")
        assert "no landmarks" in page.refusal()["text"]
    assert upload(client, data).status_code == 422
