"""Which browser is taken, and what is said when there is none."""

import io
import os
import tarfile

import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds import browser_fetch, browser_find
from rlvr_lib.worlds.browser_fence import Fence
from rlvr_lib.worlds.browser_find import VARIABLE, find_browser, why_no_browser


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without a browser, in a folder of its own."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(browser_find, "MACHINE_WIDE", ())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_a_browser_the_remedy_is_named(bare):
    with pytest.raises(UserError, match=r"no Chromium.*rlvr get-browser.*apt-get install.*RLVR_BROWSER"):
        find_browser()
    assert "\n" not in why_no_browser()


def test_the_variable_comes_first_and_is_checked(bare, monkeypatch):
    program(bare / "bin" / "chromium")
    own = program(bare / "own" / "chrome")
    assert find_browser().program == bare / "bin" / "chromium" and why_no_browser() == ""
    monkeypatch.setenv(VARIABLE, str(own))
    assert find_browser().program == own
    monkeypatch.setenv(VARIABLE, str(bare / "absent"))
    with pytest.raises(UserError, match="RLVR_BROWSER names"):
        find_browser()


def test_playwrights_own_and_the_unpacked_package(bare):
    unpacked = program(bare / "node_modules/@sparticuz/chromium/unpacked/chromium")
    (unpacked.parent / "lib").mkdir()
    (unpacked.parent / "lib" / "libnss3.so").write_text("")
    (unpacked.parent / "fonts.conf").write_text("")
    found = find_browser()
    assert set(found.environment) == {"LD_LIBRARY_PATH", "FONTCONFIG_PATH"}
    own = program(bare / "cache/chromium-1200/chrome-linux64/chrome")
    assert find_browser().program == own and find_browser().environment == {}


def test_without_the_package(bare, monkeypatch):
    monkeypatch.setattr(browser_find.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="playwright is not installed"):
        find_browser()


def test_a_browser_is_fetched_by_the_first_way_that_works(bare, monkeypatch, capsys):
    def fails():
        raise UserError("no way")

    ways = {"one": fails, "two": lambda: program(bare / "bin" / "chromium"), "three": fails}
    monkeypatch.setattr(browser_fetch, "WAYS", ways)
    assert browser_fetch.fetch_browser() == bare / "bin" / "chromium"
    assert "trying two" in capsys.readouterr().out
    assert browser_fetch.fetch_browser() == bare / "bin" / "chromium"  # nothing is tried again
    (bare / "bin" / "chromium").unlink()
    monkeypatch.setattr(browser_fetch, "WAYS", {"one": fails})
    with pytest.raises(UserError, match=r"tried one \(no way\).*RLVR_BROWSER"):
        browser_fetch.fetch_browser()


def test_the_npm_package_is_unpacked_with_fonts(tmp_path):
    def inflate(path):
        if path.name == "chromium.br":
            return b"#!/bin/sh\n"
        folder, name = ("lib", "libnss3.so") if path.name.startswith("al2023") else ("fonts", "a.ttf")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(f"{folder}/{name}"))
        return buffer.getvalue()

    found = browser_fetch.unpack(tmp_path, tmp_path / "to & from", inflate)
    assert os.access(found, os.X_OK) and (found.parent / "lib" / "libnss3.so").is_file()
    assert "to &amp; from/fonts" in (found.parent / "fonts.conf").read_text()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://shop.test/",
        "http://shop.test:22/",
        "http://shop.test@evil.test/",
        "http://user@shop.test/",
        "http://evil.test/shop.test",
        "http://shop.test.evil.test/",
        "http://127.0.0.1/",
        "http://[::1",
        "ftp://shop.test/",
        "//shop.test/",
        "http://shop.test/" + "a" * 3000,
        "",
    ],
)
def test_the_fence_refuses(url):
    assert not Fence({"shop.test": 8000}).allows(url)


def test_the_fence_allows_and_names_what_it_cannot_hold():
    fence = Fence({"shop.test": 8000})
    assert fence.allows("http://shop.test/a?b=c#d") and fence.allows("http://shop.test")
    assert "MAP * ~NOTFOUND" in fence.switches[-1] and "127.0.0.1:8000" in fence.switches[-1]
    for hosts in ({"example.com": 80}, {"a,MAP *.test": 80}, {"shop.test": 0}):
        with pytest.raises(UserError):
            Fence(hosts)
